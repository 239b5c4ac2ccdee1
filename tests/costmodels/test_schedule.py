"""Bubbles of the zero-bubble schedules, and which stage holds which layer (spans: schedules/test_simulate.py)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshwright.costmodels.parallel import LayerSplit, ParallelConfig, Schedule
from meshwright.costmodels.parallelism.pipeline import (
    chunk_layer_lists,
    stage_layer_list,
    stage_layers,
)
from meshwright.costmodels.schedule import bubble_s
from meshwright.costmodels.schedules import PassTimes, build_schedule, simulate


def test_zero_bubble_schedules_shrink_the_bubble() -> None:
    plain = float(bubble_s(ParallelConfig(pp=8), 24.0, 3.0, 1 / 3))
    h1 = float(bubble_s(ParallelConfig(pp=8, schedule=Schedule.ZERO_BUBBLE_H1), 24.0, 3.0, 1 / 3))
    assert h1 == pytest.approx(plain / 3)
    v = float(bubble_s(ParallelConfig(pp=8, schedule=Schedule.ZERO_BUBBLE_V), 24.0, 3.0, 1 / 3))
    assert v == pytest.approx(plain / 6)


@settings(max_examples=40, deadline=None)
@given(pp=st.integers(2, 10), rounds=st.integers(1, 4), share=st.floats(0.2, 0.6))
def test_zero_bubble_h1_is_the_simulated_one(pp: int, rounds: int, share: float) -> None:
    """Weight gradients take half of backward, as the estimate assumes."""
    m, weight = pp * rounds, (1.0 - share) / 2.0
    c = ParallelConfig(pp=pp, schedule=Schedule.ZERO_BUBBLE_H1)
    schedule = build_schedule("zb-h1", pp, m, costs=(share, weight, weight))
    span = simulate(schedule, PassTimes(share, 2.0 * weight, weight)).makespan_s
    assert m + float(bubble_s(c, float(pp), 1.0, share)) == pytest.approx(span)


@pytest.mark.parametrize("pp", [2, 4, 8])
@pytest.mark.parametrize("share", [0.25, 1 / 3, 0.4])
def test_zero_bubble_v_is_a_few_chunk_passes_short(pp: int, share: float) -> None:
    m, weight = 4 * pp, (1.0 - share) / 2.0
    c = ParallelConfig(pp=pp, vp=2, schedule=Schedule.ZERO_BUBBLE_V)
    schedule = build_schedule("zb-v", pp, m, 2, (share / 2, weight / 2, weight / 2))
    span = simulate(schedule, PassTimes(share / 2, weight, weight / 2)).makespan_s
    short = span - (m + float(bubble_s(c, float(pp), 1.0, share)))
    # seen: 0 to 4.5 of the longest chunk pass, none to two where forward is a third
    assert -1e-9 <= short <= 5.0 * max(share, weight) / 2.0


@given(n=st.integers(1, 130), pp=st.integers(1, 16), vp=st.integers(1, 4))
@settings(max_examples=200, deadline=None)
def test_every_layer_has_one_stage(n: int, pp: int, vp: int) -> None:
    if n < pp * vp:
        return
    for split in LayerSplit:
        if split == LayerSplit.EMBEDDING_AND_LOSS_COUNT and ((n + 2) % (pp * vp) or pp < 2):
            continue
        if split == LayerSplit.BALANCED and (vp > 1 or pp < 2):
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
