"""Contract of the solvers of uneven pipelines: every exact one proves the optimum that brute force finds."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshwright.planner.solvers.mixed_stages import StageSplit, solvers
from meshwright.planner.solvers.result import Limits, Termination

NAMES = list(solvers())


@st.composite
def splits(draw, *, convex=None):
    stages, units = draw(st.integers(1, 4)), draw(st.integers(1, 7))
    convex = draw(st.booleans()) if convex is None else convex
    steps = np.array([[draw(st.integers(0, 40)) for _ in range(units)] for _ in range(stages)], dtype=np.int64)
    if convex:
        steps.sort(axis=1)
    base = np.array([[draw(st.integers(0, 30))] for _ in range(stages)])
    end_steps = np.array([[draw(st.integers(0, 60)) for _ in range(units)] for _ in range(stages)])
    return StageSplit(
        cycle=np.concatenate([base, base + steps.cumsum(axis=1)], axis=1),
        end=np.concatenate([np.zeros((stages, 1), dtype=np.int64), end_steps.cumsum(axis=1)], axis=1),
        least=np.array([draw(st.integers(0, 1)) for _ in range(stages)]),
        most=np.array([draw(st.integers(1, units)) for _ in range(stages)]),
        units=units,
        pace=draw(st.integers(0, 9)),
        end_weight=draw(st.integers(0, 3)),
    )


def brute_force(p):
    ranges = [range(int(a), int(b) + 1) for a, b in zip(p.least, p.most, strict=True)]
    costs = [p.cost(u) for u in product(*ranges) if sum(u) == p.units]
    return min(costs, default=None)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=20, deadline=None)
@given(problem=splits())
def test_every_solver_proves_the_optimum(name, problem):
    best = brute_force(problem)
    found = solvers()[name].solve(problem)
    if best is None:
        assert found.termination == Termination.INFEASIBLE and found.value is None
        return
    assert found.termination == Termination.OPTIMAL
    assert found.objective == found.bound == best == problem.cost(found.value)


@settings(max_examples=200, deadline=None)
@given(problem=splits())
def test_own_kernel_against_brute_force(problem):
    best = brute_force(problem)
    found = solvers()["threshold"].solve(problem)
    assert (found.value is None) == (best is None)
    if best is not None:
        assert found.objective == best


@settings(max_examples=60, deadline=None)
@given(problem=splits(), work=st.integers(1, 4))
def test_a_limit_leaves_a_bound_below_the_optimum(problem, work):
    best = brute_force(problem)
    found = solvers()["threshold"].solve(problem, Limits(work=work))
    if best is not None:
        assert found.bound <= best <= found.objective
    assert found.value is None or problem.cost(found.value) == found.objective


def test_an_interrupt_keeps_the_best(monkeypatch):
    from meshwright.planner.solvers import mixed_stages

    count = 0
    plain = mixed_stages._Search.fill

    def interrupted(self, room):
        nonlocal count
        count += 1
        if count == 3:
            raise KeyboardInterrupt
        return plain(self, room)

    monkeypatch.setattr(mixed_stages._Search, "fill", interrupted)
    cycle = np.arange(0, 90, 10)[None, :] * np.array([[1], [3]])
    problem = StageSplit(
        cycle=cycle, end=cycle[::-1].copy(), least=np.array([1, 1]), most=np.array([8, 8]), units=8, pace=5
    )
    found = mixed_stages.ThresholdSplit().solve(problem)
    assert found.value is not None and found.termination == Termination.FEASIBLE_AT_LIMIT
    assert found.bound <= found.objective
