"""Pass times of an explicit layout: what every chunk of every stage takes, from the pieces that stand on it."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..layer_costs import FULL, PARTIAL, LayerCosts
from ..stage_layout import StageLayout
from ..stage_pricing import StageCosts, recompute_shares
from .pass_times import Floats, PassTimes


def layout_passes(costs: LayerCosts, layout: StageLayout, stages: StageCosts) -> PassTimes:
    """Seconds of one micro-batch's passes on every chunk, shape ``(pp, vp)``.

    Kernels and exposed collectives are those of the chunk's own pieces; recomputation belongs to backward; a stage's
    waiting for launches goes to its passes as their device time does. Half of what backward computes without
    recomputation is the weight gradient.

    Args:
        stages: of the same layout (``price_stages``).
    """
    chunk, share = np.asarray(layout.chunk_of_piece), recompute_shares(costs, layout)

    def of(column: Any) -> Floats:
        flat = np.bincount(chunk, weights=np.asarray(column, dtype=np.float64), minlength=layout.pp * layout.vp)
        return np.asarray(flat, dtype=np.float64).reshape(layout.vp, layout.pp).T

    device = of((1.0 - share) * costs.device_s[:, PARTIAL] + share * costs.device_s[:, FULL])
    per_stage = device.sum(axis=1)
    # a stage without device time has no passes for its host's time to go to
    stretch = np.where(per_stage > 0, stages.whole_s / np.where(per_stage > 0, per_stage, 1.0), 1.0)[:, None]
    forward = of(costs.forward_s + costs.comm_forward_s) * stretch
    return PassTimes(forward, device * stretch - forward, 0.5 * of(costs.backward_s) * stretch)
