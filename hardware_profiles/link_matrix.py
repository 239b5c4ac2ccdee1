"""Bandwidth between every two nodes of a cluster, measured or written down by tier.

A ``Tier`` says what a link should give; a ``LinkMatrix`` says what each pair of nodes gives, so that a planner can put
neighbours in the communication pattern on nodes that reach each other fast. Readers stand in ``link_readers.py``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from .errors import InvalidProblemError, did_you_mean

#: Links whose bandwidths differ by less than this (relative) are called equal.
EQUAL = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkMatrix:
    """Node-to-node bandwidth.

    Attributes:
        nodes: names in the order of the file; bytes_per_s: (m, m), from row to column, one direction, infinite on the
            diagonal; per: what one figure is the bandwidth of, ``gpu`` (each GPU of the node has as much, as in
            ``Tier.bytes_per_s`` and in nccl-tests) or ``node`` (its GPUs share it).
        racks, pods: label of each node, empty where unknown.
        degraded: factor by node, below 1 (already applied to ``bytes_per_s``).
        gpu_order: GPUs of a node in the order of its local ranks, for nodes where it is not 0, 1, 2, ...
        measured: the figures are achieved rates, not nominal ones.
        source: where they come from.

    Raises:
        InvalidProblemError: the shapes disagree, a name stands twice, or a bandwidth is not a positive number.
    """

    nodes: tuple[str, ...]
    bytes_per_s: NDArray[np.float64]
    per: str = "gpu"
    racks: tuple[str, ...] = ()
    pods: tuple[str, ...] = ()
    degraded: Mapping[str, float] = field(default_factory=dict)
    gpu_order: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    measured: bool = False
    source: str = ""

    def __post_init__(self) -> None:
        m = len(self.nodes)
        where = self.source or "links"
        if not m:
            raise InvalidProblemError(f"{where}: no node is named; a link matrix needs at least one.")
        matrix = np.array(self.bytes_per_s, float)
        if matrix.shape != (m, m):
            raise InvalidProblemError(f"{where}: the matrix is {matrix.shape}, but {m} nodes are named.")
        twice = [n for i, n in enumerate(self.nodes) if n in self.nodes[:i]]
        if twice:
            raise InvalidProblemError(f"{where}: node {twice[0]!r} stands there twice; every node needs its own name.")
        np.fill_diagonal(matrix, np.inf)
        bad = np.argwhere(~(matrix > 0) | (np.isinf(matrix) & ~np.eye(m, dtype=bool)))
        if len(bad):
            i, j = bad[0]
            raise InvalidProblemError(
                f"{where}: the bandwidth from {self.nodes[i]} to {self.nodes[j]} is {matrix[i, j]:g}; it must be a "
                "positive number (leave a node that cannot be reached out)."
            )
        for labels, what in ((self.racks, "racks"), (self.pods, "pods")):
            if labels and len(labels) != m:
                raise InvalidProblemError(f"{where}: {len(labels)} {what} are given for {m} nodes.")
        if self.per not in ("gpu", "node"):
            raise InvalidProblemError(f"{where}: per is {self.per!r}; it must be gpu or node.")
        matrix.setflags(write=False)
        object.__setattr__(self, "bytes_per_s", matrix)

    @property
    def symmetric(self) -> bool:
        """Both directions of every pair are equal."""
        with np.errstate(invalid="ignore"):
            return bool(np.allclose(self.bytes_per_s, self.bytes_per_s.T, rtol=EQUAL))

    @property
    def spread(self) -> tuple[float, float]:
        """Slowest and fastest link between two nodes, bytes/s (both infinite for a single node)."""
        off = self.bytes_per_s[~np.eye(len(self.nodes), dtype=bool)]
        return (float(off.min()), float(off.max())) if len(off) else (np.inf, np.inf)

    @property
    def equal(self) -> bool:
        """All links are alike, so that the order of nodes changes nothing."""
        low, high = self.spread
        return low == high or high <= low * (1 + EQUAL)

    def per_gpu(self, gpus_per_node: int) -> NDArray[np.float64]:
        """Bytes/s of each GPU when all GPUs of a node send at once, (m, m)."""
        return self.bytes_per_s / (gpus_per_node if self.per == "node" else 1)

    def seconds_per_byte(self, gpus_per_node: int) -> NDArray[np.float64]:
        """``1 / per_gpu``, zero on the diagonal."""
        return 1.0 / self.per_gpu(gpus_per_node)

    def rack_order(self) -> tuple[int, ...]:
        """Nodes sorted by pod, rack and place in the file (racks in the order of their first node).

        Raises:
            InvalidProblemError: no rack is known.
        """
        if not self.racks:
            raise InvalidProblemError(f"{self.source or 'links'}: no rack of any node is known.")
        pods = self.pods or ("",) * len(self.nodes)
        first_pod = {p: pods.index(p) for p in pods}
        first_rack = {r: self.racks.index(r) for r in self.racks}
        return tuple(sorted(range(len(self.nodes)), key=lambda i: (first_pod[pods[i]], first_rack[self.racks[i]], i)))

    def index(self, names: Iterable[str]) -> tuple[int, ...]:
        """Places of nodes by name.

        Raises:
            InvalidProblemError: a name is unknown.
        """
        place = {n: i for i, n in enumerate(self.nodes)}
        out = []
        for name in names:
            if name not in place:
                near = did_you_mean(name, self.nodes)
                raise InvalidProblemError(f"{self.source or 'links'}: there is no node {name!r}.{near}")
            out.append(place[name])
        return tuple(out)

    def reordered(self, order: Iterable[int]) -> LinkMatrix:
        """The same links of these nodes, in this order."""
        o = list(order)
        kept = {self.nodes[i] for i in o}
        return replace(
            self,
            nodes=tuple(self.nodes[i] for i in o),
            bytes_per_s=self.bytes_per_s[np.ix_(o, o)],
            racks=tuple(self.racks[i] for i in o) if self.racks else (),
            pods=tuple(self.pods[i] for i in o) if self.pods else (),
            degraded={n: f for n, f in self.degraded.items() if n in kept},
            gpu_order={n: g for n, g in self.gpu_order.items() if n in kept},
        )
