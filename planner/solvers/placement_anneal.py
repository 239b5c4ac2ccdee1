"""Our kernel for placement: nearest-bandwidth order, then annealing that prices a batch of moves at once.

Numpy pays per call, not per element, so a step draws ``BATCH`` moves, prices all of them in one pass and takes the
first that Metropolis would accept: the same walk as one move at a time, at a fraction of the calls. What is small
enough is enumerated instead, which proves it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from .placement import Floats, Ints, Placement, PlacementProblem
from .placement_bound import lower_bound
from .result import TO_COMPLETION, Limits, SolveResult, Termination

VERSION = "1"
#: Moves priced at once.
BATCH = 64
#: Random numbers that one move takes at most, and one for its acceptance.
DRAWS = 8
#: Default limit of work in moves per slot (under 1 CPU s at 64 nodes, 3 at 128).
MOVES_PER_SLOT = {"critical": 5_500, "sum": 9_000}
#: Up to so many placements are enumerated.
ENUMERATE = 50_000
#: Temperature at the start as a share of the energy per slot, and at the end as a share of that at the start (tuned
#: on benchmarks/placement.py).
HOT, COLD = 0.6, 0.05
#: Slots that one walk is worth; fewer slots share the work between several walks from different orders.
WALK = 64
#: Doublings of the power mean that stands in for a maximum: of rows^8 at the start, rows^64 at the end.
SOFT, HARD = 3, 6
#: Shares of moves: swap of two slots, reversal of a run, rotation of a run, swap of two blocks.
KINDS = (0.7, 0.1, 0.1, 0.1)
#: Of the swaps, those that bring a slot to one of the nodes nearest to a neighbour's, and that start at a slow row.
NEAR_SHARE, SLOW_SHARE, NEAREST = 0.75, 0.3, 12
_EQUAL = 1e-9


@dataclass(frozen=True, slots=True)
class Annealing:
    """Enumerates small problems, anneals the others; work counts moves priced."""

    name: str = "annealing"
    exact: bool = False
    enumerate_up_to: int = ENUMERATE

    def solve(self, problem: PlacementProblem, limits: Limits = TO_COMPLETION, seed: int = 0) -> SolveResult[Placement]:
        """Return the best placement found; an interrupt or a limit returns the best so far."""
        begun = time.perf_counter()
        bound = lower_bound(problem)
        small = problem.n_placements <= self.enumerate_up_to and (limits.work or math.inf) >= problem.n_placements
        if small:
            best, work, timed_out = _enumerate(problem), problem.n_placements, False
            bound = problem.seconds(best)
        else:
            best, work, timed_out = _anneal(problem, limits, seed, bound, begun)
        objective = problem.seconds(best)
        met = objective <= bound * (1 + _EQUAL)
        return SolveResult(
            value=best,
            objective=objective,
            bound=min(bound, objective),
            termination=Termination.OPTIMAL if met else Termination.FEASIBLE_AT_LIMIT,
            solver=self.name,
            version=VERSION,
            seed=seed,
            work=work,
            seconds=time.perf_counter() - begun,
            timed_out=timed_out and not met,
            note="enumerated" if small else "",
        )


def nearest_orders(problem: PlacementProblem) -> Ints:
    """One placement per first node: each next slot takes the free node that the last one reaches fastest; (m, n)."""
    m, n = problem.n_nodes, problem.n_slots
    out = np.empty((m, n), np.int64)
    free = np.ones((m, m), bool)
    last = np.arange(m)
    for k in range(n):
        if k:
            last = np.where(free, problem.cost[last], np.inf).argmin(axis=1)
        out[:, k] = last
        free[np.arange(m), last] = False
    return out


def _enumerate(problem: PlacementProblem) -> Placement:
    """The best of all placements; ties go to the other objective, then to the first in lexicographic order."""
    every = np.array(list(permutations(range(problem.n_nodes), problem.n_slots)), np.int64)
    best: tuple[float, float, int] | None = None
    for start in range(0, len(every), 4096):
        first, second = problem.both_seconds(every[start : start + 4096])
        low = first.min()
        near = np.flatnonzero(first <= low * (1 + _EQUAL))
        i = int(near[second[near].argmin()])
        if (
            best is None
            or first[i] < best[0] * (1 - _EQUAL)
            or (first[i] <= best[0] * (1 + _EQUAL) and second[i] < best[1] * (1 - _EQUAL))
        ):
            best = (float(first[i]), float(second[i]), start + i)
    assert best is not None  # there is at least one placement
    return tuple(int(i) for i in every[best[2]])


class _Energy:
    """A smooth stand-in for the objective: maxima become power means, each term in units of its first value."""

    def __init__(self, problem: PlacementProblem, first: Ints) -> None:
        self.p = problem
        self.critical = problem.objective == "critical"
        scale = problem.term_seconds(first[None])[0]
        self.scale = np.where(scale > 0, scale, 1.0)
        per_edge = self.scale[problem.term_of_row][problem.row_of_edge]
        self.n_bytes = problem.n_bytes / per_edge if self.critical else problem.n_bytes
        self.flat = problem.cost.ravel()
        self.ends = problem.edges.T
        self.single = len(problem.row_starts) == len(problem.edges)
        self.doublings = SOFT

    def __call__(self, placed: Ints) -> tuple[Floats, Floats, Floats]:
        """Objective, energy and rows (in units of ``scale``) of placements (N, n)."""
        u, v = self.ends
        seconds = self.flat.take(placed.take(u, 1) * self.p.n_nodes + placed.take(v, 1))
        seconds *= self.n_bytes
        if not self.critical:
            total = seconds.sum(axis=1)
            return total, total, seconds
        rows = seconds if self.single else np.add.reduceat(seconds, self.p.row_starts, axis=1)
        worst = np.maximum.reduceat(rows, self.p.term_starts, axis=1) @ self.scale
        power = rows * rows
        for _ in range(self.doublings - 1):
            power *= power
        mean = np.add.reduceat(power, self.p.term_starts, axis=1) ** (0.5**self.doublings)
        return worst, mean @ self.scale + 0.05 * worst, rows


class _Moves:
    """Draws of moves: where to cut a placement and what to put there."""

    def __init__(self, problem: PlacementProblem, seed: int) -> None:
        self.p = problem
        self.draw = np.random.default_rng(seed)
        m, n = problem.n_nodes, problem.n_slots
        self.at = np.arange(m)[None]
        self.lines = np.arange(BATCH)
        far = np.where(np.eye(m, dtype=bool), np.inf, problem.cost + problem.cost.T)
        self.near = np.argsort(far, axis=1, kind="stable")[:, : min(NEAREST, m - 1)]
        around: list[list[int]] = [[] for _ in range(n)]
        for u, v in problem.edges.tolist():
            around[u].append(v)
            around[v].append(u)
        width = max(map(len, around))
        self.degree = np.array([max(len(a), 1) for a in around])
        self.around = np.array([(a * width)[:width] if a else [0] * width for a in around])
        self.pool, self.next = np.empty((0, DRAWS, BATCH)), 0

    def chance(self) -> Floats:
        """The next (DRAWS, BATCH) numbers of [0, 1); drawn many at a time, since each call costs."""
        if self.next == len(self.pool):
            self.pool, self.next = self.draw.random((256, DRAWS, BATCH)), 0
        self.next += 1
        numbers: Floats = self.pool[self.next - 1]
        return numbers

    def slots(self, slow: Ints, chance: Floats) -> Ints:
        """Slots to move; a share of them at the slow edges."""
        anywhere: Ints = (chance[0] * self.p.n_slots).astype(np.int64)
        if not len(slow):
            return anywhere
        at_slow: Ints = slow[(chance[2] * len(slow)).astype(np.int64)]
        return np.where(chance[1] < SLOW_SHARE, at_slow, anywhere)

    def swaps(self, placed: Ints, holder: Ints, slow: Ints, chance: Floats) -> Ints:
        """Candidates (BATCH, m) with two slots exchanged (one may be a node that is not used)."""
        m = self.p.n_nodes
        a = self.slots(slow, chance)
        b = (a + 1 + (chance[3] * (m - 1)).astype(np.int64)) % m
        other = self.around[a, (chance[4] * self.degree[a]).astype(np.int64)]
        wanted = self.near[placed[other], (chance[5] * chance[5] * self.near.shape[1]).astype(np.int64)]
        near = holder[wanted]
        b = np.where((chance[6] < NEAR_SHARE) & (near != a), near, b)
        out = np.repeat(placed[None], BATCH, axis=0)
        out[self.lines, a], out[self.lines, b] = placed[b], placed[a]
        return out

    def runs(self, placed: Ints, slow: Ints, chance: Floats, kind: int, forward: bool) -> Ints:
        """Candidates with a run of slots reversed (kind 1) or rotated by one (kind 2)."""
        n, at = self.p.n_slots, self.at
        length = 1 + (chance[3] * (max(min(n // 4, 16), 2) - 1)).astype(np.int64)
        back = (chance[4] * (length + 1)).astype(np.int64)
        low = np.maximum(self.slots(slow, chance) - back, 0)[:, None]
        high = np.minimum(low + length[:, None], n - 1)
        inside = (at >= low) & (at <= high)
        if kind == 1:
            return placed[np.where(inside, low + high - at, at)]
        turned = np.where(at == high, low, at + 1) if forward else np.where(at == low, high, at - 1)
        return placed[np.where(inside, turned, at)]

    def blocks(self, placed: Ints, slow: Ints, chance: Floats) -> Ints:
        """Candidates with two aligned blocks exchanged, such as two whole stages."""
        n, at = self.p.n_slots, self.at
        size = min(1 << int(1 + chance[3, 0] * (max(n.bit_length() - 1, 2) - 1)), n // 2)
        count = n // size
        a = np.minimum(self.slots(slow, chance) // size, count - 1)
        b = (a + 1 + (chance[4] * (count - 1)).astype(np.int64)) % count
        a, b = (a * size)[:, None], (b * size)[:, None]
        shift = np.where((at >= a) & (at < a + size), b - a, np.where((at >= b) & (at < b + size), a - b, 0))
        return placed[at + shift]


def _slow_slots(problem: PlacementProblem, rows: Floats) -> Ints:
    """Slots at the ends of the slowest rows of each term (with ``sum``: of no row in particular)."""
    if problem.objective == "sum":
        return np.empty(0, np.int64)
    slots: list[NDArray[np.int64]] = []
    ends = [*problem.term_starts[1:], len(problem.row_starts)]
    for begin, end in zip(problem.term_starts, ends, strict=True):
        term = rows[begin:end]
        for row in begin + np.argpartition(-term, min(2, len(term) - 1))[:3]:
            stop = problem.row_starts[row + 1] if row + 1 < len(problem.row_starts) else len(problem.edges)
            slots.append(problem.edges[problem.row_starts[row] : stop].ravel()[:16])
    return np.concatenate(slots)


def _anneal(
    problem: PlacementProblem, limits: Limits, seed: int, bound: float, begun: float
) -> tuple[Placement, int, bool]:
    """Walks one after another, each from the next best of the starting orders."""
    n = problem.n_slots
    starts = np.array([*problem.starts, tuple(range(n))], np.int64).reshape(-1, n)
    starts = np.concatenate([starts, nearest_orders(problem)])
    values = problem.both_seconds(starts)[0]
    order = np.argsort(values, kind="stable")
    best = _Best(starts[order[0]], float(values[order[0]]), bound * (1 + _EQUAL))
    steps = max((limits.work or MOVES_PER_SLOT[problem.objective] * n) // BATCH, 1)
    done, cut = 0, False
    if n < 2 or not len(problem.edges) or best.proven:
        return best.placement(), len(starts), False
    deadline = math.inf if limits.time_s is None else begun + limits.time_s
    walks = min(max(WALK // n, 1), steps)
    moves = _Moves(problem, seed)
    try:
        for walk in range(walks):
            share = steps * (walk + 1) // walks - steps * walk // walks
            here = starts[order[walk % len(order)]]
            for _ in _walk(problem, moves, here, share, best):
                done += 1
                if done % 16 == 0 and time.perf_counter() > deadline:
                    cut = True
                    break
            if cut or best.proven:
                break
    except KeyboardInterrupt:
        cut = True
    return best.placement(), done * BATCH, cut


class _Best:
    """The best placement so far and whether it meets the bound."""

    def __init__(self, placed: Ints, value: float, bound: float) -> None:
        self.placed, self.value, self.bound = placed, value, bound

    @property
    def proven(self) -> bool:
        return self.value <= self.bound

    def offer(self, placed: Ints, value: float) -> None:
        if value < self.value * (1 - _EQUAL):
            self.placed, self.value = placed.copy(), value

    def placement(self) -> Placement:
        return tuple(int(i) for i in self.placed)


def _walk(problem: PlacementProblem, moves: _Moves, first: Ints, steps: int, best: _Best) -> Iterator[None]:
    """One annealing, a yield after each batch."""
    m, n = problem.n_nodes, problem.n_slots
    placed = np.concatenate([first, np.setdiff1d(np.arange(m), first)])
    holder = np.argsort(placed)
    price = _Energy(problem, first)
    kinds = moves.draw.choice(4, steps, p=KINDS) if n >= 4 else np.zeros(steps, np.int64)
    energy, slow, hot = math.inf, np.empty(0, np.int64), 0.0
    for step in range(steps):
        if step % max(steps // 8, 1) == 0:
            price.doublings = SOFT + round((HARD - SOFT) * step / steps)
            _, here, rows = price(placed[None, :n])
            energy, slow = float(here[0]), _slow_slots(problem, rows[0])
            hot = hot or HOT * energy / n
        kind, chance = int(kinds[step]), moves.chance()
        if kind == 0:
            tried = moves.swaps(placed, holder, slow, chance)
        elif kind == 3:
            tried = moves.blocks(placed, slow, chance)
        else:
            tried = moves.runs(placed, slow, chance, kind, bool(step & 1))
        value, energies, rows = price(tried[:, :n] if m > n else tried)
        i = int(value.argmin())
        best.offer(tried[i, :n], float(value[i]))
        if best.proven:
            return
        threshold = energy - hot * COLD ** (step / steps) * np.log(1.0 - chance[7])
        taken = int((energies < threshold).argmax())
        if energies[taken] < threshold[taken]:
            placed, energy = tried[taken], float(energies[taken])
            holder[placed] = moves.at[0]
            if step % 8 == 0:
                slow = _slow_slots(problem, rows[taken])
        yield
