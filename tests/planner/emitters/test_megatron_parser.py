"""Megatron-LM's own parser must accept what we emit, and refuse what breaks its rules.

Runs where MESHWRIGHT_MEGATRON names an unpacked megatron-core 0.19.2 wheel; MESHWRIGHT_MEGATRON_PYTHON is the
interpreter that has torch and triton (default: this one).
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings
from sample_plans import LLAMA, MIXTRAL, plan_set, random_plans

from meshwright.costmodels.load_model import list_models, load_model
from meshwright.costmodels.parallel import ParallelConfig
from meshwright.planner.emitters import LaunchOptions, get
from meshwright.planner.emitters.megatron_lm import environment
from meshwright.planner.plan import Plan, PlanSet

WHEEL = os.environ.get("MESHWRIGHT_MEGATRON", "")
PYTHON = os.environ.get("MESHWRIGHT_MEGATRON_PYTHON", sys.executable)
PLANS = int(os.environ.get("MESHWRIGHT_MEGATRON_PLANS", "150"))

pytestmark = pytest.mark.skipif(
    not WHEEL, reason="MESHWRIGHT_MEGATRON does not name an unpacked megatron-core 0.19.2 wheel"
)


def request(ps: PlanSet, plan: Plan, *extra: str) -> dict[str, Any]:
    groups = get("megatron-lm").groups(ps, plan, LaunchOptions())  # type: ignore[attr-defined]
    argv = [word for flags in groups.values() for flag in flags for word in flag]
    env: dict[str, str | None] = {"CUDA_DEVICE_MAX_CONNECTIONS": None}
    for line in environment(ps, plan):
        match = re.fullmatch(r"export (\w+)=(.*)", line)
        if match:
            env[match[1]] = shlex.split(match[2])[0]
    major = 10 if "blackwell" in ps.problem.cluster.gpu.architecture else 9
    return {"argv": [*argv, *extra], "world_size": plan.config.world_size, "env": env, "major": major}


def ask(requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    script = Path(__file__).with_name("megatron_verdicts.py")
    result = subprocess.run(
        [PYTHON, str(script), WHEEL],
        input="".join(json.dumps(r) + "\n" for r in requests),
        capture_output=True,
        text=True,
        timeout=570,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_random_plans_are_accepted() -> None:
    plans: list[tuple[PlanSet, Plan]] = []
    emitter = get("megatron-lm")

    @seed(20260101)
    @settings(max_examples=PLANS, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(random_plans())
    def collect(pair: tuple[PlanSet, Plan]) -> None:
        if emitter.refuse(*pair) is None:
            plans.append(pair)

    collect()
    assert len(plans) > PLANS // 2
    answers = ask([request(*pair) for pair in plans])
    refused = [(a["error"], p.config) for (_, p), a in zip(plans, answers, strict=True) if a["error"]]
    assert not refused, refused[:5]
    for (ps, plan), answer in zip(plans, answers, strict=True):
        attention = ps.problem.model.attention
        assert answer["dp"] == plan.config.dp
        assert answer["vp"] == plan.config.vp
        assert answer["layers"] == ps.problem.model.n_layers
        if attention.kind == "mha":
            assert answer["kv_heads"] == attention.n_kv_heads
        assert answer["sequence_parallel"] == bool(plan.config.sequence_parallel)
        assert answer["experts"] == (ps.problem.model.moe.n_experts if ps.problem.model.moe else 0)


def test_every_shipped_model_is_accepted() -> None:
    emitter, plans = get("megatron-lm"), []
    for name in list_models():
        model = load_model(name)
        pair = plan_set(model, ParallelConfig(dp=8), seq_len=min(2048, model.learned_positions or 2048))
        if emitter.refuse(*pair) is None:
            plans.append(pair)
    assert len(plans) > 50
    answers = ask([request(*pair) for pair in plans])
    refused = [(ps.problem.model.name, a["error"]) for (ps, _), a in zip(plans, answers, strict=True) if a["error"]]
    assert not refused


def test_the_parser_can_say_no() -> None:
    """If these passed, acceptance above would prove nothing."""
    good = plan_set(LLAMA, ParallelConfig(tp=4, pp=2, dp=4, sequence_parallel=1))
    moe = plan_set(MIXTRAL, ParallelConfig(dp=8, ep=8))
    bad = [
        request(*good, "--no-such-option"),
        request(*good, "--num-attention-heads", "30"),
        request(*good, "--num-layers", "33"),
        request(*good, "--recompute-granularity", "full"),
        request(*good) | {"world_size": 24},
        request(*good) | {"env": {"CUDA_DEVICE_MAX_CONNECTIONS": None}},
        request(*moe, "--expert-model-parallel-size", "3"),
    ]
    answers = ask([request(*good), request(*moe), *bad])
    assert [answer["error"] for answer in answers[:2]] == ["", ""]
    assert all(answer["error"] for answer in answers[2:]), answers


def test_mixed_plans_pass_the_parser() -> None:
    """Uneven layers over pools, with and without interleaving, and replicas in each pool."""
    from test_mixed import group, plans, stage

    from meshwright.planner.emitters.megatron_mixed import as_ordinary, order_flags
    from meshwright.planner.mixed.plan import REPLICAS

    cases = [
        plans(group([stage("a100", 8), stage("a100", 9), stage("h100", 15)])),
        plans(group([stage("a100", 8), stage("h100", 24)], vp=2)),
        plans(group([stage("a100", 16)] * 2, dp=1), group([stage("h100", 16)] * 2, dp=1), shape=REPLICAS),
    ]
    requests = [request(*as_ordinary(ps, plan), *(w for f in order_flags(plan) for w in f)) for ps, plan in cases]
    verdicts = ask(requests)
    assert [v["error"] for v in verdicts] == [""] * len(cases)
