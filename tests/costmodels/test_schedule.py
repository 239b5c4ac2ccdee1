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
