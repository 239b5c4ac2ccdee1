"""Closed forms of ``costmodels.schedule`` against the event simulator."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshwright.costmodels.parallel import ParallelConfig, Schedule
from meshwright.costmodels.schedule import (
    bubble_s,
    dualpipe_lowest_bubble_s,
    gpipe_span_s,
    one_f_one_b_equal_span_s,
    one_f_one_b_period_s,
    one_f_one_b_span_bound_s,
    zero_bubble_h1_span_s,
)
from meshwright.costmodels.schedules import PassKind, PassTimes, build_schedule, simulate

seconds = st.floats(0.5, 2.0)
eight = st.lists(seconds, min_size=8, max_size=8)
links = st.lists(st.floats(0.0, 3.0), min_size=7, max_size=7)


def span(name: str, p: int, m: int, f: Any, b: Any, hop: Any = 0.0, chunks: int = 1, w: Any = None) -> float:
    return simulate(build_schedule(name, p, m, chunks), PassTimes(f, b, w), hop).makespan_s


@given(p=st.integers(1, 8), m=st.integers(1, 24), f=eight, b=eight, hop=links)
@settings(max_examples=80, deadline=None)
def test_gpipe_is_exact_for_any_stages_and_links(
    p: int, m: int, f: list[float], b: list[float], hop: list[float]
) -> None:
    f, b, hop = f[:p], b[:p], hop[: p - 1]
    assert span("gpipe", p, m, f, b, hop) == pytest.approx(gpipe_span_s(f, b, hop, m), rel=1e-9)


@given(p=st.integers(1, 8), m=st.integers(1, 30), f=seconds, b=seconds, hop=st.floats(0.0, 3.0))
@settings(max_examples=80, deadline=None)
def test_one_f_one_b_of_equal_stages_is_exact(p: int, m: int, f: float, b: float, hop: float) -> None:
    """With links too: the round trip repeats every p micro-batches (Pipette, arXiv 2405.18093)."""
    simulated = span("1f1b", p, m, f, b, hop)
    assert simulated == pytest.approx(one_f_one_b_equal_span_s(f + b, hop, p, m), rel=1e-9)
    c = ParallelConfig(pp=p)
    form = m * (f + b) + float(bubble_s(c, p * (f + b), f + b, f / (f + b)))
    assert span("1f1b", p, m, f, b) == pytest.approx(form, rel=1e-9)


@given(p=st.integers(1, 8), m=st.integers(1, 24), f=eight, b=eight, hop=links)
@settings(max_examples=120, deadline=None)
def test_one_f_one_b_of_unequal_stages_is_bounded(
    p: int, m: int, f: list[float], b: list[float], hop: list[float]
) -> None:
    f, b, hop = f[:p], b[:p], hop[: p - 1]
    whole = [x + y for x, y in zip(f, b, strict=True)]
    simulated = span("1f1b", p, m, f, b, hop)
    period = one_f_one_b_period_s(whole, hop)
    assert simulated <= one_f_one_b_span_bound_s(whole, hop, m) * (1 + 1e-9)
    assert simulated >= max(m * max(whole), sum(whole) + 2 * sum(hop)) * (1 - 1e-9)
    # the period is exact: many more micro-batches cost that much each
    more = p * (p + 1) * 3
    long, longer = span("1f1b", p, 60 + more, f, b, hop), span("1f1b", p, 60 + 2 * more, f, b, hop)
    assert (longer - long) / more == pytest.approx(period, rel=0.02)


@given(p=st.integers(2, 8), m=st.integers(1, 24), f=eight, b=eight)
@settings(max_examples=60, deadline=None)
def test_the_model_bounds_unequal_stages_and_is_exact_under_a_heavy_last_one(
    p: int, m: int, f: list[float], b: list[float]
) -> None:
    """``estimate``'s form, (m - 1) max + sum, is exact where the last stage (the LM head) is the busiest."""
    whole = [x + y for x, y in zip(f[:p], b[:p], strict=True)]
    c = ParallelConfig(pp=p)
    form = m * max(whole) + float(bubble_s(c, sum(whole), max(whole), 1 / 3))
    simulated = span("1f1b", p, m, f[:p], b[:p])
    assert form == pytest.approx(one_f_one_b_span_bound_s(whole, [0.0] * (p - 1), m))
    assert m * max(whole) * (1 - 1e-9) <= simulated <= form * (1 + 1e-9)
    if whole[-1] == max(whole):
        assert simulated == pytest.approx(form, rel=1e-9)


@given(p=st.integers(2, 8), v=st.integers(1, 4), groups=st.integers(1, 5), f=seconds, b=seconds)
@settings(max_examples=60, deadline=None)
def test_interleaving_of_equal_chunks_is_exact(p: int, v: int, groups: int, f: float, b: float) -> None:
    c, m, t = ParallelConfig(pp=p, vp=v), p * groups, f + b
    form = m * t + float(bubble_s(c, p * t, t, f / t))
    assert span("interleaved", p, m, f / v, b / v, chunks=v) == pytest.approx(form, rel=1e-9)


@given(p=st.integers(1, 8), more=st.integers(0, 20), f=seconds, b=seconds, w=seconds)
@settings(max_examples=60, deadline=None)
def test_zero_bubble_h1_is_exact(p: int, more: int, f: float, b: float, w: float) -> None:
    m = p + more
    assert span("zb-h1", p, m, f, b + w, w=w) == pytest.approx(zero_bubble_h1_span_s(f, b, w, p, m), rel=1e-9)
    # ``estimate`` takes W as half of backward: (p - 1) max(F, B)
    t = f + 2 * b
    c = ParallelConfig(pp=p, schedule=Schedule.ZERO_BUBBLE_H1)
    form = m * t + float(bubble_s(c, p * t, t, f / t))
    simulated = span("zb-h1", p, m, f, 2 * b)
    assert form == pytest.approx(simulated, rel=1e-9)


@pytest.mark.parametrize(("p", "over"), [(2, 0), (3, 1), (4, 0), (5, 1), (6, 2), (8, 2), (16, 4)])
@pytest.mark.parametrize("rounds", [2, 5])
def test_zero_bubble_v_of_equal_passes(p: int, over: int, rounds: int) -> None:
    """No schedule beats 6 m + p - 1 passes, which ``estimate`` counts (the update of the optimizer bypassed)."""
    m = rounds * p
    assert 6 * m + p - 1 - 1e-9 <= span("zb-v", p, m, 1.0, 2.0) <= 6 * m + p - 1 + over + 1e-9


@given(p=st.sampled_from([2, 4, 6, 8]), more=st.integers(0, 8), f=seconds, b=seconds, w=seconds)
@settings(max_examples=40, deadline=None)
def test_dualpipe_is_bounded_and_exact_for_equal_passes(p: int, more: int, f: float, b: float, w: float) -> None:
    m = 2 * p + 2 * more
    bubble = span("dualpipe", p, m, f, b + w, w=w) - m * (f + b + w)
    assert bubble >= dualpipe_lowest_bubble_s(f, b, w, p) - 1e-9
    equal = span("dualpipe", p, m, f, 2 * f, w=f) - 3 * m * f
    assert equal == pytest.approx(dualpipe_lowest_bubble_s(f, f, f, p), abs=1e-9)


def test_blocking_sends_occupy_the_sender() -> None:
    beside = simulate(build_schedule("1f1b", 4, 16), PassTimes(1.0, 2.0), 0.3)
    blocking = simulate(build_schedule("1f1b", 4, 16), PassTimes(1.0, 2.0), 0.3, blocking_sends=True)
    assert beside.makespan_s < blocking.makespan_s <= beside.makespan_s + 2 * 0.3 * 16
    assert blocking.busy_s == pytest.approx(beside.busy_s)


def test_bubble_is_what_is_left_of_the_step() -> None:
    run = simulate(build_schedule("1f1b", 4, 8), PassTimes(1.0, 2.0))
    assert run.bubble_s == pytest.approx([9.0] * 4)
    assert run.bubble_fraction == pytest.approx(9 / 33)
    assert run.makespan_s == 33.0


@pytest.mark.parametrize("p", [4, 8])
@pytest.mark.parametrize("name", ["vocab-1", "vocab-2", "interlaced"])
def test_vocabulary_passes_keep_every_device_busy(name: str, p: int) -> None:
    """In steady state a micro-batch costs what its passes cost: no barrier shows (arXiv 2411.05288, section 5)."""
    shards = {
        PassKind.OUTPUT_S: 0.2,
        PassKind.OUTPUT_T: 0.4,
        PassKind.OUTPUT_HEAD: 0.6,
        PassKind.INPUT_FORWARD: 0.02,
        PassKind.INPUT_BACKWARD: 0.02,
    }
    times = PassTimes(1.0, 2.0, None, shards)
    spans = [
        simulate(build_schedule(name, p, m), times, barrier_s=0.3, broadcast_s=0.1).makespan_s for m in (6 * p, 12 * p)
    ]
    assert (spans[1] - spans[0]) / (6 * p) == pytest.approx(3.64 + (0.1 if name == "interlaced" else 0.0), rel=0.03)
