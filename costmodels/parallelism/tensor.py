"""Tensor parallelism (Shoeybi et al., arXiv 1909.08053) and its sequence-parallel form (arXiv 2205.05198)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...hardware_profiles.types import Cluster
from ..collectives import collective_time_s


@dataclass(frozen=True, slots=True)
class TpWindows:
    """GEMMs behind which a block's backward collectives can hide, and the share that does (0: no overlap)."""

    input_gradient_s: Any
    weight_gradient_s: Any
    share: float


NO_OVERLAP = TpWindows(0.0, 0.0, 0.0)


def tp_block_s(
    cluster: Cluster, hidden: int, tokens: Any, element_bytes: float, c: Any, hide: TpWindows
) -> tuple[Any, Any, Any]:
    """Collectives of one parallel block (attention or feed-forward) in forward and in backward.

    Without sequence parallelism: one all-reduce of ``tokens x hidden`` each way. With it: an all-gather before and
    a reduce-scatter behind the block each way, plus a second all-gather in backward, since the sharded input is
    gathered again for the weight gradient (arXiv 2205.05198, section 4.2.2).

    In backward Megatron starts the all-reduce (or reduce-scatter) of the input gradient before the weight-gradient
    GEMM of the same linear, and with sequence parallelism gathers the input behind the input-gradient GEMM
    (``LinearWithGradAccumulationAndAsyncCommunication``); ``hide.share`` of the shorter of both is hidden.

    Args:
        hide: windows of the block's column-parallel linear.

    Returns:
        ``(forward_s, backward_s, hidden_s)``: exposed time each way and what backward hides; zero where ``tp == 1``.
    """
    n_bytes = tokens * hidden * element_bytes
    ar = collective_time_s(cluster, "all_reduce", n_bytes, c.tp)
    ag = collective_time_s(cluster, "all_gather", n_bytes, c.tp)
    rs = collective_time_s(cluster, "reduce_scatter", n_bytes, c.tp)
    sp = c.sequence_parallel == 1
    behind_wgrad = hide.share * np.minimum(np.where(sp, rs, ar), hide.weight_gradient_s)
    behind_dgrad = np.where(sp, hide.share * np.minimum(ag, hide.input_gradient_s), 0.0)
    saved: Any = np.where(c.tp > 1, behind_wgrad + behind_dgrad, 0.0)
    return np.where(sp, ag + rs, ar), np.where(sp, 2 * ag + rs, ar) - saved, saved
