"""The best pipelines across pools: choices in the order of their bounds, each solved exactly until none can win."""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass

import numpy as np

from ..solvers.mixed_stages import ThresholdSplit
from ..solvers.result import TO_COMPLETION, Limits, Termination
from .price import Ints, Pricer, Stages
from .space import Choices

CHUNK = 4096


@dataclass(frozen=True, slots=True)
class Found:
    """One solved choice: row ``i`` of ``choices`` and ``stages`` with ``layers`` on its stages."""

    step_s: float
    key: tuple[int, ...]
    choices: Choices
    stages: Stages
    i: int
    layers: tuple[int, ...]


@dataclass(slots=True)
class Pipelines:
    """Result of the search.

    Attributes:
        best: fastest first; bound_s: no choice beats it; exact: every choice was solved or ruled out by its bound.
        feasible: choices seen that fit in memory; solved: how many splits were solved.
    """

    best: list[Found]
    bound_s: float
    exact: bool
    enumerated: int
    feasible: int
    solved: int


def best_pipelines(
    pricer: Pricer, choices: Choices, k: int, limits: Limits = TO_COMPLETION, cutoff_s: float = math.inf
) -> Pipelines:
    """The ``k`` fastest pipelines.

    Args:
        limits: work counts splits solved; an interrupt or a limit leaves the best so far, with a bound.
        cutoff_s: choices that cannot beat it are left out unless fewer than ``k`` are found.

    A choice is left only if its lower bound is no better than the ``k``-th found, so the answer is exact over the
    choices when nothing stops it early.
    """
    heap: list[tuple[float, tuple[int, ...], Found]] = []  # the worst of the best is on top
    solver, solved, feasible = ThresholdSplit(), 0, 0
    if not len(choices):
        return Pipelines([], math.inf, True, 0, 0, 0)
    quick = pricer.quick_bound(choices)
    order = np.argsort(quick, kind="stable")
    pending = math.inf
    try:
        for at in range(0, len(order), CHUNK):
            if quick[order[at]] >= _worst(heap, k, cutoff_s):
                break
            pending = float(quick[order[at]])
            some = choices.take(order[at : at + CHUNK])
            stages = pricer.stages(some)
            bound = pricer.bound(some, stages)
            feasible += int(np.isfinite(bound).sum())
            for i in np.argsort(bound, kind="stable"):
                if bound[i] >= _worst(heap, k, cutoff_s):
                    break
                if limits.work is not None and solved >= limits.work:
                    return _result(heap, pending, False, len(choices), feasible, solved)
                found = solver.solve(pricer.split(some, stages, int(i)))
                solved += 1
                cut = found.termination in (Termination.FEASIBLE_AT_LIMIT, Termination.NO_SOLUTION_AT_LIMIT)
                if found.value is None and not cut:
                    continue
                if found.value is None:
                    return _result(heap, pending, False, len(choices), feasible, solved)
                layers: Ints = np.array(found.value) * int(some.vp[i])
                step = sum(pricer.parts(some, stages, int(i), layers).values())
                key = (*_key(some, int(i)), *(int(v) for v in layers))
                keep = Found(step, key, some, stages, int(i), tuple(int(v) for v in layers))
                heapq.heappush(heap, (-step, tuple(-v for v in key), keep))
                if len(heap) > k:
                    heapq.heappop(heap)
                if cut:  # an interrupt inside the solver
                    return _result(heap, pending, False, len(choices), feasible, solved)
    except KeyboardInterrupt:
        return _result(heap, pending, False, len(choices), feasible, solved)
    return _result(heap, math.inf, True, len(choices), feasible, solved)


def _worst(heap: list[tuple[float, tuple[int, ...], Found]], k: int, cutoff_s: float) -> float:
    return -heap[0][0] if len(heap) >= k else cutoff_s


def _key(c: Choices, i: int) -> tuple[int, ...]:
    """A total order of choices for ties."""
    fields = (c.order, c.stages, c.row, c.state)
    return (int(c.pp[i]), int(c.vp[i]), int(c.dp[i]), *(int(v) for field in fields for v in field[i]))


def _result(
    heap: list[tuple[float, tuple[int, ...], Found]], bound: float, exact: bool, n: int, feasible: int, solved: int
) -> Pipelines:
    best = sorted((found for _, _, found in heap), key=lambda f: (f.step_s, f.key))
    fastest = best[0].step_s if best else math.inf
    return Pipelines(best, fastest if exact else min(bound, fastest), exact, n, feasible, solved)
