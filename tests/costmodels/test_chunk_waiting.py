"""Unequal chunks of interleaved stages: the pace of the whole pipeline against the event simulator's."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshwright.costmodels.candidates import CandidateTable
from meshwright.costmodels.load_model import load_model
from meshwright.costmodels.parallel import LayerSplit, ParallelConfig, Schedule
from meshwright.costmodels.parallelism.pipeline import chunk_layer_lists
from meshwright.costmodels.schedules import PassTimes, build_schedule, simulate
from meshwright.costmodels.schedules.chunk_waiting import chunk_waiting, waiting_share
from meshwright.costmodels.software import Software
from meshwright.costmodels.training import estimate
from meshwright.costmodels.workload import Workload

sys.path.insert(0, str(Path(__file__).parent))
from devices import cluster

LAYOUT = int(LayerSplit.LAYOUT)


@pytest.mark.parametrize(("layers", "pp", "vp"), [(126, 32, 3), (80, 16, 4), (61, 16, 3), (96, 8, 5), (64, 8, 3)])
def test_the_pace_is_that_of_long_simulated_runs(layers: int, pp: int, vp: int) -> None:
    rows = chunk_layer_lists(layers, ParallelConfig(pp=pp, vp=vp, layer_split=LAYOUT))
    sizes = np.array(rows, dtype=float).T
    spans = [
        simulate(build_schedule("interleaved", pp, r * pp, vp), PassTimes(sizes, 2 * sizes, sizes)).makespan_s
        for r in (10, 15)
    ]
    pace = (spans[1] - spans[0]) / (5 * pp)
    assert 3 * sizes.sum(axis=1).max() * (1 + waiting_share(rows)) == pytest.approx(pace)


@settings(max_examples=40, deadline=None)
@given(per=st.integers(1, 6), pp=st.integers(2, 8), vp=st.integers(1, 4), short=st.integers(0, 3))
def test_equal_chunks_wait_for_nothing_and_short_ends_neither(per: int, pp: int, vp: int, short: int) -> None:
    rows = [[per] * pp for _ in range(vp)]
    rows[0][0] -= min(short, per)
    rows[-1][-1] -= min(short, rows[-1][-1])
    assert waiting_share(tuple(map(tuple, rows))) == 0.0
    sizes = np.array(rows, dtype=float).T
    if vp > 1:  # so it is in the simulator
        spans = [
            simulate(build_schedule("interleaved", pp, r * pp, vp), PassTimes(sizes, 2 * sizes, sizes)).makespan_s
            for r in (2, 4)
        ]
        assert (spans[1] - spans[0]) / (2 * pp) <= 3 * per * vp * (1 + 1e-9)


def test_a_table_gives_what_its_rows_give() -> None:
    configs = [
        ParallelConfig(pp=pp, vp=vp, layer_split=split, schedule=schedule)
        for pp in (4, 8, 16)
        for vp in (1, 2, 3)
        for split in (0, LAYOUT)
        for schedule in (0, int(Schedule.ZERO_BUBBLE_H1))
    ]
    shares = chunk_waiting(61, CandidateTable.from_configs(configs))
    assert shares.tolist() == [chunk_waiting(61, c) for c in configs]
    assert shares.max() > 0.05
    assert all(share == 0.0 for share, c in zip(shares, configs, strict=True) if c.vp == 1 or c.schedule)


def test_the_estimate_of_unequal_chunks_is_slower_by_the_waiting() -> None:
    model = replace(load_model("llama-3.1-8b"), n_layers=80)
    work = Workload(seq_len=4096, global_batch=1024)
    plain = Software(name="t", framework="megatron-lm", release="t", attention="flash2")
    c = ParallelConfig(pp=16, vp=3, dp=2, layer_split=LAYOUT)
    t = estimate(model, work, c, cluster(32), plain).time
    pace = sum(float(getattr(t, f"{n}_s")) for n in ("forward", "backward", "recompute", "host", "tp", "cp", "ep"))
    assert float(t.bubble_s) > pace * chunk_waiting(80, c) > 0.1 * pace
