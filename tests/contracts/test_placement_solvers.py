"""Contract of the placement solvers: the same proven optimum from all of them (ours enumerates small problems)."""

import numpy as np
import pytest

from meshwright.planner.solvers.placement import OBJECTIVES, PlacementProblem, solvers
from meshwright.planner.solvers.result import Limits, Termination

NAMES = list(solvers())


def ring_and_pipelines(seed, objective, nodes=5):
    """Two stages of two slots on ``nodes`` nodes with random links that differ by direction."""
    cost = np.random.default_rng(seed).uniform(1e-11, 9e-11, (nodes, nodes))
    np.fill_diagonal(cost, 0.0)
    return PlacementProblem(
        n_slots=4,
        cost=cost,
        edges=np.array([(0, 1), (1, 0), (2, 3), (3, 2), (0, 2), (2, 0), (1, 3), (3, 1)]),
        n_bytes=np.array([4e9] * 4 + [2e9] * 4),
        row_starts=np.array([0, 1, 2, 3, 4, 6]),
        term_starts=np.array([0, 4]),
        terms=("dp", "pp"),
        objective=objective,
    )


def test_ours_comes_first():
    assert NAMES[0] == "annealing" and set(NAMES) == {"annealing", "cpsat", "highs", "cbc"}


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("name", NAMES)
def test_same_proven_optimum(name, objective):
    for seed in range(3):
        problem = ring_and_pipelines(seed, objective)
        reference = solvers()["annealing"].solve(problem)
        found = solvers()[name].solve(problem)
        assert found.termination == Termination.OPTIMAL and found.gap == 0 and found.solver == name
        assert found.objective == pytest.approx(reference.objective, rel=1e-5)
        assert found.objective == pytest.approx(problem.seconds(found.value))
        assert len(set(found.value)) == 4


@pytest.mark.parametrize("name", NAMES)
def test_a_limit_leaves_a_bound_below_the_objective_and_the_same_answer_twice(name):
    problem = ring_and_pipelines(7, "sum", nodes=7)
    first, second = (solvers()[name].solve(problem, Limits(work=1), seed=1) for _ in range(2))
    assert first.value == second.value and first.bound == second.bound <= first.objective
    assert first.report()["reproducible"]
