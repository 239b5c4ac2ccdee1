"""A small table of runs and a cost model with a known answer, for tests that need no measured data."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

HEADER = (
    "source_id,framework,year,task,outcome,gpu,gpu_memory_gb,n_gpus,gpus_per_node,interconnect,model_name,n_layers,"
    "hidden,n_heads,n_kv_heads,ffn_hidden,vocab,seq_len,global_batch_sequences,micro_batch,tp,sp,pp,vp,cp,dp,"
    "zero_stage_or_fsdp,recompute,precision,peak_memory_gb,tps_gpu_effective,notes"
)
CELLS = {
    "source_id": "lab", "framework": "Megatron-LM", "year": "2022", "task": "pretrain", "outcome": "ok",
    "gpu": "A100-80GB", "gpu_memory_gb": "80", "n_gpus": "16", "gpus_per_node": "8",
    "interconnect": "8x200Gb/s HDR IB per node", "model_name": "gpt-small", "n_layers": "24", "hidden": "2048",
    "n_heads": "16", "n_kv_heads": "16", "ffn_hidden": "8192", "vocab": "51200", "seq_len": "2048",
    "global_batch_sequences": "64", "micro_batch": "2", "tp": "2", "sp": "0", "pp": "2", "vp": "1", "cp": "1",
    "dp": "4", "zero_stage_or_fsdp": "zero1", "recompute": "full", "precision": "bf16", "peak_memory_gb": "20",
    "tps_gpu_effective": "4000", "notes": "",
}  # fmt: skip


def row_text(**changes: str) -> str:
    """One CSV line; cells with a comma or a line break are quoted."""
    cells = {**CELLS, **changes}
    values = [cells[name] for name in HEADER.split(",")]
    return ",".join(f'"{v}"' if any(ch in v for ch in ',\n"') else v for v in values)


@pytest.fixture
def write_table(tmp_path: Path) -> Any:
    """Write lines under the header to a file and return its path."""

    def write(*lines: str, name: str = "lab.csv", header: str = HEADER) -> Path:
        path = tmp_path / name
        path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
        return path

    return write


class Memory(SimpleNamespace):
    """Two named parts are enough to tell the ways of counting apart."""

    cached_bytes = 0.0

    @property
    def total(self) -> Any:
        return self.tensors + self.context_bytes + self.slack_bytes


def toy_estimate(model: Any, workload: Any, config: Any, cluster: Any, software: Any) -> SimpleNamespace:
    """Step time proportional to tokens over GPUs, dearer with tp and recompute; memory falls with tp*pp."""
    c = config
    gpus = c.tp * c.cp * c.pp * c.dp
    tokens = workload.global_batch * workload.seq_len
    slow = 1.0 + 0.1 * np.log2(c.tp) + 0.05 * np.log2(c.pp) + 0.3 * (c.recompute == 32)
    rate = 4e3 * software.coefficient("gemm_derate") / 0.93
    step = tokens / gpus / rate * slow
    tensors = 40e9 * c.micro_batch_size / (c.tp * c.pp) * np.where(c.recompute == 32, 0.5, 1.0)
    memory = Memory(tensors=tensors, context_bytes=2e9 + 0.0 * tensors, slack_bytes=1e9 + 0.0 * tensors)
    peak = memory.total
    return SimpleNamespace(
        step_s=step,
        step_low_s=step / 1.1,
        step_high_s=step * 1.1,
        tokens_per_s_per_gpu=tokens / step / gpus,
        peak_bytes=peak,
        peak_low_bytes=peak * 0.9,
        peak_high_bytes=peak * 1.1,
        p_fit=(peak < cluster.gpu.memory_bytes) * 1.0,
        memory=memory,
    )
