"""Every plan that a framework's ranking lists can be written for that framework."""

import pytest

from meshwright.cli.request import Request, build_problem
from meshwright.planner import emitters
from meshwright.planner.search import plan

FRAMEWORKS = ("megatron-lm", "torchtitan", "deepspeed", "pytorch")
CASES = (
    {"model": "llama-3.1-8b", "nodes": "2", "seq_len": 8192, "global_batch": 64},
    {"model": "llama-3.1-70b", "nodes": "8", "seq_len": 8192, "global_batch": 512},
    {"model": "qwen3-30b-a3b", "nodes": "4", "seq_len": 4096, "global_batch": 256},
)
SPARSE = ("qwen3-30b-a3b",)
OPTIONS = emitters.LaunchOptions(train_script="train.py")  # DeepSpeed starts a script of the user's own


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["model"])
def test_every_ranked_plan_can_be_exported(framework, case):
    if framework == "pytorch" and case["model"] in SPARSE:
        pytest.skip("the native PyTorch script builds dense transformers only; export says so")
    answer = plan(build_problem(Request(cluster="dgx-h100", framework=framework, top=40, **case)))
    emitter = emitters.get(framework)
    refused = {p.rank: emitter.refuse(answer, p) for p in answer.plans if emitter.refuse(answer, p)}
    assert not refused
    for ranked in answer.plans[:3]:
        assert emitter.emit(answer, ranked, OPTIONS).files
