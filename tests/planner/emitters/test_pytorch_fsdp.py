"""Native PyTorch: the configuration beside ``train.py``, refusals, and a run of it where torch is installed."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from sample_plans import DEEPSEEK, LLAMA, MIXTRAL, plan_set

from meshwright.costmodels.model_spec import AttentionSpec, ModelSpec
from meshwright.costmodels.parallel import ParallelConfig, Recompute, Schedule
from meshwright.planner.emitters import LaunchOptions, get, write_bundle
from meshwright.planner.emitters.pytorch_fsdp import plan_config, stage_list
from meshwright.planner.plan import Plan, PlanSet

TINY = ModelSpec(
    name="tiny",
    family="llama",
    n_layers=4,
    hidden=64,
    ffn_hidden=160,
    vocab=512,
    attention=AttentionSpec(n_heads=4, n_kv_heads=2, head_dim=16, v_head_dim=16),
)


def made(model: ModelSpec = TINY, **config: object) -> tuple[PlanSet, Plan]:
    full = ParallelConfig(**{"zero_stage": 3, **config})  # type: ignore[arg-type]
    micro_batches = 8 // full.dp
    return plan_set(
        model,
        full,
        framework="pytorch",
        seq_len=64,
        precision="fp32",
        micro_batches=micro_batches,
        grad_dtype_bytes=4.0,
    )


def test_configuration() -> None:
    got = plan_config(*made(dp=4, dp_shard=2, tp=2, sequence_parallel=1, recompute=Recompute.FULL))
    assert (got["dp_replicate"], got["dp_shard"], got["tp"]) == (2, 2, 2)
    assert (got["recompute"], got["recompute_layers"]) == (True, 4)
    assert got["stages"] == [4]
    assert plan_config(*made(dp=4, zero_stage=0))["dp_shard"] == 1


def test_stage_order() -> None:
    assert stage_list(made(pp=2, vp=2)[1]) == [1, 1, 1, 1]
    ps, plan = plan_set(
        TINY, ParallelConfig(pp=2, vp=2, schedule=Schedule.ZERO_BUBBLE_V, zero_stage=2), stage_layers=(2, 2)
    )
    assert plan_config(ps, plan)["v_shaped"] is True


def test_the_script_is_python_and_carries_no_lint_marks() -> None:
    ps, plan = made(dp=2)
    bundle = get("pytorch").emit(ps, plan, LaunchOptions())
    text = bundle.files["train.py"]
    ast.parse(text)
    assert text.startswith('"""Trains')
    assert json.loads(bundle.files["plan_config.json"])["model"]["n_layers"] == 4


@pytest.mark.parametrize(
    ("model", "config", "word"),
    [
        (MIXTRAL, {"dp": 4}, "experts"),
        (DEEPSEEK, {"dp": 4}, "experts"),
        (LLAMA, {"dp": 4, "zero_stage": 1}, "ZeRO 1"),
        (LLAMA, {"dp": 2, "cp": 2}, "context"),
        (LLAMA, {"dp": 2, "tp": 2, "sequence_parallel": 1, "tp_overlap": 1}, "overlap"),
        (LLAMA, {"dp": 4, "recompute": Recompute.NORM}, "whole layers"),
        (LLAMA, {"tp": 16}, "key-value heads"),
    ],
)
def test_refusals(model: ModelSpec, config: dict[str, object], word: str) -> None:
    assert word in str(get("pytorch").refuse(*made(model, **config)))


@pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")
def test_layouts_train_alike_on_cpu(tmp_path: Path) -> None:
    """Two processes by tensor parallelism give the losses of one process, step by step."""
    losses = []
    for i, config in enumerate(({}, {"tp": 2, "sequence_parallel": 1})):
        ps, plan = made(**config)
        folder = tmp_path / str(i)
        write_bundle(get("pytorch").emit(ps, plan, LaunchOptions(train_iters=3)), folder)
        run = subprocess.run(
            [
                sys.executable,
                "-m",
                "torch.distributed.run",
                "--standalone",
                f"--nproc-per-node={plan.config.world_size}",
                str(folder / "train.py"),
                "--steps=3",
                "--exact-init",
            ],
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert run.returncode == 0, run.stderr[-3000:]
        losses.append(re.findall(r"loss ([\d.]+)", run.stdout))
    assert len(losses[0]) == 3
    assert losses[0] == losses[1]
