"""Exact search for the chain of stages with the smallest largest load (the problem of ``chain_problem``).

For a load T that no stage may exceed, two sweeps over the downward-closed sets answer whether a chain exists. The
first, upwards, ignores how many micro-batches are in flight: the fewest devices that bring each set to an end under T.
The second, downwards from the whole graph, keeps per set the Pareto front of (replicas behind, devices used), which
is all that the stages before it can see, and drops what the first sweep shows to need too many devices. Whether a
stage's layers fit under T and the memory is the multiple-choice knapsack of ``variant_choice``. Every T that fails is
a proven lower bound, every chain found an upper one; bisection closes the two to one part in 10^9.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np

from .chain_problem import Chain, ChainProblem, ChainStage, largest_load
from .chain_stages import CandidateStages
from .result import TO_COMPLETION, Limits, SolveResult, Termination

VERSION = "1"  # raised when its answers may change
TOLERANCE = 1e-9
GROWTH = 0.004


@dataclass(frozen=True, slots=True)
class _Point:
    """Replicas behind, devices used, and the stage that led here from ``after``."""

    replicas: int
    devices: int
    pair: int = -1
    tp: int = 0
    dp: int = 0
    after: _Point | None = None


class _Stop(Exception):
    """A limit was reached."""


class ChainSolver:
    """Own kernel; exact, with a bound whenever it is stopped."""

    name = "downsets"
    exact = True

    def solve(self, problem: ChainProblem, limits: Limits = TO_COMPLETION, seed: int = 0) -> SolveResult[Chain]:
        """Return the best chain; ``work`` counts the stages that were checked one by one. ``seed`` is not used."""
        started = time.monotonic()
        run = _Run(problem, limits, started)
        stopped = False
        try:
            run.begin()
            run.close()
        except (_Stop, KeyboardInterrupt):
            stopped = True
        best, objective = run.best, run.objective
        if best is None:
            ending = Termination.NO_SOLUTION_AT_LIMIT if stopped else Termination.INFEASIBLE
        else:
            ending = Termination.FEASIBLE_AT_LIMIT if stopped else Termination.OPTIMAL
        return SolveResult(
            value=best,
            objective=objective,
            bound=min(run.bound, objective) if stopped else objective,
            termination=ending,
            solver=self.name,
            version=VERSION,
            seed=seed,
            work=run.work,
            seconds=time.monotonic() - started,
            timed_out=run.timed_out,
            note="" if stopped else f"optimal to {TOLERANCE:g} of the objective" if best else "",
        )


class _Run:
    def __init__(self, problem: ChainProblem, limits: Limits, started: float) -> None:
        self.problem, self.limits, self.started = problem, limits, started
        self.work, self.timed_out = 0, False
        self.best: Chain | None = None
        self.objective, self.bound = math.inf, -math.inf

    def begin(self) -> None:
        """Enumerate the candidate stages."""
        self.stages = CandidateStages(self.problem)

    def close(self) -> None:
        """Raise the bound and lower the objective until they meet."""
        self.bound, highest = self.stages.load_range
        if not self._relaxation_holds(math.inf):
            return
        least = max(self.bound, 1e-12 * highest)
        if not self._relaxation_holds(least):
            self.bound, high = least, highest
            while high > self.bound * (1 + 1e-4):
                middle = (self.bound + high) / 2
                if self._relaxation_holds(middle):
                    high = middle
                else:
                    self.bound = middle
        growth = GROWTH
        while self.best is None:
            load = max(self.bound, least) * (1 + growth) if self.bound < highest else math.inf
            if not self._try(load) and load == math.inf:
                return
            growth *= 2
        while self.objective * (1 - TOLERANCE) > self.bound:
            wide = self.objective > self.bound * (1 + 1e-4)
            self._try((self.bound + self.objective) / 2 if wide else self.objective * (1 - TOLERANCE))

    def _try(self, load: float) -> bool:
        chain = self._chain_under(load)
        if chain is None:
            self.bound = max(self.bound, load)
            return False
        self.best, self.objective = chain, largest_load(self.problem, chain)
        return True

    def _relaxation_holds(self, load: float) -> bool:
        self._check_time()
        return bool(self.stages.fewest_devices(load)[-1] <= self.stages.room)

    def _chain_under(self, load: float) -> Chain | None:
        """A chain whose loads are all at most ``load``, None if there is none."""
        stages, room = self.stages, self.stages.room
        before = stages.fewest_devices(load)
        top = len(before) - 1
        if before[top] > room:
            return None
        fronts: list[list[_Point]] = [[] for _ in before]
        fronts[top] = [_Point(0, 0)]
        for high in range(top, 0, -1):
            front = sorted(fronts[high], key=lambda p: (p.replicas, p.devices))
            fronts[high] = []
            if front:
                self._extend(high, front, fronts, before, load)
        done = min(fronts[0], key=lambda p: (p.devices, p.replicas), default=None)
        return None if done is None else self._read(done, load)

    def _extend(
        self, high: int, front: list[_Point], fronts: list[list[_Point]], before: np.ndarray, load: float
    ) -> None:
        stages = self.stages
        spare = stages.room - min(p.devices for p in front)
        for tp in self.problem.tp_degrees:
            for pair, least in stages.hopeful(high, tp, spare, before, load):
                low = int(stages.low[pair])
                for dp in self.problem.dp_degrees:
                    if dp < least:
                        continue
                    if tp * dp + before[low] > spare:
                        break
                    if not stages.may_hold(pair, tp, dp, load):
                        continue
                    for point in front:
                        reached = _Point(point.replicas + dp, point.devices + tp * dp, pair, tp, dp, point)
                        if (
                            reached.devices + before[low] > stages.room
                            or reached.replicas > self.problem.micro_batches
                            or _dominated(reached, fronts[low])
                        ):
                            continue
                        self._count()
                        if stages.holds(pair, tp, dp, -(-reached.replicas // dp), load):
                            _insert(reached, fronts[low])

    def _count(self) -> None:
        self.work += 1
        if self.limits.work is not None and self.work > self.limits.work:
            raise _Stop
        self._check_time()

    def _check_time(self) -> None:
        if self.limits.time_s is not None and time.monotonic() - self.started > self.limits.time_s:
            self.timed_out = True
            raise _Stop

    def _read(self, point: _Point, load: float) -> Chain:
        found = []
        while point.after is not None:
            in_flight = -(-point.replicas // point.dp)
            variants = self.stages.variants(point.pair, point.tp, point.dp, in_flight, load)
            found.append(ChainStage(self.stages.layers(point.pair), point.tp, point.dp, variants))
            point = point.after
        return tuple(found)


def _dominated(point: _Point, front: list[_Point]) -> bool:
    return any(p.replicas <= point.replicas and p.devices <= point.devices for p in front)


def _insert(point: _Point, front: list[_Point]) -> None:
    front[:] = [p for p in front if p.replicas < point.replicas or p.devices < point.devices]
    front.append(point)
