"""A cluster of several pools: each a ``Cluster`` of equal nodes, joined by links that are slower than those inside.

``MixedCluster`` is to planning on mixed GPUs and mixed networks what ``Cluster`` is to planning on equal nodes. Its
loader is ``load_mixed.py``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .errors import InvalidProblemError
from .profile_dict import cluster_from_dict, cluster_to_dict
from .types import Cluster
from .yaml_reader import Section

_LINK_NUMBERS = ("bytes_per_s", "total_bytes_per_s", "latency_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """What joins two pools.

    Attributes:
        pools: names of the two, in the order of ``MixedCluster.pools``.
        kind: as of a ``Tier``: ``infiniband``, ``roce``, ``ethernet`` ...
        bytes_per_s: one direction, of one GPU that sends to the other pool.
        total_bytes_per_s: one direction, of all GPUs together (a trunk or a wide-area link); 0: no such limit.
        latency_s: start-up of one message beyond what the collective curve holds.
    """

    pools: tuple[str, str]
    kind: str
    bytes_per_s: float
    total_bytes_per_s: float = 0.0
    latency_s: float = 0.0

    def rate(self, senders: float) -> float:
        """Bytes per second of each of ``senders`` GPUs that send at once."""
        if self.total_bytes_per_s <= 0:
            return self.bytes_per_s
        return min(self.bytes_per_s, self.total_bytes_per_s / senders)


@dataclass(frozen=True, slots=True, kw_only=True)
class MixedCluster:
    """Pools of unequal GPUs, links or health.

    Attributes:
        pools: two or more clusters with different names; a pool's ``speed`` is applied to its GPU already.
        between: one link for every pair of pools.
        speeds: share of the GPU's usual rate at which each pool runs (1: healthy).
    """

    name: str
    pools: tuple[Cluster, ...]
    between: tuple[Link, ...]
    speeds: tuple[float, ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict)
    notes: str = ""

    def __post_init__(self) -> None:
        if not self.speeds:
            object.__setattr__(self, "speeds", (1.0,) * len(self.pools))
        names = self.names
        if len(names) < 2:
            raise InvalidProblemError(f"{self.name} has one pool; write it as a plain cluster, without `pools`.")
        for name in names:
            if names.count(name) > 1:
                raise InvalidProblemError(f"{self.name} has two pools named {name!r}; give each its own name.")
        for i, a in enumerate(names):
            for b in names[i + 1 :]:
                self.link(a, b)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the pools."""
        return tuple(pool.name for pool in self.pools)

    @property
    def n_gpus(self) -> int:
        """GPUs of all pools."""
        return sum(pool.n_gpus for pool in self.pools)

    def pool(self, name: str) -> Cluster:
        """The pool of a name.

        Raises:
            InvalidProblemError: there is none.
        """
        for pool in self.pools:
            if pool.name == name:
                return pool
        raise InvalidProblemError(f"{self.name} has no pool {name!r}; its pools are {', '.join(self.names)}.")

    def link(self, a: str, b: str) -> Link:
        """What joins two pools.

        Raises:
            InvalidProblemError: nothing is said of this pair.
        """
        for link in self.between:
            if set(link.pools) == {a, b}:
                return link
        raise InvalidProblemError(
            f"{self.name}: the link between pools {a} and {b} is unknown; add it under `between`, with its kind and "
            "gbytes_per_s_per_gpu."
        )


def mixed_to_dict(cluster: MixedCluster) -> dict[str, Any]:
    """Return a mixed cluster as JSON-ready data; ``mixed_from_dict`` gives back an equal one."""
    return {
        "name": cluster.name,
        "pools": [cluster_to_dict(pool) for pool in cluster.pools],
        "speeds": list(cluster.speeds),
        "between": [
            {"pools": list(link.pools), "kind": link.kind, **{key: getattr(link, key) for key in _LINK_NUMBERS}}
            for link in cluster.between
        ],
        "sources": dict(cluster.sources),
        "notes": cluster.notes,
    }


def mixed_from_dict(data: Mapping[str, Any], *, place: str = "cluster") -> MixedCluster:
    """Return the cluster of ``mixed_to_dict``.

    Raises:
        InvalidProblemError: a key is missing, unknown or of the wrong type.
    """
    section = Section(data, place)
    section.check_keys(("name", "pools", "speeds", "between", "sources", "notes"))
    pools = tuple(
        cluster_from_dict(pool.data, place=f"{place}: pools[{i}]") for i, pool in enumerate(section.sections("pools"))
    )
    speeds = data["speeds"]
    if not isinstance(speeds, list) or len(speeds) != len(pools):
        raise section.error("speeds", "does not have one number for each pool")
    sources = section.section("sources")
    return MixedCluster(
        name=section.text("name"),
        pools=pools,
        between=tuple(_link_from_dict(link) for link in section.sections("between")),
        speeds=tuple(Section({"speed": s}, place).figure("speed") for s in speeds),
        sources={key: sources.text(key) for key in sources.data},
        notes=section.text("notes"),
    )


def _link_from_dict(section: Section) -> Link:
    section.check_keys(("pools", "kind", *_LINK_NUMBERS))
    names = section.data["pools"]
    if not isinstance(names, list) or len(names) != 2 or not all(isinstance(n, str) for n in names):
        raise section.error("pools", "does not name two pools")
    return Link(
        pools=(names[0], names[1]),
        kind=section.text("kind"),
        bytes_per_s=section.figure("bytes_per_s"),
        total_bytes_per_s=section.figure("total_bytes_per_s", zero_allowed=True),
        latency_s=section.figure("latency_s", zero_allowed=True),
    )


def mixed_sha256(cluster: MixedCluster) -> str:
    """Return the SHA-256 of everything that the cost model can see of a mixed cluster."""
    text = json.dumps(mixed_to_dict(cluster), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
