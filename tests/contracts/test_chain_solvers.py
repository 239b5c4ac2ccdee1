"""Contract of the solvers that cut a graph of layers into stages: the same proven optimum from each."""

import sys
from pathlib import Path

import pytest

from meshwright.planner.solvers.chain_linear import build, solvers
from meshwright.planner.solvers.chain_problem import largest_load
from meshwright.planner.solvers.result import Termination

sys.path.insert(0, str(Path(__file__).parent.parent / "planner" / "solvers"))
from chain_cases import brute_force, random_problem

EXACT = [name for name, solver in solvers().items() if solver.exact]


def test_own_kernel_comes_first():
    assert next(iter(solvers())) == "downsets" and {"highs", "cbc"} <= set(EXACT)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", EXACT)
def test_every_exact_solver_proves_the_same_optimum(name, seed):
    problem = random_problem(seed, 3, 3, 2)
    found = solvers()[name].solve(problem)
    best = brute_force(problem)
    if best == float("inf"):
        assert found.termination == Termination.INFEASIBLE
        return
    assert found.termination == Termination.OPTIMAL
    assert found.objective == pytest.approx(best, rel=1e-6) == largest_load(problem, found.value)
    assert found.bound == pytest.approx(best, rel=1e-6)


def test_the_model_holds_no_sets_of_the_kernel():
    model = build(random_problem(1, 2, 2, 2))
    assert model.rows and sum(model.integer) > 0
