"""How many layers each stage of an uneven pipeline holds, where stages differ in speed, memory and fixed cost.

A one-forward-one-backward pipeline of unequal stages takes ``(m - 1) max_s c_s + sum_s c_s`` (``costmodels.schedule``),
and the end of a step (gradient reduction, update) lasts as long as on the stage where it lasts longest. ``StageSplit``
states that in whole nanoseconds, so that every solver sees the same numbers; ``ThresholdSplit`` solves it exactly.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .base import LinearSolver, Solver, backends
from .linear_model import LinearModel
from .result import TO_COMPLETION, Limits, SolveResult, Termination

Ints = NDArray[np.int64]
Layers = tuple[int, ...]
VERSION = "1"


@dataclass(frozen=True, slots=True, eq=False)
class StageSplit:
    """Minimise ``pace * max_s cycle[s, u_s] + sum_s cycle[s, u_s] + end_weight * max_s end[s, u_s]``
    over ``least[s] <= u_s <= most[s]`` with ``sum_s u_s == units``.

    Attributes:
        cycle, end: shape (stages, units + 1), whole numbers (nanoseconds), rising in the number of units.
        least, most: units that each stage must and may hold (memory).
        units: layers of the model, or groups of them where they come in groups (one layer for each model chunk).
        pace: micro-batches beyond the first; end_weight: how often the end of the step counts.
    """

    cycle: Ints
    end: Ints
    least: Ints
    most: Ints
    units: int
    pace: int
    end_weight: int = 1

    def cost(self, value: Layers) -> float:
        """Objective of a split, infinite where it breaks a bound."""
        u = np.asarray(value)
        if len(u) != len(self.cycle) or u.sum() != self.units or (u < self.least).any() or (u > self.most).any():
            return math.inf
        rows = np.arange(len(u))
        cycle, end = self.cycle[rows, u], self.end[rows, u]
        return float(self.pace * int(cycle.max()) + int(cycle.sum()) + self.end_weight * int(end.max()))


class ThresholdSplit:
    """For every value that the slowest stage may take, the cheapest sum under it; likewise for the end of the step.

    Stages whose cost is convex in their units are filled greedily by marginal cost (exact for a separable convex
    sum); others by a dynamic programme over stages. Values of the slowest stage are tried in rising order until even
    the unconstrained sum could not pay for the next one. Work is counted in fills.
    """

    name = "threshold"
    exact = True

    def solve(self, problem: StageSplit, limits: Limits = TO_COMPLETION, seed: int = 0) -> SolveResult[Layers]:
        """See ``Solver``; the seed is not used."""
        started = time.perf_counter()
        search = _Search(problem, limits, started)
        try:
            search.run()
        except KeyboardInterrupt:
            search.stopped = True
        best, bound = search.best, search.bound
        objective = math.inf if best is None else search.objective
        if best is None:
            ended = Termination.NO_SOLUTION_AT_LIMIT if search.stopped else Termination.INFEASIBLE
        else:
            ended = Termination.FEASIBLE_AT_LIMIT if search.stopped and bound < objective else Termination.OPTIMAL
        return SolveResult(
            value=best,
            objective=objective,
            bound=objective if ended == Termination.OPTIMAL else min(bound, objective),
            termination=ended,
            solver=self.name,
            version=VERSION,
            seed=seed,
            work=search.work,
            seconds=time.perf_counter() - started,
            timed_out=search.timed_out,
        )


class _Search:
    def __init__(self, problem: StageSplit, limits: Limits, started: float) -> None:
        self.p, self.limits, self.started = problem, limits, started
        self.best: Layers | None = None
        self.objective, self.bound = math.inf, -math.inf
        self.work, self.stopped, self.timed_out = 0, False, False
        steps = np.diff(problem.cycle, axis=1)
        self.convex = bool((np.diff(steps, axis=1) >= 0).all())
        stage, unit = np.indices(steps.shape)
        order = np.lexsort((unit.ravel(), stage.ravel(), steps.ravel()))
        wanted = unit.ravel()[order] >= problem.least[stage.ravel()[order]]
        order = order[wanted]
        self.step_cost, self.stage, self.unit = steps.ravel()[order], stage.ravel()[order], unit.ravel()[order]
        rows = np.arange(len(problem.least))
        self.rows = rows
        self.floor_sum = int(problem.cycle[rows, problem.least].sum())
        self.to_deal = problem.units - int(problem.least.sum())

    def run(self) -> None:
        p = self.p
        if self.to_deal < 0 or (p.most < p.least).any() or p.most.sum() < p.units:
            return
        free = self.fill(p.most)
        if free is None:
            return
        allowed = (np.arange(p.units + 1) >= p.least[:, None]) & (np.arange(p.units + 1) <= p.most[:, None])
        ends = np.unique(p.end[allowed])
        least_sum, least_end = self._sum(free), int(ends[self._first_possible(p.end, ends)])
        self.bound = float(least_sum + p.end_weight * least_end)
        values = np.unique(p.cycle[allowed])
        for slowest in values[self._first_possible(p.cycle, values) :]:
            reach = p.pace * int(slowest) + least_sum + p.end_weight * least_end
            self.bound = max(self.bound, float(reach))
            if reach >= self.objective:
                self.bound = self.objective
                return
            if not self._try(int(slowest), least_end):
                return
        self.bound = self.objective

    def _first_possible(self, table: Ints, values: Ints) -> int:
        """The smallest largest entry of ``table`` (cycle or end) at which all units find a place."""
        low, high = 0, len(values) - 1
        while low < high:
            middle = (low + high) // 2
            if self._room(table, int(values[middle])).sum() >= self.p.units:
                high = middle
            else:
                low = middle + 1
        return low

    def _room(self, table: Ints, largest: int) -> Ints:
        under: Ints = (table <= largest).sum(axis=1) - 1
        return np.where(under < self.p.least, -(10**6), np.minimum(under, self.p.most))

    def _try(self, slowest: int, least_end: int) -> bool:
        """All splits worth knowing whose slowest stage takes at most ``slowest``; False at a limit."""
        p, room = self.p, self._room(self.p.cycle, slowest)
        while (room >= p.least).all() and room.sum() >= p.units:
            if self._at_limit():
                return False
            found = self.fill(room)
            if found is None:
                return True
            cycle, end = p.cycle[self.rows, found], int(p.end[self.rows, found].max())
            busy = p.pace * int(cycle.max()) + int(cycle.sum())
            cost = float(busy + p.end_weight * end)
            if cost <= self.objective:
                value = tuple(int(u) for u in found)
                if cost < self.objective or self.best is None or value < self.best:
                    self.best, self.objective = value, cost
            if end <= least_end or busy + p.end_weight * least_end >= self.objective:
                return True  # a shorter end costs a larger sum: nothing below can win
            room = np.minimum(room, (p.end < end).sum(axis=1) - 1)
        return True

    def _at_limit(self) -> bool:
        over = self.limits.work is not None and self.work >= self.limits.work
        late = self.limits.time_s is not None and time.perf_counter() - self.started > self.limits.time_s
        self.timed_out = late and not over
        self.stopped = over or late
        return self.stopped

    def _sum(self, u: Ints) -> int:
        return int(self.p.cycle[self.rows, u].sum())

    def fill(self, room: Ints) -> Ints | None:
        """Units of every stage with the least sum of cycles, at most ``room`` each."""
        self.work += 1
        if self.convex:
            usable = np.flatnonzero(self.unit < room[self.stage])
            if len(usable) < self.to_deal:
                return None
            dealt = np.bincount(self.stage[usable[: self.to_deal]], minlength=len(room))
            return self.p.least + dealt
        return self._programme(room)

    def _programme(self, room: Ints) -> Ints | None:
        p, never = self.p, np.int64(2**62)
        best = np.full(p.units + 1, never)
        best[0] = 0
        chosen: list[Ints] = []
        for s in range(len(room)):
            options = np.full((p.units + 1, p.units + 1), never)  # [units so far, units here]
            for u in range(int(p.least[s]), int(room[s]) + 1):
                before = best[: p.units + 1 - u]
                options[u:, u] = np.where(before < never, before + p.cycle[s, u], never)
            chosen.append(options.argmin(axis=1))
            best = options.min(axis=1)
        if best[p.units] >= never:
            return None
        out, left = np.zeros(len(room), dtype=np.int64), p.units
        for s in range(len(room) - 1, -1, -1):
            out[s] = chosen[s][left]
            left -= int(out[s])
        return out


# -- the same problem for generic solvers -------------------------------------------------------------------------


def linear_model(problem: StageSplit) -> LinearModel:
    """One binary for every stage and number of units; the slowest stage and the longest end as variables."""
    p, model = problem, LinearModel()
    feasible = bool((p.least <= p.most).all())
    top = int(p.cycle.max()), int(p.end.max())
    slowest = model.variable(0, top[0], cost=float(p.pace))
    end = model.variable(0, top[1], cost=float(p.end_weight))
    total: list[tuple[int, float]] = []
    for s in range(len(p.least)):
        choices = {u: model.binary(cost=float(p.cycle[s, u])) for u in range(int(p.least[s]), int(p.most[s]) + 1)}
        model.add([(x, 1.0) for x in choices.values()], low=1, high=1)
        model.add([(slowest, 1.0), *((x, -float(p.cycle[s, u])) for u, x in choices.items())], low=0)
        model.add([(end, 1.0), *((x, -float(p.end[s, u])) for u, x in choices.items())], low=0)
        total += [(x, float(u)) for u, x in choices.items()]
    model.add(total, low=p.units if feasible else p.units + 1, high=p.units)
    return model


def read_linear(problem: StageSplit, values: tuple[float, ...]) -> Layers:
    """The split that the binaries of ``linear_model`` stand for."""
    at, out = 2, []
    for s in range(len(problem.least)):
        options = range(int(problem.least[s]), int(problem.most[s]) + 1)
        out.append(next(u for i, u in enumerate(options) if values[at + i] > 0.5))
        at += len(options)
    return tuple(out)


def solvers() -> Mapping[str, Solver[StageSplit, Layers]]:
    """Our kernel first, then the generic ones."""
    generic: dict[str, Any] = {
        name: LinearSolver(name, backend, linear_model, read_linear, StageSplit.cost)
        for name, backend in backends().items()
    }
    return {"threshold": ThresholdSplit(), **generic}
