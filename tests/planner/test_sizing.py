"""A request over a range of nodes."""

import pytest

from meshwright.hardware_profiles.errors import InvalidProblemError, NoFeasiblePlanError
from meshwright.hardware_profiles.load import load_cluster
from meshwright.planner import plan, sizing
from meshwright.planner.infeasible import resized


def test_each_size_is_what_plan_finds_there(make_problem):
    p = make_problem(price_per_gpu_hour=2.0, tokens=1e12, global_batch=128)
    s = sizing(p, [4, 1, 2, 2])
    assert [x.nodes for x in s.points] == [1, 2, 4]
    for x in s.points:
        even = {"price_per_gpu_hour": 2.0, "tokens": 1e12, "global_batch": 128, "refine": "off"}
        alone = plan(make_problem(nodes=x.nodes, **even)).plans[0]
        assert x.plan.config == alone.config and x.days == pytest.approx(alone.metrics["days"])
        assert x.dollars == pytest.approx(alone.metrics["dollars"])
        assert x.gpus == 8 * x.nodes
    first = s.points[0]
    assert first.efficiency == 1.0
    for x in s.points[1:]:
        assert x.efficiency == pytest.approx(x.tokens_per_s / x.gpus / (first.tokens_per_s / first.gpus))


def test_the_objective_picks_the_size(make_problem):
    nodes = (1, 2, 4, 8, 16)
    fast = sizing(make_problem(global_batch=64), nodes)
    assert fast.points[fast.best].tokens_per_s == max(x.tokens_per_s for x in fast.points)
    cheap = sizing(make_problem(global_batch=64, objective="cost", price_per_gpu_hour=2.0), nodes)
    assert cheap.points[cheap.best].dollars_per_million_tokens == min(
        x.dollars_per_million_tokens for x in cheap.points
    )
    assert cheap.points[cheap.best].nodes < fast.points[fast.best].nodes
    with pytest.raises(InvalidProblemError, match="needs a price"):
        sizing(make_problem(objective="cost"), nodes)


def test_sizes_that_do_not_work_say_why(make_problem):
    p = make_problem("llama-3.1-70b", seq_len=8192, global_batch=64)
    s = sizing(p, (1, 8))
    assert s.points[0].plan is None and "memory" in s.points[0].reason
    assert s.points[1].plan is not None and s.points[1].efficiency == 1.0 and s.best == 1
    with pytest.raises(NoFeasiblePlanError, match="No size from 1 to 2"):
        sizing(p, (1, 2))
    pinned = make_problem(pins={"dp": (16,)})
    assert "does not divide" in sizing(pinned, (1, 2)).points[0].reason


def test_impossible_ranges(make_problem):
    for nodes in ((), (0, 1)):
        with pytest.raises(InvalidProblemError, match="at least 1"):
            sizing(make_problem(), nodes)


def test_another_way_to_make_the_cluster_can_be_given(make_problem):
    asked = []

    def make(n):
        asked.append(n)
        return load_cluster("dgx-h100", nodes=n)

    sizing(make_problem(), (1, 2), cluster_at=make)
    assert asked == [1, 2]


def test_resizing_equals_loading_at_that_size():
    for n in (1, 2, 64):
        assert resized(load_cluster("dgx-h100", nodes=4), n) == load_cluster("dgx-h100", nodes=n)
    assert resized(load_cluster("gb200-nvl72", nodes=36), 4) == load_cluster("gb200-nvl72", nodes=4)
