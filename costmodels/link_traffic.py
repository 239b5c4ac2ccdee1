"""Which nodes of a plan talk to which, and how many bytes a step sends between them.

Ranks (tp fastest, then cp, dp, pp) fill nodes block after block; such a block is a *slot*. Every dimension whose groups
leave a slot is a ``Flow``: edges between slots in rows, each row being something that finishes as a whole.

- Rings (tp, cp, dp, expert dp): NCCL passes from node to node in rank order, all GPUs of a node driving their own
  adapters, and runs at the rate of the slowest link: each link is a row.
- Pipelines: the boundaries of one pipeline add up, the slowest pipeline counts (Pipette, arXiv 2405.18093, section 4:
  under 1F1B the round trip through all stages repeats every pp micro-batches).
- All-to-all (ep, Ulysses cp): what one node sends to all others leaves through one port: its sends are a row.

How many bytes: not counted anew but read off the cost model, which is asked what each dimension costs at the fastest
and at the slowest link. The secant is what a step loses per second per byte: overlap, derating and the efficiency of
collectives are in it. Left out: flows that share a link at the same moment; idle time of the pipeline that grows
with slower tp, cp and ep collectives; the tied embedding's transfer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..hardware_profiles.errors import InvalidProblemError
from ..hardware_profiles.types import Cluster
from .collectives import collective_time_s
from .memory import stage_parameters
from .model_spec import ModelSpec
from .parallel import CpComm, ParallelConfig
from .parallelism.data import DpGroup, dense_group, expert_group, gradient_reduction_s, parameter_gather_s
from .software import Software
from .training import estimate
from .workload import Workload

Ints = NDArray[np.int64]
#: Coefficients of software that hides nothing.
_NO_OVERLAP = {
    "dp_overlap": 0.0, "fsdp_overlap": 0.0, "tp_grad_overlap": 0.0, "tp_overlap": 0.0, "ep_overlap": 0.0,
    "p2p_interleaved": 1.0, "p2p_exposed": 1.0,
}  # fmt: skip
#: Parts of ``TimeBreakdown`` by dimension.
PARTS = {"tp": ("tp_s",), "cp": ("cp_s",), "ep": ("ep_s",), "pp": ("pp_s",), "dp": ("dp_s", "param_gather_s")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """Traffic of one dimension between slots.

    Attributes:
        name: of the flow; dimension: key of ``PARTS``.
        edges: (from, to) slots; share: of the flow's bytes on each edge, such that every fully crossing row costs
            ``bytes * s`` on links that all take s seconds per byte; row_starts: first edge of each row.
        n_bytes: per GPU and step, as exposed seconds would have it; 0 where nothing is priced yet.
        hidden_bytes: the same for what overlap hides even on the slowest link.
    """

    name: str
    dimension: str
    edges: tuple[tuple[int, int], ...]
    share: tuple[float, ...]
    row_starts: tuple[int, ...]
    n_bytes: float = 0.0
    hidden_bytes: float = 0.0


def count_slots(config: ParallelConfig, gpus_per_node: int) -> int:
    """Nodes that the plan fills.

    Raises:
        InvalidProblemError: it fills its last node only in part.
    """
    world = config.world_size
    if world > gpus_per_node and world % gpus_per_node:
        raise InvalidProblemError(
            f"The plan has {world} ranks, which do not fill nodes of {gpus_per_node} GPUs; placement needs full nodes."
        )
    return max(world // gpus_per_node, 1)


def slot_flows(config: ParallelConfig, gpus_per_node: int, *, directed: bool = False) -> tuple[Flow, ...]:
    """Every flow of a configuration that leaves a node, without bytes.

    Args:
        directed: links differ by direction, so that backward transfers and receives need edges of their own.
    """
    count_slots(config, gpus_per_node)
    c, g = config, gpus_per_node
    world, block = c.world_size, c.tp * c.cp * c.dp
    experts = c.ep * c.etp
    cp_ring = c.cp_comm != CpComm.ULYSSES
    flows = [
        _ring("tp", "tp", _groups(world, c.tp, 1), g),
        (_ring if cp_ring else _all_to_all)("cp", "cp", _groups(world, c.cp, c.tp), g, directed),
        _all_to_all("ep", "ep", _groups(world, c.ep, c.etp), g, directed),
        _pipelines(_groups(world, c.pp, block), g, c.vp, directed),
    ]
    dense, expert = dense_group(c), expert_group(c)
    for name, group, present in (("dp", dense, True), ("expert dp", expert, experts > 1)):
        if not present:
            continue
        for suffix, size, stride in _dp_rings(group, c.zero_stage):
            flows.append(_ring(f"{name}{suffix}", "dp", _groups(world, size, stride), g))
    return tuple(f for f in flows if f.edges)


def price_flows(
    flows: Sequence[Flow],
    model: ModelSpec,
    workload: Workload,
    config: ParallelConfig,
    cluster: Cluster,
    software: Software,
    rates: tuple[float, float],
) -> tuple[Flow, ...]:
    """The same flows with bytes, from the secant of the cost model between two rates.

    Args:
        rates: slowest and fastest link, nominal bytes/s per GPU; if they are equal, half of it stands for a slower one.
    """
    slow, fast = rates
    slow = slow if slow < fast * (1 - 1e-6) else fast / 2
    at_fast, at_slow = at_rate(cluster, fast), at_rate(cluster, slow)
    per_byte = 1.0 / slow - 1.0 / fast

    def lost(sw: Software) -> dict[str, float]:
        quick = estimate(model, workload, config, at_fast, sw).time
        late = estimate(model, workload, config, at_slow, sw).time
        return {d: max(sum(float(getattr(late, p) - getattr(quick, p)) for p in PARTS[d]), 0.0) for d in PARTS}

    bare = replace(software, coefficients={**software.coefficients, **_NO_OVERLAP})
    shown, whole = lost(software), lost(bare)
    weight = {f.name: 1.0 for f in flows}
    dp = [f.name for f in flows if f.dimension == "dp"]
    if len(dp) > 1:
        raw = {n: _dp_slope(n, model, workload, config, at_fast, at_slow) for n in dp}
        total = sum(raw.values()) or 1.0
        weight |= {n: raw[n] / total for n in dp}
    out = []
    for f in flows:
        exposed, all_of_it = (x[f.dimension] * weight[f.name] / per_byte for x in (shown, whole))
        out.append(replace(f, n_bytes=exposed, hidden_bytes=max(all_of_it - exposed, 0.0)))
    return tuple(out)


def at_rate(cluster: Cluster, bytes_per_s: float) -> Cluster:
    """The cluster with every link between nodes at one rate."""
    tiers = tuple(
        replace(t, bytes_per_s=bytes_per_s) if t.domain_gpus > cluster.gpus_per_node else t for t in cluster.tiers
    )
    return replace(cluster, tiers=tiers)


# -- bytes of the rings of data parallelism --------------------------------------------------------------------------


def _dp_rings(group: DpGroup, zero_stage: int) -> list[tuple[str, int, int]]:
    """Name, size and stride of the rings that ``parallelism.data`` prices for one group."""
    size, shard, stride = int(group.size), int(group.shard), int(group.stride)
    if zero_stage == 0 or shard == size:
        return [("", size, stride)]
    return [(" shards", shard, stride), (" replicas", size // shard, stride * shard)]


def _dp_slope(
    name: str, model: ModelSpec, workload: Workload, c: ParallelConfig, fast: Cluster, slow: Cluster
) -> float:
    """Seconds by which one flow of data parallelism is slower on the slow links, overlap aside."""
    params = stage_parameters(model, c)
    group = expert_group(c) if name.startswith("expert") else dense_group(c)
    count = params.expert if name.startswith("expert") else params.dense
    n = count.at_busiest(params.dense + params.expert)
    grad, weight = workload.grad_dtype_bytes, 1.0 if workload.fp8_params else 2.0

    def seconds(cluster: Cluster) -> Any:
        if name.endswith("replicas"):
            shard = n * grad / group.shard
            size, stride = group.size // group.shard, group.stride * group.shard
            return collective_time_s(cluster, "all_reduce", shard, size, stride)
        if name.endswith("shards"):
            scatter = collective_time_s(cluster, "reduce_scatter", n * grad, group.shard, group.stride)
            return scatter + parameter_gather_s(cluster, n * weight, group, c.zero_stage)
        reduce = gradient_reduction_s(cluster, n * grad, group, c.zero_stage)
        return reduce + parameter_gather_s(cluster, n * weight, group, c.zero_stage)

    return max(float(seconds(slow) - seconds(fast)), 0.0)


# -- edges ---------------------------------------------------------------------------------------------------------


def _groups(world: int, size: int, stride: int) -> Ints:
    """(groups, size) ranks of groups that lie ``stride`` apart in blocks of ``size * stride``."""
    return np.arange(world, dtype=np.int64).reshape(-1, size, stride).transpose(0, 2, 1).reshape(-1, size)


def _distinct(groups: Ints, gpus_per_node: int) -> Ints:
    """(k, size) slots of groups, each sequence once, those that leave a slot only."""
    slots: Ints = np.unique(groups // gpus_per_node, axis=0)
    spread: Ints = slots[(slots != slots[:, :1]).any(axis=1)]
    return spread


def _flow(name: str, dimension: str, rows: Iterable[Sequence[tuple[int, int, float]]]) -> Flow:
    edges: list[tuple[int, int]] = []
    share: list[float] = []
    starts: list[int] = []
    for row in rows:
        starts.append(len(edges))
        for u, v, part in row:
            edges.append((u, v))
            share.append(part)
    return Flow(name=name, dimension=dimension, edges=tuple(edges), share=tuple(share), row_starts=tuple(starts))


def _ring(name: str, dimension: str, groups: Ints, gpus_per_node: int, directed: bool = False) -> Flow:
    """A row per link: once around the nodes in rank order."""
    links: dict[tuple[int, int], None] = {}
    for slots in _distinct(groups, gpus_per_node).tolist():
        around = list(dict.fromkeys(slots))
        for u, v in zip(around, [*around[1:], around[0]], strict=True):
            links[u, v] = None
    return _flow(name, dimension, [[(u, v, 1.0)] for u, v in links])


def _pipelines(groups: Ints, gpus_per_node: int, vp: int, directed: bool) -> Flow:
    """A row per pipeline; interleaving passes every boundary vp times and returns to the first stage in between."""
    rows = []
    for slots in _distinct(groups, gpus_per_node).tolist():
        hops = [(u, v, float(vp)) for u, v in pairwise(slots)]
        if vp > 1:
            hops.append((slots[-1], slots[0], vp - 1.0))
        rows.append([hop for hop in hops if hop[0] != hop[1]])
    most = max((sum(w for _, _, w in row) for row in rows), default=1.0)
    if directed:
        rows = [[*((u, v, w / 2) for u, v, w in row), *((v, u, w / 2) for u, v, w in row)] for row in rows]
    return _flow("pp", "pp", [[(u, v, w / most) for u, v, w in row] for row in rows])


def _all_to_all(name: str, dimension: str, groups: Ints, gpus_per_node: int, directed: bool = False) -> Flow:
    """A row per node and group: its sends (and, where directions differ, its receives)."""
    rows: dict[tuple[tuple[int, int, float], ...], None] = {}
    for slots in _distinct(groups, gpus_per_node).tolist():
        members = {s: slots.count(s) for s in slots}
        for u in members:
            away = len(slots) - members[u]
            peers = [(v, k / away) for v, k in members.items() if v != u]
            rows[tuple((u, v, part) for v, part in peers)] = None
            if directed:
                rows[tuple((v, u, part) for v, part in peers)] = None
    return _flow(name, dimension, list(rows))
