"""Contract of the pipeline partition solvers: one problem, one proven optimum, and an answer that keeps every rule."""

from __future__ import annotations

import importlib.util
import itertools
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from meshwright.planner.solvers.partition import Partition, PartitionProblem, solvers
from meshwright.planner.solvers.result import Limits, Termination

ROOT = Path(__file__).resolve().parents[2]
SOLVERS = solvers()


def load_benchmark() -> Any:
    spec = importlib.util.spec_from_file_location("stage_partition", ROOT / "benchmarks" / "stage_partition.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules["stage_partition"] = module
    spec.loader.exec_module(module)
    return module


BENCHMARK = load_benchmark()


def brute_force(p: PartitionProblem) -> float | None:
    """The optimum by looking at every cut and every mode."""
    best: float | None = None
    for inner in itertools.combinations_with_replacement(range(p.n + 1), p.chunks - 1):
        for modes in itertools.product(*(range(len(t)) for t in p.time)):
            value = Partition((0, *inner, p.n), modes)
            if not p.problems_of(value) and (best is None or p.objective(value) < best):
                best = p.objective(value)
    return best


def tiny(seed: int, vp: int = 1) -> PartitionProblem:
    draw = random.Random(seed)
    layers, stages = draw.randint(2, 4), draw.randint(1, 3)
    problem: PartitionProblem = BENCHMARK.instance(
        draw, layers, stages, vp=vp, kinds=draw.choice((0, 1, 2)), modes=draw.choice((1, 2, 3)),
        room=draw.uniform(0.6, 1.1),
    )  # fmt: skip
    return problem


def check(problem: PartitionProblem, name: str, best: float | None) -> None:
    found = SOLVERS[name].solve(problem)
    if best is None:
        assert found.termination == Termination.INFEASIBLE and found.value is None
        return
    assert found.termination == Termination.OPTIMAL and found.value is not None
    assert not problem.problems_of(found.value)
    assert found.objective == problem.objective(found.value) == best
    assert found.bound == pytest.approx(best, abs=1e-6 * best)


def test_own_kernel_comes_first() -> None:
    assert list(SOLVERS) == ["dp", "cpsat", "highs", "cbc"]


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("seed", range(12))
def test_the_optimum_is_that_of_brute_force(name: str, seed: int) -> None:
    problem = tiny(seed)
    check(problem, name, brute_force(problem))


def test_some_of_these_are_infeasible_and_some_recompute() -> None:
    found = [SOLVERS["dp"].solve(tiny(seed)).value for seed in range(12)]
    assert None in found and any(value is not None and any(value.modes) for value in found)


@pytest.mark.parametrize("seed", range(12))
def test_kernel_and_cpsat_agree(seed: int) -> None:
    problem = BENCHMARK.random_instance(seed, largest=24, deepest=5)
    oracle = SOLVERS["cpsat"].solve(problem)
    assert oracle.termination in (Termination.OPTIMAL, Termination.INFEASIBLE)
    check(problem, "dp", None if oracle.value is None else oracle.objective)


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("seed", range(8))
def test_leading_pieces_recompute(name: str, seed: int) -> None:
    problem = replace(tiny(seed), leading=seed % 3)
    check(problem, name, brute_force(problem))


@pytest.mark.parametrize("seed", range(6))
def test_leading_pieces_of_larger_problems(seed: int) -> None:
    problem = replace(BENCHMARK.random_instance(seed + 40, largest=20, deepest=4), leading=1 + seed % 3)
    oracle = SOLVERS["cpsat"].solve(problem)
    assert oracle.termination in (Termination.OPTIMAL, Termination.INFEASIBLE)
    check(problem, "dp", None if oracle.value is None else oracle.objective)


@pytest.mark.parametrize("seed", range(10))
def test_interleaved_bounds_enclose_the_optimum(seed: int) -> None:
    problem = tiny(seed, vp=2)
    if problem.stages == 1:
        pytest.skip("one stage has no pipeline")
    best, found = brute_force(problem), SOLVERS["dp"].solve(problem)
    check(problem, "cpsat", best)
    if best is None:
        assert found.value is None
        return
    assert found.bound <= best <= found.objective
    if found.termination == Termination.OPTIMAL:
        assert found.objective == best
    if found.value is not None:
        assert not problem.problems_of(found.value) and problem.objective(found.value) == found.objective


@pytest.mark.parametrize("work", [1, 2, 3, 5])
def test_a_work_limit_leaves_a_bound_and_repeats(work: int) -> None:
    problem = BENCHMARK.instance(random.Random(4), 40, 8, room=0.7, constrained=False)
    best = SOLVERS["dp"].solve(problem)
    assert best.termination == Termination.OPTIMAL and best.work > 5
    one, again = (SOLVERS["dp"].solve(problem, Limits(work=work)) for _ in range(2))
    assert one.work <= work and one.value == again.value and one.bound == again.bound
    assert one.bound <= best.objective <= one.objective
    assert one.termination == (Termination.OPTIMAL if one.objective == one.bound else Termination.FEASIBLE_AT_LIMIT)


def test_an_interrupt_leaves_the_best_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    from meshwright.planner.solvers import partition_dp

    problem = BENCHMARK.instance(random.Random(4), 40, 8, room=0.7, constrained=False)
    least_sum, calls = partition_dp._Passes.least_sum, itertools.count()

    def interrupted(self: Any, cap: int) -> Any:
        if next(calls) == 3:
            raise KeyboardInterrupt
        return least_sum(self, cap)

    monkeypatch.setattr(partition_dp._Passes, "least_sum", interrupted)
    found = SOLVERS["dp"].solve(problem)
    assert found.value is not None and found.termination == Termination.FEASIBLE_AT_LIMIT
    assert not problem.problems_of(found.value) and found.bound < found.objective < float("inf")
