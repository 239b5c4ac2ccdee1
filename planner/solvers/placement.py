"""Placement: which node runs which block of ranks, so that communication meets fast links.

Ranks fill nodes in blocks of ``gpus_per_node``; such a block is a *slot*, and a placement gives every slot a node of
its own. Communication is a list of *edges* between slots, each with bytes per step; edges add up in *rows* (the
boundaries of one pipeline, the sends of one node in an all-to-all, or a single link of a ring), and the rows of one
dimension form a *term*. Two objectives over the same data, both in seconds per step:

- ``critical``: ``sum over terms of max over rows of sum over edges of bytes / bandwidth``. Every ring waits for its
  slowest link and every step for its slowest ring and its slowest pipeline (Pipette, arXiv 2405.18093, section 4).
- ``sum``: ``sum over edges of bytes / bandwidth``, the quadratic assignment form: link-seconds, whether or not anyone
  waits for them.

The objective in force is optimised, the other breaks ties. Left out: links shared by several flows at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ...hardware_profiles.errors import InvalidProblemError
from .base import Solver, backends

Placement = tuple[int, ...]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
OBJECTIVES = ("critical", "sum")


@dataclass(frozen=True, kw_only=True)
class PlacementProblem:
    """Slots to be put on nodes.

    Attributes:
        n_slots: slots, numbered 0 .. n_slots - 1; cost: (m, m) seconds per byte from node to node, zero diagonal.
        edges: (E, 2) slots that send and receive, no slot to itself; n_bytes: (E,) per step.
        row_starts: first edge of each row; term_starts: first row of each term; both begin with 0 and ascend.
        terms: name of each term; objective: ``critical`` or ``sum``.
        starts: placements to begin with beside the solver's own, such as the order that is used today.

    Raises:
        InvalidProblemError: more slots than nodes, or arrays that contradict each other.
    """

    n_slots: int
    cost: Floats
    edges: Ints
    n_bytes: Floats
    row_starts: Ints
    term_starts: Ints
    terms: tuple[str, ...]
    objective: str = "critical"
    starts: tuple[Placement, ...] = field(default=())

    def __post_init__(self) -> None:
        m = len(self.cost)
        if self.n_slots > m:
            raise InvalidProblemError(f"The plan fills {self.n_slots} nodes, but only {m} have links; add the rest.")
        if self.objective not in OBJECTIVES:
            raise InvalidProblemError(f"There is no objective {self.objective!r}; choose critical or sum.")
        if self.cost.shape != (m, m) or np.any(np.diag(self.cost)) or not np.all(np.isfinite(self.cost)):
            raise ValueError("cost must be square and finite with a zero diagonal")
        if self.edges.shape != (len(self.n_bytes), 2) or len(self.terms) != len(self.term_starts):
            raise ValueError("edges and bytes, or terms and their starts, differ in number")
        for starts, end in ((self.row_starts, len(self.edges)), (self.term_starts, len(self.row_starts))):
            if len(starts) and (starts[0] or np.any(np.diff(starts) < 1) or starts[-1] >= end):
                raise ValueError("starts must begin with 0 and ascend within what they divide")
        if len(self.edges) and np.any(self.edges[:, 0] == self.edges[:, 1]):
            raise ValueError("an edge must join two slots")

    @property
    def n_nodes(self) -> int:
        """Nodes to choose from."""
        return len(self.cost)

    @property
    def n_placements(self) -> int:
        """How many placements there are."""
        return math.perm(self.n_nodes, self.n_slots)

    @cached_property
    def term_of_row(self) -> Ints:
        """(R,) term of each row."""
        return np.repeat(np.arange(len(self.terms)), np.diff([*self.term_starts, len(self.row_starts)]))

    @cached_property
    def row_of_edge(self) -> Ints:
        """(E,) row of each edge."""
        return np.repeat(np.arange(len(self.row_starts)), np.diff([*self.row_starts, len(self.edges)]))

    def edge_seconds(self, placements: Ints) -> Floats:
        """Seconds of each edge; (C, n_slots) -> (C, E)."""
        p = np.asarray(placements, np.int64)
        flat = p[:, self.edges[:, 0]] * self.n_nodes + p[:, self.edges[:, 1]]
        seconds: Floats = self.cost.ravel()[flat] * self.n_bytes
        return seconds

    def term_seconds(self, placements: Ints) -> Floats:
        """Critical seconds of each term, (C, n_slots) -> (C, T)."""
        if not len(self.edges):
            return np.zeros((len(placements), len(self.terms)))
        rows = np.add.reduceat(self.edge_seconds(placements), self.row_starts, axis=1)
        seconds: Floats = np.maximum.reduceat(rows, self.term_starts, axis=1)
        return seconds

    def both_seconds(self, placements: Ints) -> tuple[Floats, Floats]:
        """``(objective in force, the other one)`` of each placement; (C, n_slots) -> (C,), (C,)."""
        critical = self.term_seconds(placements).sum(axis=1)
        total = self.edge_seconds(placements).sum(axis=1)
        return (critical, total) if self.objective == "critical" else (total, critical)

    def seconds(self, placement: Sequence[int]) -> float:
        """The objective in force of one placement."""
        return float(self.both_seconds(np.array([placement], np.int64))[0][0])


def solvers() -> Mapping[str, Solver[PlacementProblem, Placement]]:
    """``annealing`` (ours; enumerates what is small and proves it) and the generic exact solvers."""
    from .placement_anneal import Annealing
    from .placement_linear import LinearPlacement

    generic = {name: LinearPlacement(name, backend) for name, backend in backends().items()}
    return {"annealing": Annealing(), **generic}
