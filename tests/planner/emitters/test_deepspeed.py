"""DeepSpeed: the batch rule, strict keys, what the user's script is given, refusals."""

from __future__ import annotations

import json

import pytest
from sample_plans import LLAMA, MIXTRAL, plan_set

from meshwright.costmodels.parallel import CpComm, ParallelConfig, Recompute
from meshwright.costmodels.rules import violations
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


def test_zero_plus() -> None:
    value, _ = emitted(ParallelConfig(dp=8, zero_stage=3, hpz=4, quantized_weights=1, quantized_gradients=1))
    zero = value["zero_optimization"]
    assert zero["zero_hpz_partition_size"] == 4  # type: ignore[index]
    assert zero["zero_quantized_weights"] is zero["zero_quantized_gradients"] is True  # type: ignore[index]
    plain, _ = emitted(ParallelConfig(dp=8, zero_stage=3))
    assert not [key for key in plain["zero_optimization"] if "hpz" in key or "quantized" in key]  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["megatron-lm", "torchtitan", "pytorch", "accelerate"])
def test_other_frameworks_refuse_zero_plus(name: str) -> None:
    ps, plan = plan_set(LLAMA, ParallelConfig(dp=8, zero_stage=3, hpz=4, quantized_weights=1), framework="deepspeed")
    assert get(name).refuse(ps, plan) == "it has no ZeRO++ (hpZ over 4 ranks, qwZ)"


@pytest.mark.parametrize("zero_stage", [0, 2, 3])
@pytest.mark.parametrize("hpz", [0, 1, 2, 3, 4, 8])
@pytest.mark.parametrize("quantized", [(0, 0), (1, 0), (0, 1)])
def test_rules_and_refusals_of_zero_plus_agree(zero_stage: int, hpz: int, quantized: tuple[int, int]) -> None:
    weights, gradients = quantized
    config = ParallelConfig(
        dp=8, zero_stage=zero_stage, hpz=hpz, quantized_weights=weights, quantized_gradients=gradients
    )
    ps, plan = plan_set(LLAMA, config, framework="deepspeed")
    problem = ps.problem
    broken = violations(problem.model, problem.workload, problem.cluster, "deepspeed", config)
    refused = get("deepspeed").refuse(ps, plan)
    assert any(bool(mask) for mask in broken.values()) == (refused is not None), refused


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
