"""Exact dynamic programme for pipeline partition: cuts by stage, a search over the largest chunk, recompute inside.

With the least time of every interval known (``partition_intervals``), the least sum of times under a cap on the largest
is one pass over stages. The objective's other term, the largest itself, is searched by halving the range of caps: over
caps from ``low`` to ``high`` no answer beats ``sum_weight * sum(high) + max_weight * low``, which closes most halves
unseen (Alpa sweeps every cap: arXiv 2201.12023, section 5.2). Of equally good cuts the most even ones are taken.
"""

from __future__ import annotations

import heapq
import itertools
import math
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .partition import Ints, Partition, PartitionProblem
from .partition_intervals import NEVER, cheapest_modes, interval_times
from .result import TO_COMPLETION, Limits, SolveResult, Termination


@dataclass(frozen=True, slots=True)
class PartitionDp:
    """Own exact kernel; one unit of work is one pass over stages.

    With ``vp`` above 1 chunks of one stage share its memory, which the passes leave out: cuts found so are optimal
    where the stages' chunks fit together, else a lower bound, and the best answer known comes from giving every chunk
    an equal share of its stage (``note`` says so).
    """

    name: str = "dp"
    exact: bool = True

    def solve(self, problem: PartitionProblem, limits: Limits = TO_COMPLETION, seed: int = 0) -> SolveResult[Partition]:
        """Cut and choose modes; see ``Solver``."""
        began = time.perf_counter()
        search = _Budget(limits, began)
        found = _solve_chunks(problem, search) if problem.vp == 1 else _solve_interleaved(problem, search)
        timed_out = limits.time_s is not None and search.stopped and search.late()
        return SolveResult(
            value=found.value,
            objective=found.objective,
            bound=found.bound,
            termination=_termination(found),
            solver=self.name,
            version="meshwright",
            seed=seed,
            work=search.work,
            seconds=time.perf_counter() - began,
            timed_out=timed_out,
            note=found.note,
        )


@dataclass(slots=True)
class _Found:
    """An answer and a bound; ``bound`` infinite: nothing feasible exists."""

    value: Partition | None
    objective: float
    bound: float
    note: str = ""


def _termination(found: _Found) -> Termination:
    if found.value is None:
        return Termination.INFEASIBLE if found.bound == math.inf else Termination.NO_SOLUTION_AT_LIMIT
    return Termination.OPTIMAL if found.bound >= found.objective else Termination.FEASIBLE_AT_LIMIT


class _Budget:
    """Passes made and allowed."""

    __slots__ = ("began", "limits", "stopped", "work")

    def __init__(self, limits: Limits, began: float) -> None:
        self.limits, self.began, self.work, self.stopped = limits, began, 0, False

    def late(self) -> bool:
        return self.limits.time_s is not None and time.perf_counter() - self.began >= self.limits.time_s

    def spend(self) -> bool:
        """Count a pass; False when none is left."""
        if self.stopped or (self.limits.work is not None and self.work >= self.limits.work) or self.late():
            self.stopped = True
            return False
        self.work += 1
        return True


class _Passes:
    """Passes over the chunks of a problem whose interval times are known."""

    def __init__(self, problem: PartitionProblem) -> None:
        self.problem, self.times = problem, interval_times(problem)

    def least_sum(self, cap: int) -> tuple[int, int, tuple[int, ...]] | None:
        """Least sum of chunk times none of which exceeds ``cap``: the sum, the largest chunk and the cuts."""
        return self._measured(self._cheapest(np.where(self.times <= cap, self.times, NEVER)))

    def evenest(self, cap: int) -> tuple[int, int, tuple[int, ...]] | None:
        """Of the cuts of ``least_sum`` those with the least sum of squares (up to rounding).

        The squares are scaled to less than one tick together, so that they only decide between equal sums.
        """
        share = 0.5 / self.problem.chunks
        squares = self.times + share * (self.times / max(cap, 1)) ** 2
        return self._measured(self._cheapest(np.where(self.times <= cap, squares, NEVER)))

    def _cheapest(self, costs: NDArray[Any]) -> tuple[int, ...] | None:
        """Cuts with the least sum of costs, ``NEVER`` for what cannot be; of equal cuts those that come first."""
        n, chunks, stages = self.problem.n, self.problem.chunks, self.problem.stages
        reached = np.full(n + 1, NEVER, dtype=costs.dtype)
        reached[0] = 0
        history = [reached]
        for c in range(chunks):
            reached = np.minimum((reached[:, None] + costs[c % stages]).min(axis=0), NEVER)
            history.append(reached)
        if reached[n] >= NEVER:
            return None
        cuts = [n]
        for c in range(chunks - 1, -1, -1):
            end = cuts[-1]
            cuts.append(int(np.flatnonzero(history[c] + costs[c % stages, :, end] == history[c + 1][end])[0]))
        return tuple(reversed(cuts))

    def _measured(self, cuts: tuple[int, ...] | None) -> tuple[int, int, tuple[int, ...]] | None:
        if cuts is None:
            return None
        times = self.chunk_times(cuts)
        return sum(times), max(times), cuts

    def chunk_times(self, cuts: tuple[int, ...]) -> list[int]:
        """Time of every chunk."""
        stages = self.problem.stages
        return [int(self.times[c % stages, start, end]) for c, (start, end) in enumerate(itertools.pairwise(cuts))]

    def least_largest(self) -> int:
        """Smallest possible time of the largest chunk."""
        reached: Ints = np.full(self.problem.n + 1, NEVER, dtype=np.int64)
        reached[0] = 0
        for c in range(self.problem.chunks):
            reached = np.maximum(reached[:, None], self.times[c % self.problem.stages]).min(axis=0)
        return int(reached[self.problem.n])


def _solve_chunks(problem: PartitionProblem, budget: _Budget) -> _Found:
    """The least objective where chunks share no memory, and its proof as far as the budget reaches."""
    best: tuple[int, ...] | None = None
    objective: float = math.inf
    bound: float = -math.inf
    try:
        passes = _Passes(problem)
        if not budget.spend() or (first := passes.least_sum(NEVER - 1)) is None:
            return _Found(None, math.inf, -math.inf if budget.stopped else math.inf)
        a, b = problem.sum_weight, problem.max_weight

        def take(found: tuple[int, int, tuple[int, ...]]) -> None:
            nonlocal best, objective
            cost = a * found[0] + b * found[1]
            if cost < objective:
                objective, best = cost, found[2]

        take(first)
        low = passes.least_largest()
        bound = a * first[0] + b * low
        if first[1] > low and budget.spend() and (lowest := passes.least_sum(low)) is not None:
            take(lowest)
        # open ranges of the largest chunk, each with the least sum that is possible in it
        ranges = [(a * first[0] + b * (low + 1), low + 1, first[1] - 1, first[0])] if first[1] > low + 1 else []
        while ranges and ranges[0][0] < objective:
            bound = max(bound, ranges[0][0])
            if not budget.spend():
                break
            _, low, high, least = heapq.heappop(ranges)
            middle = (low + high) // 2
            found = passes.least_sum(middle)
            if found is not None:
                take(found)
                if found[1] > low:
                    heapq.heappush(ranges, (a * found[0] + b * low, low, found[1] - 1, found[0]))
            if middle < high:
                heapq.heappush(ranges, (a * least + b * (middle + 1), middle + 1, high, least))
        if not budget.stopped:
            bound = objective
            times = passes.chunk_times(best) if best else [0]
            if budget.spend() and (even := passes.evenest(max(times))) is not None and even[0] <= sum(times):
                best = even[2]
    except KeyboardInterrupt:
        budget.stopped = True
    if best is None:
        return _Found(None, math.inf, bound)
    return _Found(_with_modes(problem, best), objective, min(bound, objective))


def _with_modes(problem: PartitionProblem, cuts: tuple[int, ...]) -> Partition:
    """Cheapest modes of every chunk by itself, or those prescribed."""
    if problem.leading is not None:
        return Partition(cuts, problem.leading_modes(cuts))
    modes: list[int] = []
    for c, (start, end) in enumerate(itertools.pairwise(cuts)):
        modes += cheapest_modes(problem, range(start, end), c % problem.stages) or [0] * (end - start)
    return Partition(cuts, tuple(modes))


# -- several chunks on a stage -----------------------------------------------------------------------------------


def _solve_interleaved(problem: PartitionProblem, budget: _Budget) -> _Found:
    """Best over the stages on which the pairs that stay together may lie."""
    answers = []
    for stages in itertools.product(range(problem.stages), repeat=len(problem.together)):
        pins, clash = dict(problem.pins), False
        for pair, stage in zip(problem.together, stages, strict=True):
            for piece in pair:
                clash |= pins.setdefault(piece, stage) != stage
        if not clash:
            answers.append(_solve_pinned(replace(problem, pins=pins, together=()), budget))
    if not answers:
        return _Found(None, math.inf, math.inf)
    best = min(answers, key=lambda found: found.objective)
    return _Found(best.value, best.objective, min(found.bound for found in answers), best.note)


def _solve_pinned(problem: PartitionProblem, budget: _Budget) -> _Found:
    """Chunks as if each had its stage to itself (a bound, and the optimum where they fit), then what surely fits."""
    relaxed = _solve_chunks(problem, budget)
    if relaxed.value is None or not problem.problems_of(relaxed.value):
        return relaxed
    note = "chunks share their stage's memory: the bound lets each use all of it"
    candidates = [c for c in (_shared_modes(problem, relaxed.value.cuts),) if c is not None]
    room = zip(problem.capacity, problem.stage_bytes, strict=True)
    equal = replace(problem, capacity=tuple((cap - kept) // problem.vp + kept for cap, kept in room))
    split = _solve_chunks(equal, budget).value
    if split is not None:
        candidates += [c for c in (split, _shared_modes(problem, split.cuts)) if c is not None]
    feasible = [c for c in candidates if not problem.problems_of(c)]
    if not feasible:
        return _Found(None, math.inf, relaxed.bound, note)
    best = min(feasible, key=problem.objective)
    return _Found(best, problem.objective(best), relaxed.bound, note)


def _shared_modes(problem: PartitionProblem, cuts: tuple[int, ...]) -> Partition | None:
    """Modes that add the least time when a stage's chunks fill its memory together."""
    if problem.leading is not None:
        return Partition(cuts, problem.leading_modes(cuts))
    modes = [0] * problem.n
    of = Partition(cuts, tuple(modes)).chunk_of_piece() % problem.stages
    for stage in range(problem.stages):
        pieces = [int(i) for i in np.flatnonzero(of == stage)]
        chosen = cheapest_modes(problem, pieces, stage)
        if chosen is None:
            return None
        for i, mode in zip(pieces, chosen, strict=True):
            modes[i] = mode
    return Partition(cuts, tuple(modes))
