"""Pass lists: every pass once, and the activations that each schedule is published to hold."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshwright.costmodels.parallel import ParallelConfig, Schedule
from meshwright.costmodels.parallelism.pipeline import in_flight
from meshwright.costmodels.schedules import (
    SCHEDULES,
    Pass,
    PassKind,
    PassTimes,
    PipelineSchedule,
    build_schedule,
    schedule_name,
    simulate,
)
from meshwright.hardware_profiles.errors import InvalidProblemError

TIMES = PassTimes(1.0, 2.0)


def sizes(name: str, p: int, m: int) -> tuple[int, int]:
    """The nearest sizes that a schedule takes."""
    if name == "interleaved":
        return p, p * max(m // p, 1)
    if name == "dualpipe":
        return p + p % 2, 2 * max(m // 2, p + p % 2)
    return p, m


@given(name=st.sampled_from(sorted(SCHEDULES)), p=st.integers(1, 6), m=st.integers(1, 14), chunks=st.integers(1, 3))
@settings(max_examples=120, deadline=None)
def test_every_pass_runs_once_and_the_step_ends(name: str, p: int, m: int, chunks: int) -> None:
    p, m = sizes(name, p, m)
    schedule = build_schedule(name, p, m, chunks)
    for device, order in enumerate(schedule.orders):
        assert max(Counter(order).values()) == 1
        forwards = Counter(one.kind for one in order)[PassKind.FORWARD]
        assert forwards * p == sum(len(schedule.paths[way]) for way in schedule.path_of)
        for kind in schedule.kinds:
            if kind > PassKind.WEIGHT_GRADIENT:
                assert sorted(one.micro_batch for one in order if one.kind == kind) == list(range(m)), device
    run = simulate(schedule, TIMES)
    assert np.all(run.busy_s <= run.makespan_s * (1 + 1e-12))
    for start, end in zip(run.start_s, run.end_s, strict=True):
        assert np.all(start[1:] >= end[:-1] - 1e-9)
    assert all(held[-1] == pytest.approx(0.0) for held in run.in_flight(until_weight_gradient=True))


@given(p=st.integers(1, 8), m=st.integers(1, 24))
@settings(max_examples=60, deadline=None)
def test_in_flight_of_the_memory_ledger_is_the_simulators(p: int, m: int) -> None:
    for code in Schedule:
        c = ParallelConfig(pp=p, schedule=code)
        peak = simulate(build_schedule(schedule_name(c), p, m), TIMES).peak_in_flight()
        ledger = [float(in_flight(c, m, s)) for s in range(p)]
        if code == Schedule.ZERO_BUBBLE_V:
            # the formula counts p everywhere; a greedy order may stay below it by one chunk, never above
            assert np.all(peak <= ledger)
            assert m < 2 * p or np.all(peak >= np.array(ledger) - 1.0)
        else:
            assert peak == pytest.approx(ledger), code


@pytest.mark.parametrize(("p", "v", "groups"), [(2, 2, 1), (4, 2, 3), (4, 3, 2), (8, 4, 2)])
def test_interleaving_holds_what_the_memory_ledger_says(p: int, v: int, groups: int) -> None:
    c, m = ParallelConfig(pp=p, vp=v), p * groups
    assert schedule_name(c) == "interleaved"
    peak = simulate(build_schedule("interleaved", p, m, v), TIMES).peak_in_flight()
    assert peak == pytest.approx([float(in_flight(c, m, s)) for s in range(p)])


@pytest.mark.parametrize("p", [2, 4, 6, 8])
def test_published_activation_counts(p: int) -> None:
    """arXiv 2412.19437, Table 2: p + 1; 2401.10241: p; 2411.05288, section 5: p + 2, p + 1 and 1.5 p."""
    m = 4 * p

    def peak(name: str) -> float:
        run = simulate(build_schedule(name, p, m), TIMES)
        return float(run.peak_in_flight(until_weight_gradient=True).max())

    assert peak("dualpipe") == p + 1
    assert simulate(build_schedule("dualpipe", p, m), TIMES).peak_in_flight() == pytest.approx([p + 1.0] * p)
    assert peak("zb-h1") == p
    assert peak("zb-v") == p
    assert peak("vocab-1") == p + 2
    assert peak("vocab-2") == p + 1
    assert peak("interlaced") == 1.5 * p


def test_split_backwards_hold_more_until_the_weight_gradient() -> None:
    run = simulate(build_schedule("zb-h1", 4, 16), TIMES)
    assert run.peak_in_flight() == pytest.approx([4, 3, 2, 1])
    assert run.peak_in_flight(until_weight_gradient=True) == pytest.approx([4, 4, 4, 4])


def test_wrong_sizes_and_names_are_one_sentence() -> None:
    with pytest.raises(InvalidProblemError, match="groups of 4 stages"):
        build_schedule("interleaved", 4, 6, 2)
    with pytest.raises(InvalidProblemError, match="even number"):
        build_schedule("dualpipe", 3, 12)
    with pytest.raises(InvalidProblemError, match="known: 1f1b"):
        build_schedule("chimera", 4, 8)
    with pytest.raises(InvalidProblemError, match="at least one stage"):
        build_schedule("gpipe", 0, 8)
    with pytest.raises(InvalidProblemError, match="p2p_s has shape"):
        simulate(build_schedule("gpipe", 4, 8), TIMES, [0.1] * 7)
    with pytest.raises(InvalidProblemError, match="forward_s has shape"):
        simulate(build_schedule("gpipe", 4, 8), PassTimes([1.0] * 3, 2.0))
    with pytest.raises(InvalidProblemError, match="negative"):
        simulate(build_schedule("zb-h1", 4, 8), PassTimes(1.0, 2.0, 3.0))


def test_an_order_that_deadlocks_is_named() -> None:
    good = build_schedule("1f1b", 2, 2)
    f, b = PassKind.FORWARD, PassKind.BACKWARD
    last = (Pass(b, 0), Pass(f, 0), Pass(f, 1), Pass(b, 1))
    bad = PipelineSchedule("broken", (good.orders[0], last), good.paths, good.path_of)
    with pytest.raises(InvalidProblemError, match="can never finish"):
        simulate(bad, TIMES)
