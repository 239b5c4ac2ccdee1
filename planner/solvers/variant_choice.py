"""One variant per layer of a stage, the cheapest that fits: the multiple-choice knapsack, exactly.

Bounds come first and settle most questions: the linear relaxation by its greedy along each layer's convex hull
(Sinha and Zoltners 1979), and that greedy's own rounding. Where a question falls between them, a Pareto front over
(memory, cost) goes layer by layer, cut by the relaxation's multiplier; layers of one kind keep it short.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Options = Sequence[tuple[float, float]]  # (cost, memory) of each variant of one layer


@dataclass(frozen=True, slots=True)
class VariantChoice:
    """What is known of one stage: no choice costs less than ``bound``; ``picked`` fits and costs ``cost``."""

    bound: float
    cost: float = math.inf
    picked: tuple[int, ...] | None = None

    @property
    def settled(self) -> bool:
        """Whether nothing remains between the two."""
        return self.bound >= self.cost

    def under(self, limit: float) -> bool:
        """Whether the choice exists and costs at most ``limit``, which may be infinite."""
        return self.picked is not None and self.cost <= limit


@dataclass(frozen=True, slots=True)
class Relaxation:
    """Greedy answer, bound and multiplier (cost per byte) of a stage."""

    choice: VariantChoice
    multiplier: float


def relax(layers: Sequence[Options], room: float) -> Relaxation:
    """Return bounds on the least cost of one option per layer whose memory fits into ``room``."""
    picked, steps = [], []
    memory = 0.0
    terms = []
    for number, options in enumerate(layers):
        hull = _hull(options)
        picked.append(hull[0])
        terms.append(options[hull[0]][0])
        memory += options[hull[0]][1]
        for a, b in itertools.pairwise(hull):
            saved = options[a][1] - options[b][1]
            extra = options[b][0] - options[a][0]
            steps.append((extra / saved, number, b, extra, saved))
    cost = math.fsum(terms)
    if _total(layers, picked, 1) <= room:
        return Relaxation(VariantChoice(cost, cost, tuple(picked)), 0.0)
    steps.sort()
    bound = cost
    for slope, number, option, extra, saved in steps:
        excess = memory - room
        picked[number] = option
        memory -= saved
        if saved >= excess and _total(layers, picked, 1) <= room:
            bound += slope * max(excess, 0.0)
            cost = _total(layers, picked, 0)
            return Relaxation(VariantChoice(min(bound, cost), cost, tuple(picked)), slope)
        bound += extra
    return Relaxation(VariantChoice(math.inf), 0.0)


def _hull(options: Options) -> list[int]:
    """Options on the lower convex hull from the cheapest down to the least memory."""
    order = sorted(range(len(options)), key=lambda i: (options[i][0], options[i][1], i))
    hull: list[int] = []
    for i in order:
        cost, memory = options[i]
        if hull and memory >= options[hull[-1]][1]:
            continue
        while len(hull) > 1:
            (c0, m0), (c1, m1) = options[hull[-2]], options[hull[-1]]
            if (c1 - c0) * (m0 - memory) < (cost - c0) * (m0 - m1):
                break
            hull.pop()
        hull.append(i)
    return hull


def solve(layers: Sequence[Options], room: float, known: Relaxation | None = None) -> VariantChoice:
    """Return the cheapest choice that fits; ``cost`` is infinite and ``picked`` None if none does."""
    relaxation = known or relax(layers, room)
    start = relaxation.choice
    if start.settled:
        return start
    multiplier = relaxation.multiplier
    least_memory = _suffix([min(m for _, m in options) for options in layers])
    least_mixed = _suffix([min(c + multiplier * m for c, m in options) for options in layers])
    slack = 1e-12 * (abs(start.cost) + multiplier * room)
    memory, cost = np.zeros(1), np.zeros(1)
    trail: list[tuple[NDArray[np.intp], NDArray[np.intp]]] = []
    for i, options in enumerate(layers):
        new_cost = np.concatenate([cost + c for c, _ in options])
        new_memory = np.concatenate([memory + m for _, m in options])
        parent = np.tile(np.arange(len(cost)), len(options))
        option = np.repeat(np.arange(len(options)), len(cost))
        hopeful = new_cost + multiplier * (new_memory - room) + least_mixed[i + 1] <= start.cost + slack
        keep = np.nonzero((new_memory + least_memory[i + 1] <= room * (1 + 1e-12)) & hopeful)[0]
        keep = keep[np.lexsort((option[keep], parent[keep], new_memory[keep], new_cost[keep]))]
        lowest = np.minimum.accumulate(new_memory[keep])
        keep = keep[np.concatenate(([True], new_memory[keep][1:] < lowest[:-1]))] if len(keep) else keep
        memory, cost = new_memory[keep], new_cost[keep]
        trail.append((parent[keep], option[keep]))
    for end in range(len(cost)):  # cheapest first
        picked = _walk(trail, end)
        if _total(layers, picked, 1) <= room:
            total = _total(layers, picked, 0)
            if total < start.cost:
                return VariantChoice(total, total, picked)
            break
    return VariantChoice(start.cost, start.cost, start.picked)


def _total(layers: Sequence[Options], picked: Sequence[int], part: int) -> float:
    return math.fsum(options[choice][part] for options, choice in zip(layers, picked, strict=True))


def _suffix(values: Sequence[float]) -> list[float]:
    sums = [0.0]
    for value in reversed(values):
        sums.append(sums[-1] + value)
    return sums[::-1]


def _walk(trail: Sequence[tuple[NDArray[np.intp], NDArray[np.intp]]], end: int) -> tuple[int, ...]:
    picked = []
    for parent, option in reversed(trail):
        picked.append(int(option[end]))
        end = int(parent[end])
    return tuple(reversed(picked))
