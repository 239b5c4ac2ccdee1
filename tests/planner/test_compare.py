"""Two plans side by side."""

import pytest

from meshwright.costmodels.parallel import CONFIG_FIELDS
from meshwright.planner import compare, plan


def test_differences_are_b_minus_a_largest_first(make_problem):
    found = plan(make_problem(nodes=2)).plans
    a, b = found[0], found[5]
    c = compare(a, b)
    assert {n for n, _, _ in c.fields} == {n for n in CONFIG_FIELDS if getattr(a.config, n) != getattr(b.config, n)}
    assert all(getattr(a.config, n) == x != y == getattr(b.config, n) for n, x, y in c.fields) and c.fields
    assert sum(d.change for d in c.time) == pytest.approx(b.metrics["step_s"] - a.metrics["step_s"], abs=1e-9)
    assert sum(d.change for d in c.memory) == pytest.approx(b.metrics["peak_bytes"] - a.metrics["peak_bytes"])
    for parts in (c.time, c.memory):
        sizes = [abs(d.change) for d in parts]
        assert sizes == sorted(sizes, reverse=True)
    assert f"{b.metrics['step_s'] / a.metrics['step_s'] - 1:+.1%} step time" in c.sentence


def test_a_plan_differs_from_itself_in_nothing(make_problem):
    best = plan(make_problem()).plans[0]
    c = compare(best, best)
    assert c.fields == () and all(d.change == 0 for d in (*c.metrics, *c.time, *c.memory))
