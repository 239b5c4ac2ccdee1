"""Time of collectives and point-to-point transfers on a cluster of tiered links.

Latency, bandwidth by message size and group size, NIC sharing and the choice of algorithm (ring, tree, NVLS,
hierarchical) are formulae; their coefficients are ``Gpu.collectives`` curves under ``<link kind>/<operation>``, fitted
on nccl-tests style tables by ``benchmarks/fit_device_curves.py``. Everything takes scalars or arrays that broadcast.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..hardware_profiles.errors import InvalidProblemError, MissingProfileDataError
from ..hardware_profiles.types import Cluster, Curve, Gpu, Tier

#: Link kinds whose curves stand in where a kind has none of its own.
_KIND_STAND_IN = {
    "xgmi": ("nvlink",),
    "roce": ("infiniband",),
    "ethernet": ("infiniband",),
    "slingshot": ("infiniband",),
    "omnipath": ("infiniband",),
}
#: Operation whose curve is used (a broadcast is a pipelined ring like an all-gather).
_OP_CURVE = {"broadcast": "all_gather"}
#: Bytes that cross the busiest link of a ring, per byte of the buffer: factor * (n - 1) / n.
_WIRE_FACTOR = {"all_reduce": 2.0, "all_gather": 1.0, "reduce_scatter": 1.0, "all_to_all": 1.0}
OPERATIONS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast")
_NVLS_ABOVE = 4  # NCCL picks in-switch reduction only for more ranks than this (measured, see nvls_vs_ring)


@dataclass(frozen=True, slots=True)
class GroupSpan:
    """How a communication group lies over the tiers.

    Attributes:
        size: ranks in the group.
        members: per tier, ranks of the group inside one domain of that tier (for a group that does not divide the
            domain, the fewest that a straddling group finds in a domain). The last tier holds the whole group.
    """

    size: Any
    members: tuple[Any, ...]


def span(cluster: Cluster, size: Any, stride: Any) -> GroupSpan:
    """Lay groups of ``size`` ranks, ``stride`` ranks apart, over the domains of ``cluster``.

    Ranks are numbered tp fastest, then cp, dp, pp, and fill node after node, so a group occupies a block of
    ``size * stride`` ranks. Where block and domain divide each other a domain holds ``clip(domain / stride, 1, size)``
    members; otherwise some group straddles domains and finds ``gcd(domain, block) / stride`` (at least 1) in one.
    Domains wider than a node are taken as evenly filled (64 of the 72 GPUs of a rack where that divides the nodes).
    """
    size, stride = np.asarray(size), np.asarray(stride)
    block = (size * stride).astype(np.int64)
    members: list[Any] = []
    for tier in cluster.tiers[:-1]:
        domain = _filled_domain(tier.domain_gpus, cluster.nodes, cluster.gpus_per_node)
        if domain >= cluster.n_gpus:
            members.append(size)
            continue
        common = _gcd_table(domain)[block % domain]
        inner = members[-1] if members else 1
        members.append(np.clip(common // stride, inner, size))
    return GroupSpan(size=size, members=(*members, size))


def collective_time_s(cluster: Cluster, op: str, n_bytes: Any, size: Any, stride: Any = 1) -> Any:
    """Seconds of one collective in a group of ``size`` ranks, ``stride`` apart, all like groups running at once.

    Args:
        cluster: tiers and curves.
        op: ``all_reduce``, ``all_gather``, ``reduce_scatter``, ``all_to_all`` or ``broadcast``.
        n_bytes: the full unsharded buffer; for ``all_to_all`` the buffer of one rank (its own share stays local,
            ``(size - 1) / size`` of it travels, as nccl-tests counts).
        size: ranks; 1 gives 0. stride: distance of neighbouring ranks.

    Within one tier: ``start_s + hop_s * (n - 1) + wire / bandwidth * (1 + sqrt(half_bytes / wire))``. Over several
    tiers a ring pays the hops of each tier and the slowest tier's bandwidth, where a group with k members in a node
    drives k NICs; all-reduce also tries a tree (few hops), in-switch reduction, and a hierarchy (reduce-scatter in the
    node, all-reduce across, all-gather in the node), and takes the fastest. All-to-all runs its local and remote
    parts at once. Left out: congestion of other groups on the same links, adaptive routing, SHARP over InfiniBand.

    Raises:
        InvalidProblemError: unknown operation; MissingProfileDataError: no curve for a link kind.
    """
    if op not in OPERATIONS:
        raise InvalidProblemError(f"Unknown collective {op!r}; use one of {', '.join(OPERATIONS)}.")
    n_bytes = np.asarray(n_bytes, float)
    group = span(cluster, size, stride)
    if op == "all_to_all":
        seconds = _all_to_all_s(cluster, n_bytes, group)
    elif op == "all_reduce":
        seconds = _all_reduce_s(cluster, n_bytes, group)
    else:
        seconds = _ring_s(cluster, op, n_bytes, group)
    return np.where(group.size > 1, seconds, 0.0)[()]


def p2p_time_s(cluster: Cluster, n_bytes: Any, stride: Any, size: Any = None) -> Any:
    """Seconds of a send/receive between neighbours ``stride`` ranks apart, every pair at once.

    The slowest boundary counts: a chain of ``size`` ranks (pipeline stages, or a ring of context ranks) uses a tier
    only if every chain lies inside one of its domains; otherwise some neighbours meet across domains, over the one
    NIC of each GPU.

    Args:
        cluster: tiers and curves; n_bytes: of one message; stride: distance of neighbours.
        size: ranks of the chain; by default as many as fill the cluster (pipeline stages are the outermost degree).
    """
    n_bytes = np.asarray(n_bytes, float)
    stride = np.asarray(stride)
    group = span(cluster, np.maximum(cluster.n_gpus // stride, 1) if size is None else size, stride)
    outer = _outermost(group)
    seconds: Any = 0.0
    for index, tier in enumerate(cluster.tiers):
        curve = _curve(cluster.gpu, tier, "p2p")
        bandwidth = tier.bytes_per_s * curve["efficiency"]
        here = curve["start_s"] + tier.latency_s + (n_bytes + np.sqrt(n_bytes * curve["half_bytes"])) / bandwidth
        seconds = np.where(outer == index, here, seconds)
    return seconds[()]


def p2p_efficiency(cluster: Cluster) -> float:
    """Share of the nominal rate that a large transfer achieves on the outermost tier."""
    return float(_curve(cluster.gpu, cluster.tiers[-1], "p2p")["efficiency"])


def _all_reduce_s(cluster: Cluster, n_bytes: Any, group: GroupSpan) -> Any:
    best = _ring_s(cluster, "all_reduce", n_bytes, group)
    if np.any(_outermost(group) > 0):  # only groups that leave tier 0 have a choice; saves time, changes nothing
        best = np.minimum(best, _tree_s(cluster, n_bytes, group))
        best = np.minimum(best, _hierarchical_s(cluster, n_bytes, group))
    tier = cluster.tiers[0]
    if tier.nvls:
        curve = _curve(cluster.gpu, tier, "all_reduce")
        inside = (group.members[0] >= group.size) & (group.size > _NVLS_ABOVE)
        best = np.where(inside, np.minimum(best, _nvls_s(tier, curve, n_bytes, group.size)), best)
    return best


def _nvls_s(tier: Tier, curve: Curve, n_bytes: Any, n: Any) -> Any:
    """In-switch reduction: the buffer crosses each GPU's links once up and once down, whatever n."""
    bandwidth = tier.bytes_per_s * curve["nvls_efficiency"]
    wire = 2.0 * n_bytes + np.sqrt(n_bytes * curve["nvls_half_bytes"])
    return curve["nvls_start_s"] + tier.latency_s + wire / bandwidth


def _ring_s(cluster: Cluster, op: str, n_bytes: Any, group: GroupSpan) -> Any:
    """Ring over every tier that the group spans: hops add up, the slowest tier sets the rate."""
    turns = _WIRE_FACTOR.get(op, 1.0)
    share = 1.0 if op == "broadcast" else turns * (group.size - 1.0) / group.size
    wire = n_bytes * share
    latency: Any = 0.0
    transfer: Any = 0.0
    below: Any = np.asarray(1)
    outer = _outermost(group)
    for index, (tier, inside) in enumerate(zip(cluster.tiers, group.members, strict=True)):
        spanned = inside > below
        if not np.any(spanned):
            continue
        curve = _curve(cluster.gpu, tier, op)
        bandwidth = _tier_bandwidth(tier, curve, index, below, inside)
        hops = turns * (group.size / below - group.size / inside)
        hop_s = np.where(outer == index, curve["hop_s"], curve.coefficients.get("hop_inside_s", curve["hop_s"]))
        latency = latency + np.where(spanned, hops * (hop_s + tier.latency_s), 0.0)
        latency = latency + np.where(outer == index, curve["start_s"], 0.0)
        here = (wire + np.sqrt(wire * curve["half_bytes"])) / bandwidth
        transfer = np.maximum(transfer, np.where(spanned, here, 0.0))
        below = inside
    return latency + transfer


def _tree_s(cluster: Cluster, n_bytes: Any, group: GroupSpan) -> Any:
    """Double binary tree: logarithmic latency, at ``tree_efficiency`` of the ring's rate."""
    latency: Any = 0.0
    transfer: Any = 0.0
    below: Any = np.asarray(1)
    outer = _outermost(group)
    for index, (tier, inside) in enumerate(zip(cluster.tiers, group.members, strict=True)):
        spanned = inside > below
        if not np.any(spanned):
            continue
        curve = _curve(cluster.gpu, tier, "all_reduce")
        bandwidth = _tier_bandwidth(tier, curve, index, below, inside) * curve["tree_efficiency"]
        depth = np.log2(np.maximum(inside / below, 1.0))
        latency = latency + 2.0 * depth * (curve["tree_hop_s"] + tier.latency_s)
        latency = latency + np.where(outer == index, curve["tree_start_s"], 0.0)
        here = (2.0 * n_bytes + np.sqrt(n_bytes * curve["tree_half_bytes"])) / bandwidth
        transfer = np.maximum(transfer, np.where(spanned, here, 0.0))
        below = inside
    return np.where(outer > 0, latency + transfer, np.inf)  # inside one domain the ring's fit covers all algorithms


def _hierarchical_s(cluster: Cluster, n_bytes: Any, group: GroupSpan) -> Any:
    """Reduce-scatter inside tier 0, all-reduce of the shards across, all-gather inside; infinite where not both."""
    local, remote = group.members[0], group.size / group.members[0]
    inner = GroupSpan(size=local, members=(local,) * len(group.members))
    # One shard per local rank: its group has one member in each node, so every one has a NIC of its own.
    across = GroupSpan(size=remote, members=tuple(m / local for m in group.members))
    shard = n_bytes / local
    seconds = (
        _ring_s(cluster, "reduce_scatter", n_bytes, inner)
        + np.minimum(_ring_s(cluster, "all_reduce", shard, across), _tree_s(cluster, shard, across))
        + _ring_s(cluster, "all_gather", n_bytes, inner)
    )
    return np.where((local > 1) & (remote > 1), seconds, np.inf)


def _all_to_all_s(cluster: Cluster, n_bytes: Any, group: GroupSpan) -> Any:
    """Every rank sends ``n_bytes / size`` to each peer; the tiers work at once, the slowest counts."""
    transfer: Any = 0.0
    latency: Any = 0.0
    below: Any = np.asarray(1)
    outer = _outermost(group)
    for index, (tier, inside) in enumerate(zip(cluster.tiers, group.members, strict=True)):
        spanned = inside > below
        if not np.any(spanned):
            continue
        curve = _curve(cluster.gpu, tier, "all_to_all")
        wire = n_bytes * (group.size - below) / group.size  # all that leaves a lower domain passes this tier's port
        wire = np.where(index == 0, n_bytes * (inside - 1.0) / group.size, wire)
        bandwidth = _tier_bandwidth(tier, curve, 0, below, inside)
        here = (wire + np.sqrt(wire * curve["half_bytes"])) / bandwidth
        transfer = np.maximum(transfer, np.where(spanned, here, 0.0))
        latency = latency + np.where(spanned, (inside - below) * (curve["hop_s"] + tier.latency_s), 0.0)
        latency = latency + np.where(outer == index, curve["start_s"], 0.0)
        below = inside
    return latency + transfer


def _tier_bandwidth(tier: Tier, curve: Curve, index: int, below: Any, inside: Any) -> Any:
    """Bytes/s of one ring (or one rank) at a tier.

    Inside the first tier the rate grows with the group as ``n / (n + peers_half)``, or as the used share of the
    point-to-point links to the power ``mesh`` where there is no switch, and falls with ``crowding`` on a shared bus.
    At outer tiers a ring that has ``below`` members in a lower domain drives as many ports.
    """
    rate = tier.bytes_per_s * curve["efficiency"]
    if index > 0:
        return rate * below
    c = curve.coefficients
    n = inside * 1.0
    if c.get("peers_half", 0.0):
        rate = rate * n / (n + c["peers_half"])
    if c.get("mesh", 0.0):
        rate = rate * np.minimum((np.maximum(n, 2.0) - 1.0) / max(tier.domain_gpus - 1, 1), 1.0) ** c["mesh"]
    if c.get("crowding", 0.0):
        rate = rate / (1.0 + c["crowding"] * np.maximum(n - 2.0, 0.0))
    return rate


def _outermost(group: GroupSpan) -> Any:
    """Index of the outermost tier that the group needs."""
    outer: Any = np.zeros_like(group.size, dtype=np.int64)
    for inside in group.members[:-1]:
        outer = outer + (inside < group.size)
    return outer


def _curve(gpu: Gpu, tier: Tier, op: str) -> Curve:
    name = _OP_CURVE.get(op, op)
    for kind in (tier.kind, *_KIND_STAND_IN.get(tier.kind, ())):
        found = gpu.collectives.get(f"{kind}/{name}")
        if found is not None:
            return found
    raise MissingProfileDataError(
        f"{gpu.name} has no curve {tier.kind}/{name}; add it under collectives in hardware_profiles/curves/."
    )


@lru_cache(maxsize=64)
def _filled_domain(domain: int, nodes: int, gpus_per_node: int) -> int:
    """GPUs used in each domain when the nodes are spread evenly over few of them, else the whole domain."""
    per_domain = domain // gpus_per_node
    if per_domain <= 1:
        return domain
    fewest = -(-nodes // per_domain)
    for domains in range(fewest, max(fewest, fewest * 4 // 3) + 1):
        if nodes % domains == 0:
            return nodes // domains * gpus_per_node
    return domain


@lru_cache(maxsize=64)
def _gcd_table(domain: int) -> NDArray[np.int64]:
    """``gcd(domain, block)`` for ``block % domain`` = 0 .. domain - 1."""
    return np.gcd(domain, np.arange(domain, dtype=np.int64))
