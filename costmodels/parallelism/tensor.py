"""Tensor parallelism (Shoeybi et al., arXiv 1909.08053) and its sequence-parallel form (arXiv 2205.05198)."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...hardware_profiles.types import Cluster
from ..collectives import collective_time_s


def tp_block_s(cluster: Cluster, hidden: int, tokens: Any, element_bytes: float, c: Any) -> tuple[Any, Any]:
    """Collectives of one parallel block (attention or feed-forward) in forward and in backward.

    Without sequence parallelism: one all-reduce of ``tokens x hidden`` each way. With it: an all-gather before and
    a reduce-scatter behind the block each way, plus a second all-gather in backward, since the sharded input is
    gathered again for the weight gradient (arXiv 2205.05198, section 4.2.2).

    Returns:
        ``(forward_s, backward_s)``, zero where ``tp == 1``.
    """
    n_bytes = tokens * hidden * element_bytes
    ar = collective_time_s(cluster, "all_reduce", n_bytes, c.tp)
    ag = collective_time_s(cluster, "all_gather", n_bytes, c.tp)
    rs = collective_time_s(cluster, "reduce_scatter", n_bytes, c.tp)
    sp = c.sequence_parallel == 1
    return np.where(sp, ag + rs, ar), np.where(sp, 2 * ag + rs, ar)
