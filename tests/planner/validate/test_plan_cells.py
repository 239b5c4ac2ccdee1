"""A plan written as cells of a table is read back as that plan."""

from __future__ import annotations

from dataclasses import replace

import pytest

from meshwright.costmodels.load_model import load_model
from meshwright.costmodels.parallel import ParallelConfig, Recompute
from meshwright.costmodels.workload import Workload
from meshwright.planner.validate.assumptions import expand
from meshwright.planner.validate.plan_cells import COLUMNS, cells_of
from meshwright.planner.validate.row_problem import row_problem
from meshwright.planner.validate.runs import Run
from meshwright.planner.validate.site import load_site, placed

DENSE = ParallelConfig(tp=2, pp=2, dp=4, vp=4, micro_batch_size=2, sequence_parallel=1, tp_overlap=1)
SPARSE = ParallelConfig(tp=2, dp=8, ep=8, etp=1, sequence_parallel=1, cp_comm=1, zero_stage=1)


@pytest.mark.parametrize(
    ("model", "config"),
    [
        ("llama-3.1-8b", DENSE),
        ("llama-3.1-8b", replace(DENSE, recompute=Recompute.FULL, recompute_layers=3)),
        ("llama-3.1-8b", replace(DENSE, recompute=Recompute.NORM | Recompute.FFN_ACTIVATION)),
        ("llama-3.1-8b", replace(DENSE, zero_stage=0, overlap_grad_reduce=0)),
        ("llama-3.1-8b", ParallelConfig(dp=16, zero_stage=3, dp_shard=8, optimizer_offload=1)),
        ("llama-3.1-8b", ParallelConfig(tp=2, cp=2, dp=4, cp_comm=2, sequence_parallel=1)),
        ("mixtral-8x7b", SPARSE),
    ],
)
@pytest.mark.parametrize("grad_bytes", [2.0, 4.0])
def test_round_trip(model: str, config: ParallelConfig, grad_bytes: float) -> None:
    spec = load_model(model)
    workload = Workload(
        seq_len=4096, global_batch=64, precision="fp8", optimizer="adam_bf16", grad_dtype_bytes=grad_bytes
    )
    cells = cells_of(spec, workload, config)
    assert set(cells) <= set(COLUMNS)
    site = load_site("dgx-h100")
    row = row_problem(placed(Run("x.csv", 2, {**cells, "framework": "Megatron-LM"}), site), site)
    assert row.model == spec and row.workload == workload and row.n_gpus == 16
    table = expand(row)
    assert len(table) == 1 and table.row(0) == config
    assert not row.assumed
