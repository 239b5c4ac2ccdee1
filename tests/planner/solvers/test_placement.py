"""Kernel of placement against brute force and CP-SAT; its bound; determinism; what a limit or an interrupt leaves."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshwright.hardware_profiles.errors import InvalidProblemError
from meshwright.planner.solvers import placement_anneal
from meshwright.planner.solvers.placement import OBJECTIVES, solvers
from meshwright.planner.solvers.placement_anneal import Annealing, nearest_orders
from meshwright.planner.solvers.placement_bound import lower_bound
from meshwright.planner.solvers.result import Limits, Termination

from .placement_cases import grid, noisy_racks, random_problem

SHAPES = ((2, 4), (4, 2), (8, 1), (1, 8), (2, 3))


def by_hand(problem, placement):
    """The objective edge by edge, without numpy."""
    ends = [*problem.row_starts[1:], len(problem.edges)]
    rows = []
    for begin, end in zip(problem.row_starts, ends, strict=True):
        pairs = [(placement[u], placement[v]) for u, v in problem.edges[begin:end].tolist()]
        rows.append(sum(problem.cost[i, j] * b for (i, j), b in zip(pairs, problem.n_bytes[begin:end], strict=True)))
    if problem.objective == "sum":
        return sum(rows)
    ends = [*problem.term_starts[1:], len(rows)]
    return sum(max(rows[begin:end]) for begin, end in zip(problem.term_starts, ends, strict=True))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(2, 5),
    spare=st.integers(0, 2),
    objective=st.sampled_from(OBJECTIVES),
)
def test_enumeration_annealing_and_bound_agree_with_brute_force(seed, n, spare, objective):
    problem = random_problem(seed, n_slots=n, n_nodes=n + spare, objective=objective)
    best = min(by_hand(problem, p) for p in permutations(range(n + spare), n))
    found = Annealing().solve(problem)
    assert found.termination == Termination.OPTIMAL
    assert found.objective == pytest.approx(best) == pytest.approx(by_hand(problem, found.value))
    assert lower_bound(problem) <= best * (1 + 1e-9)
    walked = Annealing(enumerate_up_to=0).solve(problem, Limits(work=6400))
    assert best * (1 - 1e-9) <= walked.objective == pytest.approx(by_hand(problem, walked.value))
    assert walked.bound <= best * (1 + 1e-9)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("shape", SHAPES)
def test_annealing_finds_what_cpsat_proves(shape, objective):
    stages, replicas = shape
    for seed in range(2):
        problem = grid(noisy_racks(stages * replicas, seed), stages, replicas, objective=objective)
        proven = solvers()["cpsat"].solve(problem)
        assert proven.termination == Termination.OPTIMAL
        walked = Annealing(enumerate_up_to=0).solve(problem, Limits(work=30_000), seed=seed)
        assert walked.objective == pytest.approx(proven.objective, rel=1e-5)
        assert Annealing().solve(problem).objective == pytest.approx(proven.objective, rel=1e-5)


def test_slow_nodes_are_left_out_where_there_are_spare_ones():
    cost = noisy_racks(12, 3, rack=12, sigma=0.0, slow=0.0)
    cost[[2, 7], :] *= 4
    cost[:, [2, 7]] *= 4
    found = Annealing().solve(grid(cost, 2, 5), Limits(work=20_000))
    assert not {2, 7} & set(found.value) and len(set(found.value)) == 10
    assert found.termination == Termination.OPTIMAL  # the bound sees that ten nodes are fast


def test_equal_links_are_solved_by_the_bound_without_a_walk():
    cost = noisy_racks(32, 0, rack=32, sigma=0.0, slow=0.0)
    found = Annealing().solve(grid(cost, 4, 8))
    assert found.termination == Termination.OPTIMAL and found.value == tuple(range(32)) and found.work < 100


def test_it_beats_its_start_and_stays_above_its_bound():
    problem = grid(noisy_racks(32, 5), 4, 8)
    found = Annealing().solve(problem, Limits(work=100_000))
    rack = problem.seconds(range(32))
    near = problem.both_seconds(nearest_orders(problem))[0].min()
    assert found.bound < found.objective < 0.95 * min(rack, near)
    assert sorted(found.value) == list(range(32))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_same_seed_same_answer_and_a_time_limit_is_said(objective):
    problem = grid(noisy_racks(16, 1, directed=True), 4, 4, objective=objective)
    runs = [Annealing().solve(problem, Limits(work=30_000), seed=s) for s in (7, 7, 8)]
    assert runs[0].value == runs[1].value and runs[0].report() == runs[1].report()
    assert runs[0].report()["reproducible"] and runs[2].seed == 8
    cut = Annealing().solve(problem, Limits(time_s=1e-6))
    assert cut.timed_out and cut.objective <= problem.seconds(range(16)) and cut.gap > 0


def test_an_interrupt_leaves_the_best_so_far(monkeypatch):
    problem = grid(noisy_racks(16, 2), 4, 4)
    calls = []

    def interrupted(*args):
        calls.append(args)
        if len(calls) > 5:
            raise KeyboardInterrupt
        return original(*args)

    original = placement_anneal._exchange
    monkeypatch.setattr(placement_anneal, "_exchange", interrupted)
    found = Annealing().solve(problem)
    assert found.value is not None and found.objective <= problem.seconds(range(16)) and found.timed_out


def test_a_start_that_is_given_is_never_lost():
    problem = grid(noisy_racks(24, 9), 4, 6)
    good = Annealing().solve(problem, Limits(work=60_000)).value
    started = type(problem)(**{f: getattr(problem, f) for f in problem.__dataclass_fields__} | {"starts": (good,)})
    assert Annealing().solve(started, Limits(work=64)).objective <= problem.seconds(good)


def test_problems_that_cannot_be_are_refused():
    with pytest.raises(InvalidProblemError, match="fills 9 nodes, but only 8"):
        random_problem(0, n_slots=9, n_nodes=8, objective="sum")
    with pytest.raises(InvalidProblemError, match="no objective"):
        random_problem(0, n_slots=3, n_nodes=3, objective="min")
    with pytest.raises(ValueError, match="diagonal"):
        grid(np.ones((4, 4)), 2, 2)


def test_no_traffic_costs_nothing():
    problem = grid(noisy_racks(4, 0), 1, 1)
    found = Annealing().solve(problem)
    assert found.objective == found.bound == 0 and found.termination == Termination.OPTIMAL
