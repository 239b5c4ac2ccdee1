"""Refinement of plans: fits, beats even stages where it says so, repeats, and stays within what a framework can say."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import pytest

from meshwright.costmodels.layer_costs import layer_costs
from meshwright.costmodels.load_model import load_model
from meshwright.costmodels.load_software import default_software
from meshwright.costmodels.parallel import LayerSplit, ParallelConfig, Recompute, Schedule
from meshwright.costmodels.stage_layout import layout_of
from meshwright.costmodels.stage_pricing import price_stages
from meshwright.costmodels.training import estimate
from meshwright.costmodels.workload import Workload
from meshwright.hardware_profiles.errors import InvalidProblemError
from meshwright.hardware_profiles.load import load_cluster
from meshwright.planner import PlanningProblem
from meshwright.planner.anatomy import single_plan
from meshwright.planner.emitters import get
from meshwright.planner.plan import Plan, PlanSet, SearchReport
from meshwright.planner.plan_json import SCHEMA_PATH, from_json, to_json
from meshwright.planner.rank import fits
from meshwright.planner.refine_stages import RefinedStages, refine_stages, refined_plan
from meshwright.planner.solvers.partition_balance import balance_stages, stage_times
from meshwright.planner.solvers.partition_dp import PartitionDp
from meshwright.planner.solvers.result import Limits, Termination
from meshwright.planner.stage_problem import (
    UNIT_BYTES,
    Choice,
    StageRules,
    memory_limit_bytes,
    objective_weights,
    partition_problem,
)

jsonschema = pytest.importorskip("jsonschema")
FULL = int(Recompute.FULL)


@lru_cache
def problem(model: str, nodes: int, batch: int, framework: str = "megatron-lm", seq_len: int = 4096) -> PlanningProblem:
    cluster = load_cluster("dgx-h100", nodes=nodes)
    return PlanningProblem(
        model=load_model(model), cluster=cluster, workload=Workload(seq_len=seq_len, global_batch=batch),
        software=default_software("torchtitan" if framework == "torchtitan" else "megatron-lm", cluster.gpu),
        framework=framework,
    )  # fmt: skip


def refined(p: PlanningProblem, **config: Any) -> tuple[Plan, RefinedStages]:
    plan = single_plan(p, ParallelConfig(**({"sequence_parallel": 1} | config)))
    return plan, refine_stages(p, plan)


def plan_set(p: PlanningProblem, plan: Plan) -> PlanSet:
    provenance = {"tool": "t", "tool_version": "0", "profile_sha256": "0"}
    return PlanSet(problem=p, plans=(plan,), search=SearchReport(enumerated=1), provenance=provenance)


NEMOTRON = problem("nemotron-4-340b", 16, 768)


def test_a_large_vocabulary_takes_layers_off_the_last_stage() -> None:
    p = problem("nemotron-4-340b", 32, 768)
    plan, found = refined(p, tp=8, cp=2, pp=8, dp=2)
    assert found.changed and 0.005 < found.gain < 0.05 and found.gain == found.saved
    ranked = estimate(p.model, p.workload, plan.config, p.cluster, p.software)
    assert found.even_step_s == pytest.approx(float(ranked.step_s), rel=1e-9)
    assert found.layout.stage_layers[-1] < min(found.layout.stage_layers[1:-1]) <= 13
    assert found.solve is not None and found.solve.termination == Termination.OPTIMAL
    assert bool(fits(p, found.estimate.peak_bytes))
    assert found.config == replace(plan.config, layer_split=int(LayerSplit.LAYOUT))
    assert "layers" in found.reason and found.reason.count(".") <= 1


def test_fewer_layers_recompute_where_the_first_stages_are_shorter() -> None:
    p = NEMOTRON
    plan, found = refined(p, tp=8, cp=2, pp=8, dp=1, recompute=FULL, recompute_layers=9)
    assert found.before_fits and found.changed
    assert sum(found.layout.recompute) < 9 * 8
    assert found.layout.leading_recompute == found.config.recompute_layers > 0
    assert found.layout.stage_layers[0] < found.layout.stage_layers[-2]
    assert 0 < found.per_layer_step_s <= found.refined_step_s
    assert "layer by layer" in found.reason
    # every layer on its own, where the framework lets it
    free = refine_stages(replace(p, framework="any"), plan)
    assert free.refined_step_s == pytest.approx(found.per_layer_step_s)
    assert sum(free.layout.recompute) < sum(found.layout.recompute)


def test_the_kernel_proves_even_stages_best_where_they_are() -> None:
    p = problem("llama-3.1-405b", 64, 512, seq_len=8192)
    _, found = refined(p, tp=8, cp=2, pp=16, dp=2, layer_split=int(LayerSplit.EMBEDDING_AND_LOSS_COUNT))
    assert not found.changed and found.gain == 0 and found.solve is None
    assert found.reason.startswith("even stages stay")


@pytest.mark.parametrize(
    ("framework", "config", "words"),
    [
        ("megatron-lm", {"tp": 8, "dp": 16}, "one stage"),
        ("deepspeed", {"tp": 8, "pp": 8, "dp": 2}, "deepspeed cannot deal"),
        ("pytorch", {"tp": 8, "pp": 8, "dp": 2}, "pytorch cannot deal"),
        ("any", {"tp": 8, "pp": 8, "dp": 2, "vp": 2, "schedule": int(Schedule.ZERO_BUBBLE_V)}, "V schedule"),
    ],
)
def test_where_nothing_can_be_refined(framework: str, config: dict[str, int], words: str) -> None:
    plan, found = refined(replace(NEMOTRON, framework=framework), **config)
    assert not found.changed and words in found.reason and found.refined_step_s == found.plan_step_s
    kept = refined_plan(NEMOTRON, plan, found)
    assert kept.stage_layout is None and kept.reasons[-1] == found.reason


def test_a_split_vocabulary_has_no_layout() -> None:
    p = replace(NEMOTRON, framework="any")
    plan = single_plan(p, ParallelConfig(tp=8, pp=8, dp=2, sequence_parallel=1, vocab_parallel=1))
    with pytest.raises(InvalidProblemError, match="vocab_parallel"):
        refine_stages(p, plan)


def test_layers_balanced_in_advance_gain_less() -> None:
    p = replace(problem("nemotron-4-340b", 32, 768), framework="any")
    gains = [refined(p, tp=8, cp=2, pp=8, dp=2, layer_split=split)[1].gain for split in (0, int(LayerSplit.BALANCED))]
    assert gains[0] > 0.005 and gains[1] < 0.5 * gains[0]


def test_it_repeats_and_a_small_budget_still_answers() -> None:
    p = NEMOTRON
    plan, one = refined(p, tp=8, cp=2, pp=8, dp=1, recompute=FULL, recompute_layers=9)
    again, short = refine_stages(p, plan), refine_stages(p, plan, Limits(work=1))
    assert (one.layout, one.refined_step_s, one.reason) == (again.layout, again.refined_step_s, again.reason)
    assert one.refined_step_s <= short.refined_step_s <= short.plan_step_s


@pytest.mark.parametrize("vp", [2, 4])
def test_interleaved_chunks_stay_no_larger(vp: int) -> None:
    p = problem("nemotron-4-340b", 32, 768)
    _, found = refined(p, tp=8, cp=2, pp=8, vp=vp, dp=2)
    assert found.layout.vp == vp and found.refined_step_s <= found.even_step_s
    assert bool(fits(p, found.estimate.peak_bytes))


def test_a_refined_plan_goes_through_json_and_launch_files() -> None:
    p = NEMOTRON
    plan, found = refined(p, tp=8, cp=2, pp=8, dp=1, recompute=FULL, recompute_layers=9)
    better = refined_plan(p, plan, found)
    assert better.stage_layout == found.layout and better.stage_layers == found.layout.stage_layers
    assert better.metrics["step_s"] == pytest.approx(found.refined_step_s)
    text = to_json(plan_set(p, better))
    jsonschema.validate(json.loads(text), json.loads(SCHEMA_PATH.read_text()))
    back = from_json(text)
    assert back.plans[0].stage_layout == found.layout and to_json(back) == text
    assert get("megatron-lm").refuse(plan_set(p, better), better) is None


def test_even_stages_that_recompute_less_need_no_layout() -> None:
    # sixteen stages of six layers: all of them recompute although four would do
    p = problem("nemotron-4-340b", 16, 768)
    plan, found = refined(p, tp=8, pp=16, dp=1, recompute=FULL, recompute_layers=6)
    assert found.changed and found.even_step_s < 0.97 * found.plan_step_s
    kept = replace(found, solve=None, layout=found.even_layout, estimate=found.even)
    better = refined_plan(p, plan, kept)
    assert better.stage_layout is None and better.metrics["step_s"] == pytest.approx(found.even_step_s)


def test_torchtitan_keeps_a_layer_on_every_part() -> None:
    p = problem("nemotron-4-15b", 8, 256, "torchtitan")
    plan, found = refined(p, tp=2, pp=4, dp=8, zero_stage=2, recompute=FULL)
    assert all(chunk.layers for chunk in found.layout.flat)
    assert found.changed and all(found.layout.recompute)
    better = refined_plan(p, plan, found)
    assert get("torchtitan").refuse(plan_set(p, better), better) is None


# -- the partition problem behind it ------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("model", "config"),
    [
        ("nemotron-4-340b", {"tp": 8, "pp": 8, "dp": 2}),
        ("nemotron-4-340b", {"tp": 8, "pp": 8, "dp": 2, "vp": 3, "zero_stage": 0}),
        ("llama-3.1-405b", {"tp": 8, "pp": 16, "dp": 2, "zero_stage": 1, "micro_batch_size": 2}),
        ("deepseek-v3", {"ep": 8, "pp": 16, "dp": 16, "zero_stage": 1, "layer_split": 2}),
        ("mixtral-8x22b", {"ep": 8, "pp": 4, "dp": 16, "zero_stage": 2}),
    ],
)
def test_units_say_what_the_cost_model_says(model: str, config: dict[str, int]) -> None:
    p = problem(model, 32, 768)
    c = ParallelConfig(sequence_parallel=int(config.get("tp", 1) > 1), **{k: v for k, v in config.items()})
    costs = layer_costs(p.model, p.workload, p.cluster, p.software, c)
    posed = partition_problem(p, c, costs, StageRules(Choice.FREE))
    # memory bounded only for the fit: any cut will do
    roomy = replace(posed, capacity=tuple(10**9 for _ in posed.capacity), update=(0,) * posed.n)
    value = PartitionDp().solve(roomy).value
    assert value is not None
    flags = [value.modes[i] == 1 for i in range(1, p.model.n_layers + 1)]
    layout = layout_of(np.diff(value.cuts).tolist(), c.pp, p.model.n_layers, p.model.mtp_layers, flags)
    stages, priced = price_stages(p.model, p.workload, p.cluster, p.software, c, layout, costs)
    # seconds: the linear form is exact where the device sets the pace
    ticks = stage_times(posed, value)
    ratio = stages.whole_s / ticks
    assert ratio.min() == pytest.approx(ratio.max(), rel=1e-6)
    # bytes: never less than the ledger, and hardly more
    scale = np.array(posed.in_flight) / stages.in_flight
    need = posed.stage_need(value) - np.array(posed.capacity)
    bytes_ = need / scale * UNIT_BYTES + memory_limit_bytes(p)
    slack = bytes_ / stages.peak_bytes - 1.0
    assert slack.min() > -1e-9 and slack.max() < 0.02
    # objective: the same proportion of sum and maximum as the step has
    sums, largest = objective_weights(p, c, costs)
    if c.vp == 1:
        sweep = sums * ticks.sum() + largest * ticks.max()
        names = ("forward", "backward", "recompute", "host", "tp", "cp", "ep", "bubble")
        pipeline = sum(float(getattr(priced.time, f"{name}_s")) for name in names)
        assert sweep * ratio[0] / sums == pytest.approx(pipeline, rel=1e-6)


def test_the_memory_limit_is_where_plans_stop_to_fit() -> None:
    for p in (NEMOTRON, replace(NEMOTRON, max_memory_bytes=30e9)):
        limit = memory_limit_bytes(p)
        assert bool(fits(p, limit * 0.9999)) and not bool(fits(p, limit * 1.0001))


def test_balance_moves_single_pieces_and_keeps_the_largest_chunk() -> None:
    p = problem("nemotron-4-340b", 32, 768)
    c = ParallelConfig(tp=8, cp=2, pp=8, vp=4, dp=2, sequence_parallel=1)
    costs = layer_costs(p.model, p.workload, p.cluster, p.software, c)
    posed = partition_problem(p, c, costs, StageRules())
    start = PartitionDp().solve(posed).value
    assert start is not None
    cap = int(posed.chunk_times(start).max())
    moved = balance_stages(posed, start, cap)
    assert not posed.problems_of(moved)
    assert posed.chunk_times(moved).max() <= cap
    assert stage_times(posed, moved).max() <= stage_times(posed, start).max()
    assert balance_stages(posed, moved, cap) == moved
