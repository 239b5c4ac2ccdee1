"""Rows of one's own runs take their machine from the cluster, and may not contradict it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from meshwright.costmodels.load_model import load_model
from meshwright.costmodels.load_software import load_era
from meshwright.hardware_profiles.errors import InvalidProblemError
from meshwright.planner.validate.backtest import predict_runs
from meshwright.planner.validate.row_problem import row_problem
from meshwright.planner.validate.runs import Run
from meshwright.planner.validate.site import ANY_FILE, load_site, placed

CELLS = {
    "model_name": "llama-3.1-8b", "framework": "Megatron-LM", "n_gpus": "16", "seq_len": "4096", "micro_batch": "1",
    "global_batch_sequences": "64", "tp": "2", "pp": "1", "cp": "1", "sp": "1", "zero_stage_or_fsdp": "zero1",
    "recompute": "none", "precision": "bf16", "step_time_s": "2.0",
}  # fmt: skip


def run(**changes: str) -> Run:
    return Run("my.csv", 2, {**CELLS, **changes})


def problem(**changes: str) -> Any:
    site = load_site("dgx-h100")
    return row_problem(placed(run(**changes), site), site)


def test_the_machine_is_the_clusters() -> None:
    row = problem()
    assert row.cluster.gpu.name == "h100-sxm-80gb" and row.cluster.n_gpus == 16 and row.cluster.nodes == 2
    assert row.cluster.tiers == load_site("dgx-h100").cluster_of(16).tiers
    assert not row.assumed


def test_throughput_follows_from_the_step_time() -> None:
    site = load_site("dgx-h100")
    assert placed(run(), site).number("tps_gpu_effective") == pytest.approx(64 * 4096 / 2.0 / 16)
    assert placed(run(tps_gpu_effective="1"), site).number("tps_gpu_effective") == 1.0


@pytest.mark.parametrize(
    ("cells", "era"),
    [
        ({}, "megatron-core-2025"),
        ({"year": "2024"}, "megatron-lm-2024"),
        ({"framework": "TorchTitan", "notes": "torch.compile"}, "torchtitan-2025"),
        ({"framework": "DeepSpeed"}, "deepspeed-2025"),
    ],
)
def test_a_run_without_a_year_is_of_the_current_release(cells: dict[str, str], era: str) -> None:
    assert problem(**cells).software.name == era


def test_the_release_can_be_named_for_all() -> None:
    site = load_site("dgx-h100", era=load_era("megatron-lm-2024"))
    row = row_problem(placed(run(framework="", year=""), site), site)
    assert row.software.name == "megatron-lm-2024" and "software" not in row.assumed


def test_the_model_of_a_file_goes_before_that_of_all() -> None:
    llama, gpt = load_model("llama-3.1-8b"), load_model("gpt3-175b")
    site = load_site("dgx-h100", models={ANY_FILE: gpt, "my.csv": llama})
    assert row_problem(placed(run(model_name="mine"), site), site).model == llama
    with pytest.raises(InvalidProblemError, match="hidden is 4096"):
        placed(Run("other.csv", 3, {**CELLS, "hidden": "4096"}), site)


def test_gradients_are_as_plan_takes_them() -> None:
    assert problem().workload.grad_dtype_bytes == 4.0
    assert problem(notes="grads=bf16").workload.grad_dtype_bytes == 2.0


def test_a_garbled_cell_costs_its_row_alone() -> None:
    site = load_site("dgx-h100")
    runs = [placed(r, site) for r in (run(n_gpus="many"), run())]
    bad, good = predict_runs(runs, site=site).rows
    assert (bad.status, good.status) == ("skipped", "ok")
    assert "n_gpus is 'many'" in bad.reason


def test_a_gpu_of_ones_own(tmp_path: Path) -> None:
    from meshwright.hardware_profiles.load import GPU_DIR

    inline = GPU_DIR.joinpath("h100-sxm-80gb.yaml").read_text(encoding="utf-8")
    body = "\n".join(f"  {line}" for line in inline.splitlines()).replace("name: h100-sxm-80gb", "name: h100-mine")
    path = tmp_path / "mine.yaml"
    tiers = "tiers:\n  - {kind: nvlink, domain_gpus: 8, gbytes_per_s_per_gpu: 450}\n"
    tiers += "  - {kind: roce, gbytes_per_s_per_gpu: 25}\n"
    path.write_text(f"name: mine\ngpus_per_node: 8\n{tiers}gpu:\n{body}\n", encoding="utf-8")
    site = load_site(str(path))
    assert row_problem(placed(run(gpu="H100-mine"), site), site).cluster.gpu.name == "h100-mine"
    with pytest.raises(InvalidProblemError, match=r"my.csv, line 2: gpu is 'A100-80GB', but mine has h100-mine"):
        placed(run(gpu="A100-80GB"), site)
