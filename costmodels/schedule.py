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
    weight gradients: ``(p - 1) max(F + B - W, F, B)`` (``zero_bubble_h1_span_s``; Qi et al., arXiv 2401.10241,
    Table 2).
    ZB-V keeps the way of the first forward through the first chunks of all stages, ``(p - 1) F / 2``, which the
    simulated order exceeds by up to five chunk passes at eight stages. The weight-gradient pass is taken as half of
    backward.

    Args:
        c: candidates; stage_sum_s, stage_max_s: over the pipeline's stages, per micro-batch.
        forward_share: forward part of a stage's time.

    Leaves out: ordering effects of strongly unequal stages (the event simulator has them).
    """
    full = np.maximum(stage_sum_s - stage_max_s, 0.0)
    weight_gradient = (1.0 - forward_share) / 2.0
    h1 = np.maximum(forward_share, weight_gradient)
    factor = np.where(c.schedule == Schedule.ZERO_BUBBLE_H1, h1, 1.0)
    factor = np.where(c.schedule == Schedule.ZERO_BUBBLE_V, 0.5 * forward_share, factor)
    return full * factor / np.where(c.schedule == Schedule.ZERO_BUBBLE_V, 1, c.vp)


# -- spans of one pipeline, for given stage times and links (the event simulator in ``schedules`` is their oracle) -----


def gpipe_span_s(forward_s: Any, backward_s: Any, hop_s: Any, n_micro: int) -> float:
    """GPipe from the first forward to the last backward, exact for any stage times and links.

    Equal jobs through a line of stages: each way takes the sum of the stages and links once and the slowest stage for
    every further micro-batch.

    Args:
        forward_s, backward_s: seconds per stage, shape (p,); hop_s: seconds per boundary, shape (p - 1,).
    """
    f, b, c = (np.asarray(x, dtype=np.float64) for x in (forward_s, backward_s, hop_s))
    return float(f.sum() + b.sum() + 2.0 * c.sum() + (n_micro - 1) * (f.max() + b.max()))


def one_f_one_b_period_s(stage_s: Any, hop_s: Any) -> float:
    """Seconds between micro-batches of 1F1B in steady state: the largest mean over runs of neighbouring stages.

    A micro-batch goes down stages i..j and comes back while j - i + 1 micro-batches pass stage i, so that a run costs
    ``(sum of its stages + 2 x sum of its links) / (j - i + 1)`` per micro-batch. Without links that is the slowest
    stage; over the whole pipeline it is the hidden critical path of Pipette (arXiv 2405.18093): floor(m / p) round
    trips over all links.

    Args:
        stage_s: forward plus backward per stage, shape (p,); hop_s: seconds per boundary, shape (p - 1,).
    """
    t, c = np.asarray(stage_s, dtype=np.float64), np.asarray(hop_s, dtype=np.float64)
    stages, links = np.concatenate(([0.0], np.cumsum(t))), np.concatenate(([0.0], np.cumsum(c)))
    i, j = np.triu_indices(t.size)
    return float(((stages[j + 1] - stages[i] + 2.0 * (links[j] - links[i])) / (j - i + 1)).max())


def one_f_one_b_span_bound_s(stage_s: Any, hop_s: Any, n_micro: int) -> float:
    """Upper bound of 1F1B's span: one trip through all stages and links, then ``n_micro - 1`` periods.

    Exact where the last stage is the slowest and links cost nothing, and for equal stages and links whenever p divides
    m - 1. For stages that differ by up to a factor of four it lies 2% above the simulator on average and 30% at worst
    (short pipelines of a few micro-batches).
    """
    t, c = np.asarray(stage_s, dtype=np.float64), np.asarray(hop_s, dtype=np.float64)
    return float(t.sum() + 2.0 * c.sum()) + (n_micro - 1) * one_f_one_b_period_s(t, c)


def one_f_one_b_equal_span_s(stage_s: float, hop_s: float, pp: int, n_micro: int) -> float:
    """1F1B with equal stages and links, exact: ``(m + p - 1) t`` and the round trips over the links.

    The first micro-batch and every further p of them pay ``2 (p - 1)`` hops, a remainder of r micro-batches
    ``2 (r - 1)``.
    """
    trips, rest = divmod(n_micro - 1, pp)
    return (n_micro + pp - 1) * stage_s + 2.0 * hop_s * ((trips + 1) * (pp - 1) + max(rest - 1, 0))


def zero_bubble_h1_span_s(
    forward_s: float, input_gradient_s: float, weight_gradient_s: float, pp: int, n_micro: int
) -> float:
    """ZB-H1 with equal stages and free links, exact for ``n_micro >= pp``.

    The bubble is ``(p - 1)(F + B - W)`` (arXiv 2401.10241, Table 2), and never below ``(p - 1) max(F, B)``: the first
    forward travels to the last stage before that begins, and the last backward travels back after it.
    """
    f, b, w = forward_s, input_gradient_s, weight_gradient_s
    return n_micro * (f + b + w) + (pp - 1) * max(f + b - w, f, b)


def dualpipe_lowest_bubble_s(forward_s: float, input_gradient_s: float, weight_gradient_s: float, pp: int) -> float:
    """Lower bound of DualPipe's bubble with equal stages: ``(p / 2 - 1) max(F + B - W, F)``.

    The simulator, which sends the halves of a pair of passes on as soon as they end, meets it where F = B = W. The
    paper's ``(p / 2 - 1)(F&B + B - 3 W)`` (arXiv 2412.19437, Table 2; B is the whole backward) has pairs end as one.
    """
    return (pp / 2 - 1) * max(forward_s + input_gradient_s - weight_gradient_s, forward_s)
