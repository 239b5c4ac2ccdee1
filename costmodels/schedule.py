"""Closed forms of pipeline schedules: how long a step's micro-batches take beyond the busiest stage's own work."""

from __future__ import annotations

from typing import Any

import numpy as np

from .parallel import Schedule


def bubble_s(c: Any, stage_sum_s: Any, stage_max_s: Any, forward_share: Any) -> Any:
    """Fill and drain time of one step.

    1F1B and GPipe with unequal stages take ``(m - 1) max_i t_i + sum_i t_i`` (t_i: forward plus backward of one
    micro-batch on stage i), so the bubble on the busiest stage is ``sum - max``; interleaving over vp chunks
    divides it by vp (Narayanan et al., arXiv 2104.04473, section 2.2). Zero-bubble H1 fills part of the drain with
    weight gradients: (p-1)(F + B - 2W) with F = B = W is a third of 1F1B's (Qi et al., arXiv 2401.10241,
    Table 2); ZB-V leaves nothing in the ideal case. The share of the weight-gradient pass is taken as
    half of backward.

    Args:
        c: candidates; stage_sum_s, stage_max_s: over the pipeline's stages, per micro-batch.
        forward_share: forward part of a stage's time.

    Leaves out: ordering effects of strongly unequal stages (the event simulator has them).
    """
    full = np.maximum(stage_sum_s - stage_max_s, 0.0)
    weight_gradient = (1.0 - forward_share) / 2.0
    h1 = np.maximum(1.0 - 2.0 * weight_gradient, 0.0)
    factor = np.where(c.schedule == Schedule.ZERO_BUBBLE_H1, h1, 1.0)
    factor = np.where(c.schedule == Schedule.ZERO_BUBBLE_V, 0.0, factor)
    return full * factor / np.where(c.schedule == Schedule.ZERO_BUBBLE_V, 1, c.vp)
