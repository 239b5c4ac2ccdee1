"""DeepSpeed: the batch rule, strict keys, what the user's script is given, refusals."""

from __future__ import annotations

import json

import pytest
from sample_plans import LLAMA, MIXTRAL, plan_set

from meshwright.costmodels.parallel import CpComm, ParallelConfig, Recompute
from meshwright.hardware_profiles.errors import InvalidProblemError
from meshwright.planner.emitters import LaunchOptions, get

OPTIONS = LaunchOptions(train_script="train.py")
#: DeepSpeed ignores a misspelt top-level key, so the spelling is checked here (0.19.8, runtime/constants.py).
TOP_LEVEL = frozenset(
    {
        "train_batch_size",
        "train_micro_batch_size_per_gpu",
        "gradient_accumulation_steps",
        "gradient_clipping",
        "steps_per_print",
        "wall_clock_breakdown",
        "optimizer",
        "zero_optimization",
        "data_types",
        "bf16",
        "fp16",
        "tensor_parallel",
        "sequence_parallel_size",
    }
)


def emitted(config: ParallelConfig, model: object = LLAMA, **more: object) -> tuple[dict[str, object], str]:
    ps, plan = plan_set(model, config, framework="deepspeed", **more)  # type: ignore[arg-type]
    files = get("deepspeed").emit(ps, plan, OPTIONS).files
    return json.loads(files["ds_config.json"]), files["launch.sh"]


@pytest.mark.parametrize(
    "config",
    [
        ParallelConfig(dp=8, zero_stage=0, micro_batch_size=2),
        ParallelConfig(dp=8, zero_stage=1),
        ParallelConfig(dp=4, tp=2, zero_stage=2),
        ParallelConfig(dp=4, cp=2, zero_stage=3, cp_comm=CpComm.ULYSSES),
        ParallelConfig(dp=4, pp=2, zero_stage=1),
    ],
)
def test_batch_rule(config: ParallelConfig) -> None:
    value, _ = emitted(config)
    assert value["train_batch_size"] == (
        value["train_micro_batch_size_per_gpu"] * value["gradient_accumulation_steps"] * config.dp  # type: ignore[operator]
    )
    assert set(value) <= TOP_LEVEL
    assert value["zero_optimization"]["stage"] == config.zero_stage  # type: ignore[index]


def test_modes() -> None:
    value, text = emitted(ParallelConfig(dp=8, zero_stage=2, optimizer_offload=1, recompute=Recompute.FULL))
    assert value["zero_optimization"]["offload_optimizer"]["device"] == "cpu"  # type: ignore[index]
    assert value["bf16"] == {"enabled": True}
    assert "--gradient-checkpointing" in text
    value, text = emitted(ParallelConfig(dp=4, tp=2, zero_stage=1), precision="fp16")
    assert value["tensor_parallel"] == {"autotp_size": 2}
    assert "bf16" not in value
    _, text = emitted(ParallelConfig(dp=8, ep=4, zero_stage=1), model=MIXTRAL)
    assert "--expert-parallel-size 4" in text


def test_needs_a_script() -> None:
    ps, plan = plan_set(LLAMA, ParallelConfig(dp=8), framework="deepspeed")
    with pytest.raises(InvalidProblemError, match="--train-script"):
        get("deepspeed").emit(ps, plan, LaunchOptions())


@pytest.mark.parametrize(
    ("config", "more", "word"),
    [
        ({"dp": 4, "pp": 2, "vp": 2}, {}, "1F1B"),
        ({"dp": 4, "pp": 2, "zero_stage": 2}, {}, "ZeRO 2"),
        ({"dp": 4, "tp": 2, "zero_stage": 3}, {}, "stage 2"),
        ({"dp": 4, "cp": 2}, {}, "Ulysses"),
        ({"dp": 8, "dp_shard": 4}, {}, "groups"),
        ({"dp": 8}, {"precision": "fp8"}, "fp8"),
        ({"dp": 8}, {"optimizer": "adam_8bit"}, "adam_8bit"),
        ({"dp": 8, "recompute": Recompute.CORE_ATTENTION}, {}, "all layers or none"),
        ({"dp": 8, "zero_stage": 0, "optimizer_offload": 1}, {}, "offload"),
    ],
)
def test_refusals(config: dict[str, int], more: dict[str, object], word: str) -> None:
    ps, plan = plan_set(LLAMA, ParallelConfig(**config), framework="deepspeed", **more)  # type: ignore[arg-type]
    assert word in str(get("deepspeed").refuse(ps, plan))
