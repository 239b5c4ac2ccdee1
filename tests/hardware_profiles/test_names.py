"""Names of users and of the measured tables."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest

from meshwright.hardware_profiles.errors import InvalidProblemError
from meshwright.hardware_profiles.load import gpu_assumption, resolve_gpu


@pytest.mark.parametrize(
    ("name", "memory_gb", "gpu"),
    [
        ("H100", 80, "h100-sxm-80gb"),
        ("H100", 94, "h100-nvl-94gb"),
        ("H100", 79.6, "h100-sxm-80gb"),
        ("H100 (96GB HBM2e, 500W)", 96, "h100-hbm2e-96gb"),
        ("h100-sxm-80gb", None, "h100-sxm-80gb"),
        ("NVIDIA H100 80GB HBM3", None, "h100-sxm-80gb"),
        ("NVIDIA A100-SXM4-40GB", None, "a100-sxm-40gb"),
        ("NVIDIA A100 80GB PCIe", None, "a100-pcie-80gb"),
        ("a100-80", None, "a100-sxm-80gb"),
        ("A100", 40, "a100-sxm-40gb"),
        ("Tesla V100-SXM2-16GB", None, "v100-sxm2-16gb"),
        ("H200", None, "h200-sxm-141gb"),
        ("H200-NVL", 141, "h200-nvl-141gb"),
        ("AMD Instinct MI300X", None, "mi300x-192gb"),
        ("MI250X (per GCD)", 64, "mi250x-gcd-64gb"),
        ("GeForce RTX 4090", None, "rtx-4090-24gb"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", None, "rtx-pro-6000-blackwell-96gb"),
    ],
)
def test_resolves(name: str, memory_gb: float | None, gpu: str) -> None:
    assert resolve_gpu(name, memory_gb) == gpu


@pytest.mark.parametrize(
    ("name", "memory_gb", "message"),
    [
        ("A100", None, "ambiguous; name one of a100-sxm-40gb, a100-sxm-80gb, a100-pcie-80gb"),
        ("H100", None, "ambiguous.*h100-pcie-80gb"),
        ("V100", None, "ambiguous"),
        ("A100", 64, "no kind with 64 GB"),
        ("A100-80GB", 40, "contradicts"),
        ("a100-sxm-40gb", 80, "contradicts"),
        ("H1000", None, "Did you mean h100"),
        ("abacus", None, "Unknown GPU 'abacus'"),
        ("  ", None, "No GPU name"),
        ("../gpus/h100-sxm-80gb.yaml", None, "Unknown GPU"),
    ],
)
def test_refuses(name: str, memory_gb: float | None, message: str) -> None:
    with pytest.raises(InvalidProblemError, match=message):
        resolve_gpu(name, memory_gb)


def test_an_assumed_name_says_why() -> None:
    assert "A100 or newer" in gpu_assumption("A100 or newer (README); 4 GPUs per node")
    assert gpu_assumption("H100") == ""


def test_every_gpu_of_the_measured_runs_resolves() -> None:
    beside = Path(__file__).resolve().parents[2].parent / "shared" / "data"
    runs = Path(os.environ.get("MESHWRIGHT_DATA", str(beside))) / "training_runs"
    if not runs.is_dir():
        pytest.skip(f"no measured runs at {runs}; set MESHWRIGHT_DATA to the folder that holds training_runs")
    seen = set()
    for path in sorted(runs.glob("*.csv")):
        with path.open(newline="") as file:
            seen |= {(row["gpu"], row["gpu_memory_gb"]) for row in csv.DictReader(file) if row["gpu"]}
    assert seen
    labels = {pair: resolve_gpu(pair[0], float(pair[1]) if pair[1] else None) for pair in seen}
    for (_, memory), gpu in labels.items():
        if memory:
            assert float(gpu.rsplit("-", 1)[1].removesuffix("gb")) == pytest.approx(float(memory), rel=0.04)
