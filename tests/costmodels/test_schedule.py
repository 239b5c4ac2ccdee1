"""Closed forms of the pipeline against an event simulator."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshwright.costmodels.parallel import LayerSplit, ParallelConfig, Schedule
from meshwright.costmodels.parallelism.pipeline import (
    chunk_layer_lists,
    in_flight,
    stage_layer_list,
    stage_layers,
)
from meshwright.costmodels.schedule import bubble_s

sys.path.insert(0, str(Path(__file__).parent))
from pipeline_simulator import gpipe_order, interleaved_order, one_f_one_b_order, simulate


@given(
    pp=st.integers(2, 8),
    m=st.integers(1, 24),
    times=st.lists(st.floats(0.5, 2.0), min_size=8, max_size=8),
)
@settings(max_examples=60, deadline=None)
def test_one_f_one_b_with_unequal_stages(pp: int, m: int, times: list[float]) -> None:
    """(m - 1) max + sum bounds 1F1B from above, and is exact where the last stage (the LM head) is the busiest."""
    f = list(times[:pp])
    b = [2 * t for t in f]
    whole = [x + y for x, y in zip(f, b, strict=True)]
    c = ParallelConfig(pp=pp)
    form = m * max(whole) + float(bubble_s(c, sum(whole), max(whole), 1 / 3))
    orders = [one_f_one_b_order(s, pp, m) for s in range(pp)]
    span, peak = simulate(orders, f, b)
    assert m * max(whole) <= span * (1 + 1e-9)
    assert span <= form * (1 + 1e-9)
    if whole[-1] == max(whole):
        assert span == pytest.approx(form)
    assert peak == [min(m, pp - s) for s in range(pp)]


@pytest.mark.parametrize("pp", [2, 4, 8])
@pytest.mark.parametrize("m", [8, 16, 40])
def test_equal_stages_are_exact(pp: int, m: int) -> None:
    c = ParallelConfig(pp=pp)
    form = m * 3.0 + float(bubble_s(c, pp * 3.0, 3.0, 1 / 3))
    for orders in ([one_f_one_b_order(s, pp, m) for s in range(pp)], [gpipe_order(m)] * pp):
        assert simulate(orders, [1.0] * pp, [2.0] * pp)[0] == pytest.approx(form, rel=1e-12)
    # arXiv 2104.04473, section 2.2: bubble over ideal time is (p - 1) / m
    assert (form - m * 3.0) / (m * 3.0) == pytest.approx((pp - 1) / m)


@pytest.mark.parametrize(("pp", "vp"), [(2, 2), (4, 2), (4, 3), (8, 2)])
def test_interleaved_is_exact_and_holds_what_the_formula_says(pp: int, vp: int) -> None:
    m = 4 * pp
    c = ParallelConfig(pp=pp, vp=vp)
    form = m * 3.0 + float(bubble_s(c, pp * 3.0, 3.0, 1 / 3))
    orders = [interleaved_order(s, pp, m, vp) for s in range(pp)]
    span, peak = simulate(orders, [1.0 / vp] * pp, [2.0 / vp] * pp, vp)
    assert span == pytest.approx(form, rel=1e-9)
    assert peak[0] / vp == pytest.approx(float(in_flight(c, m, 0)))
    # arXiv 2205.05198, section 4.2.3
    assert float(in_flight(c, m, 0)) / pp == pytest.approx(1 + (pp - 1) / (pp * vp))


def test_zero_bubble_schedules_shrink_the_bubble() -> None:
    plain = float(bubble_s(ParallelConfig(pp=8), 24.0, 3.0, 1 / 3))
    h1 = float(bubble_s(ParallelConfig(pp=8, schedule=Schedule.ZERO_BUBBLE_H1), 24.0, 3.0, 1 / 3))
    assert h1 == pytest.approx(plain / 3)
    assert float(bubble_s(ParallelConfig(pp=8, schedule=Schedule.ZERO_BUBBLE_V), 24.0, 3.0, 1 / 3)) == 0.0


@given(n=st.integers(1, 130), pp=st.integers(1, 16), vp=st.integers(1, 4))
@settings(max_examples=200, deadline=None)
def test_every_layer_has_one_stage(n: int, pp: int, vp: int) -> None:
    if n < pp * vp:
        return
    for split in LayerSplit:
        if split == LayerSplit.EMBEDDING_AND_LOSS_COUNT and ((n + 2) % (pp * vp) or pp < 2):
            continue
        c = ParallelConfig(pp=pp, vp=vp, layer_split=split)
        listed = stage_layer_list(n, c)
        assert sum(listed) == n
        assert len(chunk_layer_lists(n, c)) == vp
        s = stage_layers(n, c)
        assert int(s.first) == listed[0]
        if pp > 1:
            assert int(s.last) == listed[-1]
        if pp > 2:
            assert int(s.mid) == max(listed[1:-1])
            assert float(s.total()) == pytest.approx(n)
        assert np.ptp(listed) <= vp + 1
