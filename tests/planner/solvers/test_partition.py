"""Partition problems: what they refuse, hand-made instances, and both knapsack ways giving the same costs."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from meshwright.planner.solvers import partition_intervals
from meshwright.planner.solvers.partition import LARGEST, Partition, PartitionProblem
from meshwright.planner.solvers.partition_dp import PartitionDp
from meshwright.planner.solvers.partition_intervals import NEVER, cheapest_modes, interval_times
from meshwright.planner.solvers.result import Termination


def problem(times: list[int], stages: int, **changes: Any) -> PartitionProblem:
    n = len(times)
    values: dict[str, Any] = {
        "stages": stages, "time": tuple((t,) for t in times), "live": ((0,),) * n, "fixed": (0,) * n,
        "in_flight": tuple(range(stages, 0, -1)), "capacity": (10**6,) * stages, "max_weight": 7,
    }  # fmt: skip
    return PartitionProblem(**(values | changes))


def test_a_heavy_head_gets_fewer_layers() -> None:
    # eight layers of 10 and a head of 25 on three stages: 40, 40, 25 + 0 rather than 30, 30, 20 + 25
    found = PartitionDp().solve(problem([1, *[10] * 8, 25], 3))
    assert found.termination == Termination.OPTIMAL and found.value is not None
    assert max(found.value.cuts[3] - found.value.cuts[2], 0) < 4
    assert found.objective == 106 + 7 * min(
        max(1 + 10 * a, 10 * b, 10 * (8 - a - b) + 25) for a in range(9) for b in range(9 - a)
    )


def test_recompute_where_memory_binds_and_nowhere_else() -> None:
    n = 8
    two = problem(
        [10] * n, 2, time=((10, 13),) * n, live=((4, 1),) * n, fixed=(2,) * n, capacity=(25, 30), max_weight=0
    )
    found = PartitionDp().solve(two)
    # the second stage holds one micro-batch: 6 bytes a layer; the first two: 10 a layer, 4 a recomputed one
    brute = min(
        two.objective(Partition((0, cut, n), modes))
        for cut in range(n + 1)
        for modes in itertools.product((0, 1), repeat=n)
        if not two.problems_of(Partition((0, cut, n), modes))
    )
    assert found.objective == brute and found.value is not None
    assert any(found.value.modes[: found.value.cuts[1]])
    assert not any(found.value.modes[found.value.cuts[1] :])
    # of like layers the first of a stage recompute
    first = found.value.modes[: found.value.cuts[1]]
    assert list(first) == sorted(first, reverse=True)


def test_empty_stages_only_where_allowed() -> None:
    assert PartitionDp().solve(problem([5, 5], 3)).objective == 10 + 7 * 5
    assert PartitionDp().solve(problem([5, 5], 3, least=1)).termination == Termination.INFEASIBLE


def test_pieces_that_stay_together() -> None:
    p = problem([3, 9, 9, 3], 2, together=((0, 3),))
    found = PartitionDp().solve(p)
    assert found.value is not None and found.objective == 24 + 7 * 24
    assert PartitionDp().solve(problem([3, 9, 9, 3], 2, pins={0: 0, 3: 1}, together=((0, 3),))).value is None
    # two chunks on each stage: first and last piece can share a stage and leave the rest to the other
    split = PartitionDp().solve(problem([3, 9, 9, 3], 2, vp=2, together=((0, 3),)))
    assert split.value is not None and split.termination == Termination.OPTIMAL
    stage = split.value.chunk_of_piece() % 2
    assert stage[0] == stage[3]


def test_the_second_limit_counts_at_the_update() -> None:
    free = problem([1, 10, 10, 1], 2)
    tight = problem([1, 10, 10, 1], 2, update=(600_000, 1, 600_000, 1))
    assert PartitionDp().solve(free).objective == 22 + 7 * 11
    found = PartitionDp().solve(tight)
    assert found.value is not None and found.value.cuts[1] in (1, 2)
    assert tight.problems_of(Partition((0, 3, 4), (0, 0, 0, 0))) == ["stage 0 needs 1200001 of 1000000"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"time": ()}, "needs a piece"),
        ({"stages": 0, "in_flight": (), "capacity": ()}, "a stage"),
        ({"fixed": (0,)}, "fixed has 1 entries"),
        ({"capacity": (1,)}, "for each stage"),
        ({"time": ((5, 4), (1,)), "live": ((1, 0), (0,))}, "fastest first"),
        ({"time": ((5, 6), (1,))}, "2 times and 1 live"),
        ({"fixed": (0, -1)}, "whole numbers"),
        ({"pins": {2: 0}}, "does not exist"),
        ({"forbidden_cuts": (0,)}, "forbidden cut"),
        ({"together": ((1, 0),)}, "not in order"),
        ({"time": ((LARGEST,), (1,))}, "larger units"),
    ],
)
def test_refusals(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        problem([1, 2], **({"stages": 2} | changes))


pieces = st.lists(
    st.tuples(st.integers(0, 20), st.integers(0, 9), st.integers(0, 6), st.integers(0, 9), st.integers(0, 4)),
    min_size=1, max_size=6,
)  # fmt: skip


@given(pieces, st.integers(1, 3), st.integers(0, 60), st.integers(0, 3))
@example([(0, 0, 0, 0, 0), (0, 0, 0, 0, 0), (0, 0, 2, 0, 0), (0, 0, 2, 0, 0), (0, 0, 1, 0, 0)], 1, 0, 1)
@settings(max_examples=60, deadline=None)
def test_interval_times_are_the_cheapest_modes(
    rows: list[tuple[int, int, int, int, int]], stages: int, capacity: int, flight: int
) -> None:
    p = PartitionProblem(
        stages=stages,
        time=tuple((t, t + dt) for t, dt, _, _, _ in rows),
        live=tuple((live, max(live - 3, 0)) for _, _, live, _, _ in rows),
        fixed=tuple(f for _, _, _, f, _ in rows),
        peak=tuple(k for *_, k in rows),
        redo=tuple(k // 2 for *_, k in rows),
        in_flight=tuple(flight + s for s in range(stages)),
        capacity=(capacity,) * stages,
        max_weight=1,
    )
    times = interval_times(p)
    table = partition_intervals._WIDEST
    try:
        partition_intervals._WIDEST = -1  # never the table
        assert (interval_times(p) == times).all()
    finally:
        partition_intervals._WIDEST = table
    for s, i, j in itertools.product(range(stages), range(p.n + 1), range(p.n + 1)):
        if j < i:
            assert times[s, i, j] == NEVER
            continue
        every = []
        for modes in itertools.product((0, 1), repeat=j - i):
            whole = Partition((0, i, j, p.n), (0,) * i + modes + (0,) * (p.n - j))
            alone = PartitionProblem(
                stages=3, time=p.time, live=p.live, fixed=p.fixed, peak=p.peak, redo=p.redo,
                in_flight=(0, p.in_flight[s], 0), capacity=(10**6, capacity, 10**6),
            )  # fmt: skip
            if not alone.problems_of(whole):
                every.append(sum(p.time[i + k][r] for k, r in enumerate(modes)))
        assert times[s, i, j] == (min(every) if every else NEVER)
        chosen = cheapest_modes(p, range(i, j), s)
        assert (chosen is None) == (not every)
        if chosen is not None:
            assert sum(p.time[i + k][r] for k, r in enumerate(chosen)) == min(every)


def test_like_layers_share_their_fronts() -> None:
    # a thousand layers of one kind: as many groups as lengths, not as intervals
    n = 120
    p = problem([10] * n, 4, time=((10, 13),) * n, live=((4, 1),) * n, capacity=(300, 200, 150, 100))
    choices = partition_intervals.options(p)
    keys, _, where = partition_intervals._alike(choices, n + 1)
    assert len(keys) == n + 1 and (where[0] == np.arange(n + 1)).all()
