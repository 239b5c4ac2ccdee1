"""Our kernel for placement: nearest-bandwidth order, then annealing that prices a batch of moves at once.

Numpy pays per call, not per element, so a step draws ``BATCH`` swaps, prices all of them in one pass and makes those
that Metropolis would accept and that do not touch each other; every fourth step does the same with whole runs and
blocks of slots, of which one is made. What is small enough is enumerated instead, which proves it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from .placement import Floats, Ints, Placement, PlacementProblem
from .placement_bound import lower_bound
from .placement_energy import Energy
from .result import TO_COMPLETION, Limits, SolveResult, Termination

VERSION = "2"
#: Swaps priced at once, and other moves; every so many steps a step of those; swaps made at once at most.
BATCH, SHIFTS, EVERY, AT_ONCE = 128, 32, 4, 8
#: Steps whose random numbers are drawn at once.
POOL = 64
#: Default limit of work in moves per slot (under 1 CPU s at 64 nodes, 3 at 128).
MOVES_PER_SLOT = {"critical": 5_500, "sum": 10_500}
#: Up to so many placements are enumerated.
ENUMERATE = 50_000
#: Temperature at the start as a share of the energy per slot, and at the end as a share of that at the start (tuned
#: on benchmarks/placement.py); levels of softness.
HOT, COLD, LEVELS = 0.4, 0.03, 8
#: Slots that one walk is worth; fewer slots share the work between several walks from different orders.
WALK = 64
#: Of the swaps, those that bring a slot to one of the nodes nearest to a partner's, and those that start at a slow row.
NEAR_SHARE, NEAREST, SLOW_SHARE = 0.75, 12, 0.25
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


class _Moves:
    """Draws of moves, many at a time, since each call of the generator costs."""

    def __init__(self, problem: PlacementProblem, price: Energy, seed: int) -> None:
        self.p, self.price = problem, price
        self.draw = np.random.default_rng(seed)
        m = problem.n_nodes
        self.at = np.arange(problem.n_slots)[None]
        far = np.where(np.eye(m, dtype=bool), np.inf, problem.cost + problem.cost.T)
        self.near = np.argsort(far, axis=1, kind="stable")[:, : min(NEAREST, m - 1)]
        # partners that count stand first in a row, repeated over its width
        order = np.argsort(price.n_bytes == 0, axis=1, kind="stable")
        first = np.take_along_axis(price.partners, order, axis=1)
        width = np.arange(first.shape[1])[None] % price.degree[:, None]
        self.partners = np.take_along_axis(first, width, axis=1)
        self.around = [{s, *others} for s, others in enumerate(self.partners.tolist())]
        self.next_swaps = self.next_shifts = POOL

    def swaps(self, placed: Ints, holder: Ints, slow: Ints) -> tuple[Ints, Ints, Floats]:
        """Slots to exchange (b may be a node that is not used) and -log of a chance each; (BATCH,)."""
        if self.next_swaps == POOL:
            n, m = self.p.n_slots, self.p.n_nodes
            u = self.draw.random((7, POOL, BATCH))
            self.a = (u[0] * n).astype(np.int64)
            self.b = (self.a + 1 + (u[1] * (m - 1)).astype(np.int64)) % m
            self.pick = u[2]
            self.which = (u[3] * u[3] * self.near.shape[1]).astype(np.int64)
            self.is_near = u[4] < NEAR_SHARE
            self.luck = -np.log(1.0 - u[5])
            self.is_slow, self.slow = u[6] < SLOW_SHARE, u[6] / SLOW_SHARE
            self.next_swaps = 0
        k = self.next_swaps
        self.next_swaps += 1
        a, b = self.a[k], self.b[k]
        if len(slow):
            is_slow = self.is_slow[k]
            a = a.copy()
            a[is_slow] = slow[(self.slow[k][is_slow] * len(slow)).astype(np.int64)]
            b = np.where(a == b, (a + 1) % self.p.n_nodes, b)
        towards = self.partners[a, (self.pick[k] * self.price.degree[a]).astype(np.int64)]
        near = holder[self.near[placed[towards], self.which[k]]]
        return a, np.where(self.is_near[k] & (near != a), near, b), self.luck[k]

    def shifts(self, turn: int) -> tuple[Ints, Floats]:
        """Slots whose nodes each slot takes over, (SHIFTS, n), and -log of a chance each, (SHIFTS,)."""
        if self.next_shifts == POOL:
            self.u = self.draw.random((POOL, 5, SHIFTS))
            self.next_shifts = 0
        u = self.u[self.next_shifts]
        self.next_shifts += 1
        kind = turn % 5
        taken = self.run(u[..., None], kind) if kind < 2 else self.blocks(u[..., None], kind)
        return taken, -np.log(1.0 - u[4])

    def run(self, u: Floats, kind: int) -> Ints:
        """A run of slots reversed (kind 0) or rotated (1)."""
        n, at = self.p.n_slots, self.at
        low = (u[1] * (n - 1)).astype(np.int64)
        high = np.minimum(low + 1 + (u[0] * (max(min(n // 4, 16), 2) - 1)).astype(np.int64), n - 1)
        length = high - low + 1
        turned = low + (at - low + 1 + (u[2] * (length - 1)).astype(np.int64)) % length
        taken: Ints = np.where((at >= low) & (at <= high), turned if kind else low + high - at, at)
        return taken

    def blocks(self, u: Floats, kind: int) -> Ints:
        """Aligned blocks such as stages: two exchanged (kind 2), one turned (3), a run of them reversed (4)."""
        n, at = self.p.n_slots, self.at
        size = np.minimum(1 << (1 + (u[2] * (max(n.bit_length() - 1, 2) - 1)).astype(np.int64)), n // 2)
        count, block = n // size, at // size
        a = (u[0] * count).astype(np.int64)
        if kind == 2:
            b = (a + 1 + (u[1] * (count - 1)).astype(np.int64)) % count
            shift = np.where(block == a, b - a, np.where(block == b, a - b, 0))
            exchanged: Ints = at + shift * size
            return exchanged
        if kind == 3:
            inside, by = at - a * size, (u[1] * size).astype(np.int64)
            turned = np.where(u[3] < 0.5, inside + by, by - inside) % size
            return np.where(block == a, a * size + turned, at)
        low = (u[0] * (count - 1)).astype(np.int64)
        high = low + 1 + (u[1] * (count - 1 - low)).astype(np.int64)
        taken: Ints = np.where((block >= low) & (block <= high), (low + high - block) * size + at % size, at)
        return taken


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
    moves_a_step = ((EVERY - 1) * BATCH + SHIFTS) // EVERY
    steps = max((limits.work or MOVES_PER_SLOT[problem.objective] * n) // moves_a_step, 1)
    done, work, cut = 0, 0, False
    if n < 2 or not len(problem.edges) or best.proven:
        return best.placement(), len(starts), False
    deadline = math.inf if limits.time_s is None else begun + limits.time_s
    walks = min(max(WALK // n, 1), steps)
    price = Energy(problem, starts[order[0]])
    moves = _Moves(problem, price, seed)
    try:
        for walk in range(walks):
            share = steps * (walk + 1) // walks - steps * walk // walks
            here = starts[order[walk % len(order)]]
            for tried in _walk(problem, moves, price, here, share, best):
                done, work = done + 1, work + tried
                if done % 16 == 0 and time.perf_counter() > deadline:
                    cut = True
                    break
            if cut or best.proven:
                break
    except KeyboardInterrupt:
        cut = True
    return best.placement(), work, cut


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


def _walk(
    problem: PlacementProblem, moves: _Moves, price: Energy, first: Ints, steps: int, best: _Best
) -> Iterator[int]:
    """One annealing; yields the number of moves priced by each step."""
    m, n = problem.n_nodes, problem.n_slots
    placed = np.concatenate([first, np.setdiff1d(np.arange(m), first)])
    holder = np.argsort(placed)
    every, hot, slow = max(steps // LEVELS, 1), 0.0, np.empty(0, np.int64)
    for step in range(steps):
        if step % every == 0:
            price.harden(step / steps)
            price.update(placed)
            hot = hot or HOT * price.energy / n
        if step % 8 == 0:
            slow = price.slow_slots()
        heat = hot * COLD ** (step / steps)
        if step % EVERY == EVERY - 1 and n >= 4:
            taken, luck = moves.shifts(step // EVERY)
            candidates = placed[taken]
            better = np.flatnonzero(price.of_placements(candidates) - price.energy < heat * luck)
            if len(better):
                placed[:n] = candidates[better[0]]
            tried = SHIFTS
        else:
            a, b, luck = moves.swaps(placed, holder, slow)
            better = np.flatnonzero(price.of_swaps(placed, a, b, heat * luck) < heat * luck)
            _exchange(placed, a[better[:AT_ONCE]].tolist(), b[better[:AT_ONCE]].tolist(), moves.around)
            tried = BATCH
        if len(better):
            holder[placed] = np.arange(m)
            price.update(placed)
            best.offer(placed[:n], price.objective)
            if best.proven:
                return
        yield tried


def _exchange(placed: Ints, a: list[int], b: list[int], around: list[set[int]]) -> None:
    """Make those swaps that do not touch what an earlier one changed."""
    touched: set[int] = set()
    for s, t in zip(a, b, strict=True):
        if s not in touched and t not in touched:
            placed[s], placed[t] = placed[t], placed[s]
            touched |= around[s] | around[t]
