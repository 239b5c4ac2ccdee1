from __future__ import annotations

from pathlib import Path

import pytest


def curve(value: float) -> str:
    fit = "{source: a table, n_rows: 12, mape: 0.05, rows_sha256: abc}"
    return f"{{coefficients: {{peak_fraction: {value}, floor_s: 2.0e-6}}, provenance: fitted, fit: {fit}}}"


def group(value: float) -> str:
    return (
        f"  gemm: {{bf16: {curve(value)}, fp16: {curve(value)}, fp8: {curve(value)}}}\n"
        f"  attention: {{flash2: {curve(value)}}}\n"
        f"  memory_bound: {curve(value)}\n"
        f"  collectives: {{nvlink/all_reduce: {curve(value)}, infiniband/all_reduce: {curve(value)}}}\n"
    )


@pytest.fixture
def curves_dir(tmp_path: Path) -> Path:
    """Curves of an own h100-sxm-80gb (gemm bf16 only), of hopper and of any."""
    folder = tmp_path / "curves"
    folder.mkdir()
    (folder / "h100-sxm-80gb.yaml").write_text(f"gemm: {{bf16: {curve(0.8)}}}\n")
    (folder / "defaults.yaml").write_text(f"hopper:\n  gemm: {{fp8: {curve(0.6)}}}\nany:\n{group(0.5)}")
    return folder
