"""What a request may not say, each with one sentence."""

from dataclasses import replace

import pytest

from meshwright.hardware_profiles.errors import InvalidProblemError, MeshwrightError

WRONG = [
    ({"framework": "megatron"}, "Did you mean megatron-lm"),
    ({"objective": "speed"}, "Objective 'speed' is unknown"),
    ({"allow": ("fp4",)}, "--allow 'fp4' is unknown"),
    ({"pins": {"tensor": (2,)}}, "Unknown field 'tensor' in pin"),
    ({"pins": {"tp": (0,)}}, "pin tp=0"),
    ({"pins": {"tp": (2.5,)}}, "pin tp=2.5"),
    ({"pins": {"tp": ()}}, "lists no value"),
    ({"pins": {"zero_stage": (-1,)}}, "pin zero_stage=-1"),
    ({"excludes": ({"micro_batch": 2},)}, "Did you mean micro_batch_size"),
    ({"excludes": ({},)}, "names no field"),
    ({"top": 0}, "top"),
    ({"fit_confidence": 1.0}, "between 0 and 1"),
    ({"max_memory_bytes": -1.0}, "memory cap"),
    ({"price_per_gpu_hour": float("nan")}, "price"),
    ({"tokens": float("inf")}, "tokens"),
    ({"seq_len": 0}, "sequence length"),
    ({"global_batch": -8}, "global batch"),
    ({"global_batch": 1.5}, "global batch"),
    ({"precision": "int4"}, "Precision 'int4' is unknown"),
    ({"cluster": "dgx-a100-80", "precision": "fp8"}, "has no fp8 matrix peak"),
]


@pytest.mark.parametrize(("changes", "words"), WRONG, ids=[w for _, w in WRONG])
def test_wrong_requests(make_problem, changes, words):
    with pytest.raises(MeshwrightError) as caught:
        if changes.get("framework"):
            replace(make_problem(), **changes)
        else:
            make_problem(**changes)
    assert words in str(caught.value) and caught.value.exit_code == 2 and "\n" not in str(caught.value)


def test_wrong_workloads(make_problem):
    p = make_problem()
    for changes, words in (
        ({"optimizer": "sgd"}, "Optimizer 'sgd'"),
        ({"task": "dpo"}, "Task 'dpo'"),
        ({"task": "lora"}, "LoRA rank"),
        ({"balance": 0.5}, "balance"),
        ({"token_drop": -1.0}, "token_drop"),
    ):
        with pytest.raises(InvalidProblemError, match=words):
            replace(p, workload=replace(p.workload, **changes))


def test_limits_and_precisions(make_problem):
    p = make_problem(allow=("fp8", "nvfp4", "offload"))
    assert p.precisions == ("bf16", "fp8")  # an H100 has no FP4 units
    assert p.memory_limit_bytes == p.cluster.gpu.memory_bytes
    assert make_problem(max_memory_bytes=1e9).memory_limit_bytes == 1e9
    assert make_problem(max_memory_bytes=1e15).memory_limit_bytes == p.cluster.gpu.memory_bytes
