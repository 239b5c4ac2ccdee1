"""What annealing prices: the objective with its maxima softened, for many swaps or whole placements at once.

A maximum over rows becomes a power mean ``(sum of rows^q)^(1/q)`` whose q grows as the walk cools: a walk on the
maximum itself would see no slope but at its slowest row. ``sum`` is linear and needs none of it.

Terms whose rows are single edges (rings) keep a table of ``cost^q`` by pair of nodes, so that a swap is priced from the
edges of its two slots; rows of several edges (pipelines, sends of an all-to-all) are kept as sums to which a swap adds.
Rings are held to a sharper q than pipelines: the slowest link of a ring is one pair of nodes that everything else may
approach, while the slowest of the pipelines is lowered only by evening all of them out.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .placement import Floats, Ints, PlacementProblem

#: Doublings of q from the start to the end, for terms of single edges and for the others.
RING_DOUBLINGS, ROW_DOUBLINGS = (3, 7), (2, 4)
#: Edges count up to so many times the slowest of the first placement, lest a power overflow.
_CLIP = 10.0
#: A swap whose rings alone lose more than this over n of what the other terms take is refused without pricing those.
_HOPE = 8.0


class Energy:
    """Softened objective of one placement at a time (``update``) and of what could follow it.

    Attributes:
        objective, energy: of the placement last given to ``update``.
        partners: (m, D) slots at the other end of each slot's edges; degree: (m,) how many of them count.
    """

    def __init__(self, problem: PlacementProblem, first: Ints) -> None:
        self.p, self.m = problem, problem.n_nodes
        self.critical = problem.objective == "critical"
        scale = problem.term_seconds(first[None])[0]
        self.scale: Floats = np.where(scale > 0, scale, 1.0) if self.critical else np.ones(1)
        in_row = np.bincount(problem.row_of_edge, minlength=len(problem.row_starts))
        widest = np.maximum.reduceat(in_row, problem.term_starts)
        term = problem.term_of_row[problem.row_of_edge]
        if not self.critical:
            widest, term = np.ones(1, np.int64), np.zeros_like(term)
        self.rings, self.others = np.flatnonzero(widest == 1), np.flatnonzero(widest > 1)
        self.ring_edges = [np.flatnonzero(term == t) for t in self.rings]
        self.most = np.array([problem.n_bytes[e].max() or 1.0 for e in self.ring_edges])
        self._lay_out_rows(term, in_row)
        self._lay_out_columns(term)
        self.objective = self.energy = 0.0
        self.harden(0.0)

    def _lay_out_rows(self, term: Ints, in_row: Ints) -> None:
        """Rows of the terms whose rows have several edges."""
        p = self.p
        rows = np.flatnonzero(np.isin(p.term_of_row, self.others)) if self.critical else np.empty(0, np.int64)
        self.n_rows = len(rows)
        self.rank = np.zeros(len(p.row_starts), np.int64)
        self.rank[rows] = np.arange(len(rows))
        self.row_edges = np.flatnonzero(np.isin(term, self.others))
        self.row_starts = np.concatenate([[0], np.cumsum(in_row[rows])[:-1]]).astype(np.int64)
        self.term_starts = np.searchsorted(p.term_of_row[rows], self.others)
        self.row_bytes = p.n_bytes[self.row_edges] / self.scale[term[self.row_edges]]

    def _lay_out_columns(self, term: Ints) -> None:
        """For each slot its edges, one a column: first those of each ring term, then the others."""
        p, m = self.p, self.m
        self.directed = not np.allclose(p.cost, p.cost.T, rtol=1e-9, atol=0.0)
        ends: list[list[list[tuple[int, int, int]]]] = []
        for t in (*self.rings, *self.others):
            of_slot: list[list[tuple[int, int, int]]] = [[] for _ in range(m)]
            for e in np.flatnonzero(term == t).tolist():
                u, v = p.edges[e].tolist()
                of_slot[u].append((v, e, 0))
                of_slot[v].append((u, e, 1))
            ends.append(of_slot)
        width = [max(map(len, of_slot)) for of_slot in ends]
        starts = np.concatenate([[0], np.cumsum(width)])
        d, k = int(starts[-1]), len(self.rings)
        self.ring_starts, self.n_ring = starts[:k], int(starts[k])
        self.partners = np.repeat(np.arange(m)[:, None], d, axis=1)
        self.n_bytes, self.row = np.zeros((m, d)), np.zeros((m, d), np.int64)
        table = np.repeat(np.minimum(np.arange(len(ends)), k), width)  # which table of costs a column reads
        self.offset = np.repeat(table[None] * m * m, m, axis=0)
        for of_slot, start in zip(ends, starts[:-1], strict=True):
            for slot, found in enumerate(of_slot):
                for column, (other, e, backward) in enumerate(found, start):
                    self.partners[slot, column], self.n_bytes[slot, column] = other, p.n_bytes[e]
                    self.row[slot, column] = self.rank[p.row_of_edge[e]]
                    self.offset[slot, column] += backward * self.directed * (k + 1) * m * m
        self.columns = np.repeat([*self.most, *self.scale[self.others]], width)
        self.degree = np.maximum((self.n_bytes > 0).sum(axis=1), 1)

    def harden(self, share: float) -> None:
        """Set q for this share of the walk; ``update`` must follow."""
        soft, hard = RING_DOUBLINGS
        self.q = 2.0 ** round(soft + (hard - soft) * share) if self.critical else 1.0
        soft, hard = ROW_DOUBLINGS
        self.doublings = round(soft + (hard - soft) * share)
        units = self.most / self.scale[self.rings]
        tables = [np.minimum(self.p.cost * unit, _CLIP) ** self.q for unit in units] if self.critical else []
        tables += [] if self.critical else [self.p.cost * self.most[0]]
        tables.append(self.p.cost)
        transposed = [table.T for table in tables] if self.directed else []
        self.table = np.concatenate([t.ravel() for t in (*tables, *transposed)])
        self.weight: Floats = self.n_bytes / self.columns
        self.weight[:, : self.n_ring] **= self.q

    def update(self, placed: Ints) -> None:
        """Price the placement of all nodes (m,) that the walk stands at."""
        m = self.m
        self.now = self.table.take(self.offset + placed[:, None] * m + placed[self.partners])
        self.now *= self.weight
        self.energy = self.objective = self.of_others = 0.0
        if self.n_ring:
            now = self.now[:, : self.n_ring]
            self.ring_sums = 0.5 * np.add.reduceat(now.sum(axis=0), self.ring_starts)
            self.energy = float(self._rings(self.ring_sums))
            worst = np.maximum.reduceat(now.max(axis=0), self.ring_starts)
            self.objective = float(self._rings(worst)) if self.critical else self.energy
        if self.n_rows:
            self.rows = self._rows(placed[None])
            worst = np.maximum.reduceat(self.rows[0], self.term_starts)
            self.of_others = float(self._others(self.rows.copy())[0])
            self.energy += self.of_others
            self.objective += float(worst @ self.scale[self.others])

    def of_swaps(self, placed: Ints, a: Ints, b: Ints, allowed: Floats) -> Floats:
        """By how much exchanging slots a and b, (N,) each, raises the energy; infinite where hopeless."""
        n = len(a)
        slots, other = np.concatenate([a, b]), np.concatenate([b, a])
        target, source = placed[other], placed[slots]
        rings = np.zeros(n)
        if self.n_ring:
            change = self._changes(placed, slots, other, source, target, slice(0, self.n_ring))
            if len(self.ring_starts) == 1:
                sums = change.sum(axis=1)[:, None]
            else:
                sums = np.add.reduceat(change, self.ring_starts, axis=1)
            sums = sums[:n] + sums[n:]
            sums += self.ring_sums
            rings = self._rings(np.maximum(sums, 0.0)) - (self.energy - self.of_others)
        if not self.n_rows:
            return rings
        hope = np.flatnonzero(rings < allowed + min(_HOPE / self.p.n_slots, 1.0) * self.of_others)
        k = len(hope)
        out = np.full(n, np.inf)
        if not k:
            return out
        both = np.concatenate([hope, hope + n])
        slots = slots[both]
        columns = slice(self.n_ring, None)
        change = self._changes(placed, slots, other[both], source[both], target[both], columns)
        key = self.row[:, columns].take(slots, 0)
        key += (np.arange(2 * k) % k * self.n_rows)[:, None]
        changed = np.asarray(np.bincount(key.ravel(), change.ravel(), k * self.n_rows), np.float64)
        rows: Floats = changed.reshape(k, self.n_rows) + self.rows
        out[hope] = rings[hope] + self._others(rows) - self.of_others
        return out

    def _changes(
        self, placed: Ints, slots: Ints, other: Ints, source: Ints, target: Ints, columns: slice
    ) -> NDArray[np.float64]:
        """What each edge of ``slots`` changes by where it exchanges nodes with ``other``; (N,) -> (N, columns)."""
        partners = self.partners[:, columns].take(slots, 0)
        joined = partners == other[:, None]
        at = np.where(joined, source[:, None], placed.take(partners))
        at += (target * self.m)[:, None]
        at += self.offset[:, columns].take(slots, 0)
        change = self.table.take(at)
        change *= self.weight[:, columns].take(slots, 0)
        change -= self.now[:, columns].take(slots, 0)
        if self.directed:
            change[joined] *= 0.5  # both ends price the edge that joins them
        return change

    def slow_slots(self) -> Ints:
        """Slots at the slowest links of each ring term and on the slowest row of the others (none with ``sum``)."""
        slots: list[NDArray[np.int64]] = []
        if self.critical and self.n_ring:
            worst = np.maximum.reduceat(self.now[:, : self.n_ring], self.ring_starts, axis=1)
            slots.append(np.argsort(-worst, axis=0, kind="stable")[:6].ravel())
        if self.n_rows:
            ends = [*self.term_starts[1:], self.n_rows]
            stops = [*self.row_starts[1:], len(self.row_edges)]
            for begin, end in zip(self.term_starts, ends, strict=True):
                row = begin + int(self.rows[0, begin:end].argmax())
                edges = self.row_edges[self.row_starts[row] : stops[row]]
                slots.append(self.p.edges[edges].ravel()[:16])
        return np.concatenate(slots) if slots else np.empty(0, np.int64)

    def of_placements(self, placed: Ints) -> Floats:
        """Energy of whole placements (N, n)."""
        total = np.zeros(len(placed))
        if self.n_ring:
            m = self.m
            sums = np.empty((len(placed), len(self.rings)))
            for i, edges in enumerate(self.ring_edges):
                u, v = self.p.edges[edges].T
                seconds = self.table[i * m * m : (i + 1) * m * m].take(placed[:, u] * m + placed[:, v])
                sums[:, i] = seconds @ (self.p.n_bytes[edges] / self.most[i]) ** self.q
            total += self._rings(sums)
        if self.n_rows:
            total += self._others(self._rows(placed))
        return total

    def _rows(self, placed: Ints) -> Floats:
        """Rows of several edges in units of their term's first value; (N, n) -> (N, rows)."""
        u, v = self.p.edges[self.row_edges].T
        seconds = self.p.cost.ravel().take(placed[:, u] * self.m + placed[:, v]) * self.row_bytes
        rows: Floats = np.add.reduceat(seconds, self.row_starts, axis=1)
        return rows

    def _rings(self, sums: Floats) -> Floats:
        """Seconds of the ring terms from their sums of powers; (..., rings) -> (...)."""
        seconds: Floats = sums ** (1 / self.q) @ self.scale[self.rings]
        return seconds

    def _others(self, rows: Floats) -> Floats:
        """Seconds of the other terms from their rows, which are overwritten; (N, rows) -> (N,)."""
        for _ in range(self.doublings):
            rows *= rows
        sums = np.add.reduceat(rows, self.term_starts, axis=1)
        seconds: Floats = sums ** (0.5**self.doublings) @ self.scale[self.others]
        return seconds
