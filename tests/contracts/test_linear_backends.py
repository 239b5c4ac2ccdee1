"""Contract of the generic solvers: the same models, the same proven answers."""

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshwright.planner.solvers.base import backends
from meshwright.planner.solvers.linear_model import LinearModel
from meshwright.planner.solvers.result import Limits, Termination

BACKENDS = sorted(backends())
FREE = Limits()


def knapsack(values, weights, room):
    model = LinearModel()
    chosen = [model.binary(cost=-v) for v in values]
    model.add(((x, w) for x, w in zip(chosen, weights, strict=True)), high=room)
    return model


def brute_force(values, weights, room):
    best = 0
    for mask in range(1 << len(values)):
        picked = [i for i in range(len(values)) if mask >> i & 1]
        if sum(weights[i] for i in picked) <= room:
            best = max(best, sum(values[i] for i in picked))
    return best


@pytest.mark.parametrize("name", BACKENDS)
@settings(max_examples=15, deadline=None)
@given(
    items=st.lists(st.tuples(st.integers(1, 50), st.integers(1, 20)), min_size=1, max_size=7),
    room=st.integers(0, 60),
)
def test_proven_optimum_is_the_optimum(name, items, room):
    values, weights = zip(*items, strict=True)
    model = knapsack(values, weights, room)
    model.constant = 7.0
    found = backends()[name](model, FREE, 0)
    assert found.termination == Termination.OPTIMAL
    assert found.objective == found.bound == 7.0 - brute_force(values, weights, room)
    assert model.violation(found.value) <= 1e-6
    assert found.gap == 0.0 and found.solver == name and found.version


@pytest.mark.parametrize("name", BACKENDS)
def test_infeasible_is_said(name):
    model = LinearModel()
    x = model.variable(0, 3, cost=1)
    model.add([(x, 2)], low=7)
    found = backends()[name](model, FREE, 0)
    assert found.termination == Termination.INFEASIBLE and found.value is None


@pytest.mark.parametrize("name", BACKENDS)
def test_equality_repeated_terms_and_negative_bounds(name):
    model = LinearModel()
    x, y = model.variable(-5, 5, cost=1), model.variable(-5, 5, cost=3)
    model.add([(x, 1), (y, 1), (x, 1)], low=-4, high=-4)  # 2x + y = -4
    found = backends()[name](model, FREE, 0)
    assert found.value == (0.0, -4.0) or found.objective == -12.0
    assert found.objective == -12.0 - 0.0 or model.violation(found.value) == 0


@pytest.mark.parametrize("name", BACKENDS)
def test_a_limit_leaves_a_bound_below_the_objective(name):
    import random

    draw = random.Random(5)
    n, rows = 60, 25
    model = LinearModel()
    xs = [model.binary(cost=-draw.randint(50, 99)) for _ in range(n)]
    for _ in range(rows):
        model.add([(x, draw.randint(1, 60)) for x in xs], high=400)
    found = backends()[name](model, Limits(work=1), 0)
    again = backends()[name](model, Limits(work=1), 0)
    assert found.value == again.value and found.bound == again.bound
    assert found.bound <= found.objective
    if found.value is not None:
        assert model.violation(found.value) <= 1e-6
    assert found.report()["reproducible"]


def test_cpsat_refuses_what_it_cannot_hold():
    model = LinearModel()
    model.variable(0, 1, integer=False)
    with pytest.raises(ValueError, match="continuous"):
        backends()["cpsat"](model, FREE, 0)
    model = LinearModel()
    model.variable(0, 1, cost=0.5)
    with pytest.raises(ValueError, match="whole"):
        backends()["cpsat"](model, FREE, 0)


@pytest.mark.parametrize("order", ["cpsat,highs,cbc", "cbc,highs,cpsat", "highs,cpsat,cbc"])
def test_all_solvers_load_in_one_process(order):
    program = (
        "from meshwright.planner.solvers.base import backends\n"
        "from meshwright.planner.solvers.linear_model import LinearModel\n"
        "from meshwright.planner.solvers.result import Limits\n"
        "m = LinearModel(); x = m.variable(0, 9, cost=-1); m.add([(x, 2)], high=11)\n"
        f"print([backends()[n](m, Limits(), 0).objective for n in {order!r}.split(',')])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[-5.0, -5.0, -5.0]"
