"""Data parallelism: gradient reduction, parameter gathering, and what ZeRO/FSDP/HSDP shard over which ranks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...hardware_profiles.types import Cluster
from ..collectives import collective_time_s


@dataclass(frozen=True, slots=True)
class DpGroup:
    """Ranks that hold the same parameters.

    Attributes:
        size: replicas; shard: ranks over which ZeRO shards; stride: distance of neighbours in rank order.
    """

    size: Any
    shard: Any
    stride: Any


def dense_group(c: Any) -> DpGroup:
    """Attention, dense FFN, embeddings: replicated over dp x cp; ranks tp apart."""
    size = c.dp * c.cp
    return DpGroup(size, np.minimum(c.dp_shard, size), c.tp)


def expert_group(c: Any) -> DpGroup:
    """Routed experts: replicated over tp*cp*dp / (ep*etp); ranks ep*etp apart."""
    size = np.maximum(c.tp * c.cp * c.dp // (c.ep * c.etp), 1)
    # HSDP shards experts over the same fraction of their replicas as the dense parameters
    shard = np.maximum(size * np.minimum(c.dp_shard, c.dp * c.cp) // (c.dp * c.cp), 1)
    return DpGroup(size, shard, c.ep * c.etp)


def gradient_reduction_s(cluster: Cluster, n_bytes: Any, group: DpGroup, zero_stage: Any) -> Any:
    """Reduce one gradient buffer of ``n_bytes``: all-reduce (ZeRO 0), or reduce-scatter inside the shard group and
    all-reduce of the shard between groups (HSDP, optimizer instances)."""
    all_reduce = collective_time_s(cluster, "all_reduce", n_bytes, group.size, group.stride)
    scatter = collective_time_s(cluster, "reduce_scatter", n_bytes, group.shard, group.stride)
    between = collective_time_s(
        cluster,
        "all_reduce",
        n_bytes / group.shard,
        np.maximum(group.size // group.shard, 1),
        group.stride * group.shard,
    )
    return np.where(zero_stage == 0, all_reduce, scatter + between)


def parameter_gather_s(cluster: Cluster, n_bytes: Any, group: DpGroup, zero_stage: Any) -> Any:
    """All-gather of updated parameters (ZeRO 1 to 3) inside the shard group."""
    gather = collective_time_s(cluster, "all_gather", n_bytes, group.shard, group.stride)
    return np.where(zero_stage == 0, 0.0, gather)


def exposed_s(traffic_s: Any, window_s: Any, share: Any, enabled: Any) -> Any:
    """Traffic that compute does not hide: at most ``share`` of it, and no more than fits into the window."""
    hidden = np.minimum(share * traffic_s, window_s)
    return traffic_s - np.where(enabled, hidden, 0.0)
