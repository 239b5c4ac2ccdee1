"""ZeRO++: a second partition of the parameters inside a node, and quantized collectives (arXiv 2306.10209).

ZeRO-3 sends the parameters across nodes in forward and in backward and the gradients once: with M bytes of 16-bit
parameters a node sends 3 M. hpZ gathers from the second copy inside a group of ``hpz`` ranks (0 across), qwZ gathers
8-bit weights (M / 2), qgZ replaces the reduce-scatter by 4-bit all-to-alls, inside the node and then across (M / 4):
0.75 M together. DeepSpeed 0.19 (``stage3.py``, ``partition_parameters.py``) gathers across nodes in the first forward
of a step only: the second copy stays valid until the optimizer's step.

Left out: scales of the quantized blocks (below 1% of the bytes), tensors that fall back to 16 bits (one-dimensional
ones), the copy into the second partition.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...hardware_profiles.types import Cluster
from ..collectives import collective_time_s
from ..compute import memory_bound_time_s
from .data import DpGroup

INT8_BYTES = 1.0
INT4_BYTES = 0.5


def gathered_weight_bytes(c: Any, whole: float) -> Any:
    """Bytes of a parameter on the wire of a gather, ``whole`` without qwZ."""
    return np.where(c.quantized_weights == 1, min(INT8_BYTES, whole), whole)


def secondary_group(c: Any, group: DpGroup) -> DpGroup:
    """Ranks that gather from the second copy; the group's own shards where there is none."""
    ranks = np.where(c.hpz > 1, np.minimum(c.hpz, group.size), group.shard)
    return DpGroup(ranks, ranks, group.stride)


def quantized_reduction_s(cluster: Cluster, n_params: Any, group: DpGroup) -> Any:
    """Reduce the gradients of ``n_params`` parameters by 4-bit all-to-alls: among the ranks of a node, then one rank
    of each node with its like."""
    local = np.clip(cluster.gpus_per_node // group.stride, 1, group.size)
    n_bytes = INT4_BYTES * n_params
    inside = collective_time_s(cluster, "all_to_all", n_bytes, local, group.stride)
    nodes = np.maximum(group.size // local, 1)
    across = collective_time_s(cluster, "all_to_all", n_bytes / local, nodes, group.stride * local)
    return inside + across


def weight_quantization_s(cluster: Cluster, n_params: Any, group: DpGroup) -> Any:
    """Kernels of one quantized gather: the own shard to 8 bits, everything received back to 16."""
    n_bytes = (2.0 + INT8_BYTES) * (n_params / np.maximum(group.shard, 1) + n_params)
    return memory_bound_time_s(cluster.gpu, n_bytes, 2)


def gradient_quantization_s(cluster: Cluster, n_params: Any) -> Any:
    """Kernels of one quantized reduction: 16-bit gradients to 4 bits, the sums of the node's and of all nodes'."""
    n_bytes = (2.0 + INT4_BYTES) * n_params + 2.0 * INT4_BYTES * n_params
    return memory_bound_time_s(cluster.gpu, n_bytes, 3)
