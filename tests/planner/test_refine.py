"""Ranked plans taken further: never slower, still feasible, the same every time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from meshwright.costmodels.stage_pricing import price_stages
from meshwright.hardware_profiles.errors import InvalidProblemError
from meshwright.planner import estimate_plan, explain, plan, why_not
from meshwright.planner.plan_json import from_json, to_json
from meshwright.planner.rank import evaluate
from meshwright.planner.refine import balanced_step_s
from meshwright.planner.search import explore


@pytest.fixture(scope="module")
def deepseek(make_problem):
    """Three chunks a stage cannot be even with 61 layers, and the head is heavy."""
    return make_problem("deepseek-v3", nodes=64, seq_len=4096, global_batch=2048)


@pytest.fixture(scope="module")
def refined(deepseek):
    return plan(deepseek)


def test_refined_plans_are_faster_than_the_best_with_even_stages(deepseek, refined):
    even = plan(replace(deepseek, refine="off"))
    assert refined.plans[0].metrics["step_s"] < even.plans[0].metrics["step_s"]
    assert refined.plans[0].stage_layout is not None and refined.search.refined > 0
    steps = [p.metrics["step_s"] for p in refined.plans]
    assert steps == sorted(steps) and [p.rank for p in refined.plans] == list(range(1, len(steps) + 1))
    for best, plain in zip(refined.plans, even.plans, strict=True):
        assert best.metrics["step_s"] <= plain.metrics["step_s"] * (1 + 1e-9)
    assert not even.search.refined and not any(p.refinements for p in even.plans)


def test_what_is_said_of_a_refined_plan_is_its_price(deepseek, refined):
    for p in refined.plans:
        assert p.metrics["p_fit"] >= deepseek.fit_confidence
        assert sum(p.stage_layers) == deepseek.model.n_layers
        assert sum(p.time_s.values()) == pytest.approx(p.metrics["step_s"])
        again = estimate_plan(deepseek, p.config, p.stage_layout).plans[0]
        assert again.metrics == pytest.approx(dict(p.metrics))
        for r in p.refinements:
            assert r.after_s == pytest.approx(p.metrics["step_s"]) and r.after_s <= r.before_s
            assert r.reason in p.reasons
    best = refined.plans[0]
    d = deepseek
    _, e = price_stages(d.model, d.workload, d.cluster, d.software, best.config, best.stage_layout)
    assert float(e.step_s) == pytest.approx(best.metrics["step_s"])


def test_same_request_same_bytes_and_back(deepseek, refined):
    text = to_json(refined)
    assert text == to_json(plan(deepseek))
    assert to_json(from_json(text)) == text
    assert "seconds" not in text


def test_a_time_limit_is_marked(deepseek):
    cut = plan(deepseek, time_limit_s=1e-9)
    assert not cut.search.reproducible and cut.search.refined == 0
    assert "time limit" in cut.search.optimality or not cut.search.refined


def test_what_cannot_beat_a_cutoff_is_left_alone(make_problem):
    """Nothing is refined where perfectly balanced stages would not do; a cutoff above all changes nothing."""
    problem = make_problem("llama-3.1-8b", nodes=3, seq_len=4096, global_batch=96, pins={"pp": (3,), "vp": (1,)}, top=1)
    best, none = plan(problem), plan(problem, cutoff_s=0.0)
    assert none.search.refined == 0 < best.search.refined
    assert none.plans[0].metrics["step_s"] == plan(replace(problem, refine="off")).plans[0].metrics["step_s"]
    assert best.plans[0].metrics["step_s"] < none.plans[0].metrics["step_s"]
    assert to_json(plan(problem, cutoff_s=1e9)) == to_json(best)


def test_pins_and_excludes_hold(deepseek):
    even_only = replace(deepseek, pins={"layer_split": (0, 1)})
    assert all(p.stage_layout is None and p.config.layer_split in (0, 1) for p in plan(even_only).plans)


def test_balanced_stages_are_never_slower_and_kept_where_there_is_no_pipeline(make_problem):
    p = make_problem("llama-3.1-8b", nodes=4, seq_len=4096, global_batch=128)
    (pool,), _ = explore(p)
    table = pool.table.take(np.flatnonzero(pool.fits)[:2000])
    priced = evaluate(p, table)
    bound = balanced_step_s(p, table, priced)
    assert (bound <= priced.step_s * (1 + 1e-12)).all() and (bound > 0).all()
    assert (bound[table.pp == 1] == priced.step_s[table.pp == 1]).all()


def test_frameworks_that_cannot_deal_layers_are_left_alone(make_problem):
    p = make_problem("llama-3.1-8b", nodes=2, seq_len=4096, global_batch=64, framework="deepspeed")
    found = plan(p)
    assert not found.search.refined and found.plans == plan(replace(p, refine="off")).plans


def test_full_is_no_worse_than_default(make_problem):
    p = make_problem("llama-3.1-8b", nodes=4, seq_len=4096, global_batch=128)
    default, full = plan(p), plan(replace(p, refine="full"))
    assert full.plans[0].metrics["step_s"] <= default.plans[0].metrics["step_s"] * (1 + 1e-9)
    assert full.search.refined >= default.search.refined
    with pytest.raises(InvalidProblemError, match="--refine"):
        replace(p, refine="much")


def test_questions_about_a_refined_plan(refined):
    assert explain(refined, 1).time
    c = refined.plans[0].config
    assert why_not(refined, {"pp": c.pp, "vp": c.vp, "tp": c.tp}).kind == "best"
