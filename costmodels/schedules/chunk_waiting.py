"""What unequal chunks cost interleaved 1F1B: stages wait for the longer chunks of their neighbours.

A stage alternates between its chunks, every ``pp`` micro-batches, and its neighbours do so a few passes later. Where
the chunks of one stage are unequal, some stage runs a long one at any time and the others, tied to it by their
transfers, run at its pace: the pipeline is slower than its busiest stage. No closed form of that is known to us; the
event simulator settles to a constant time for each round of ``pp`` micro-batches, which is read off two short runs.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from ..candidates import CandidateTable
from ..parallel import LayerSplit, Schedule
from ..parallelism.pipeline import chunk_layer_lists
from .pass_times import PassTimes
from .registry import build_schedule
from .simulate import simulate

#: Rounds of ``pp`` micro-batches of the two runs; from four on the pace was that of ten to twenty in all of some
#: hundred pipelines (32 to 126 layers, 4 to 32 stages of 2 to 5 chunks).
_ROUNDS = (4, 6)
Rows = tuple[tuple[int, ...], ...]


def chunk_waiting(n_layers: int, c: Any, mtp_layers: int = 0) -> Any:
    """Share that unequal chunks add to the pace of the busiest stage, for one configuration or every row of a table.

    Zero without interleaving, and for other schedules than 1F1B. Chunks count by their layers: neither embedding and
    head nor differences between layers are seen.
    """
    if not isinstance(c, CandidateTable):
        return _of(n_layers, c, mtp_layers)
    out = np.zeros(len(c))
    for i in np.flatnonzero((c.vp > 1) & (c.layer_split == LayerSplit.LAYOUT) & (c.schedule == Schedule.ONE_F_ONE_B)):
        out[i] = _of(n_layers, c.row(int(i)), mtp_layers)
    return out


def _of(n_layers: int, c: Any, mtp_layers: int) -> float:
    if c.vp == 1 or c.layer_split != LayerSplit.LAYOUT or c.schedule != Schedule.ONE_F_ONE_B:
        return 0.0
    share: float = waiting_share(chunk_layer_lists(n_layers, c, mtp_layers))
    return share


@lru_cache(maxsize=4096)
def waiting_share(rows: Rows) -> float:
    """The same for explicit numbers of layers, ``rows[v][stage]``; backward is taken as twice forward."""
    flat = [n for row in rows for n in row]
    # a shorter first or last chunk keeps nobody waiting
    if len(rows) == 1 or (len(set(flat[1:-1])) <= 1 and max(flat) == max(flat[1:-1], default=max(flat))):
        return 0.0
    layers = np.array(rows, dtype=np.float64).T
    pp, vp = layers.shape
    times = PassTimes(layers, 2.0 * layers, layers)
    start, end = (simulate(build_schedule("interleaved", pp, r * pp, vp), times).makespan_s for r in _ROUNDS)
    pace: float = float(end - start) / ((_ROUNDS[1] - _ROUNDS[0]) * pp)
    busiest = float(3.0 * layers.sum(axis=1).max())
    return float(max(pace / busiest - 1.0, 0.0))
