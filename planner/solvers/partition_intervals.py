"""Least time of every interval of pieces on every stage, recompute chosen exactly: the costs that the cut DP adds up.

Leaving a piece's first mode saves live bytes and takes time. Which pieces to move so that an interval fits a stage is a
knapsack whose answers, the front of (bytes saved, time added), do not depend on the stage: it is built once for every
interval, or once for all intervals of like pieces, and every stage reads off the cheapest point that saves enough.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .partition import Ints, PartitionProblem

#: Time of what cannot be; sums of two stay inside 64 bits.
NEVER = 2**60
#: Widest table of bytes for which intervals of unlike pieces are filled in together instead of front by front.
_WIDEST = 8192

Option = tuple[int, int, int]  # bytes saved, time added, mode


def options(problem: PartitionProblem) -> list[list[Option]]:
    """Modes of every piece that save more the longer they take, beginning with its first mode."""
    out = []
    for times, lives in zip(problem.time, problem.live, strict=True):
        order = sorted(range(len(times)), key=lambda r: (times[r], lives[r], r))
        kept: list[Option] = [(0, 0, 0)]
        for r in order:
            saved, added = lives[0] - lives[r], times[r] - times[0]
            if saved > kept[-1][0]:
                kept.append((saved, added, r))
        out.append(kept)
    return out


def interval_times(problem: PartitionProblem) -> Ints:
    """``T[s, i, j]``: least time of pieces ``i`` to ``j - 1`` as one chunk on stage ``s``, ``NEVER`` if impossible.

    A chunk may use all memory of its stage; with ``vp`` above 1 that is a lower bound.
    """
    n, base, live = problem.n, _prefix(t[0] for t in problem.time), _prefix(v[0] for v in problem.live)
    fixed, update = _prefix(problem.fixed), _prefix(problem.update)
    start, end = np.arange(n + 1)[:, None], np.arange(n + 1)[None, :]
    span = (end >= start).astype(np.int64)

    def inside(prefix: Ints) -> Ints:
        out: Ints = (prefix[None, :] - prefix[:, None]) * span
        return out

    flight, sets = np.array(problem.in_flight)[:, None, None], np.array(problem.working_sets)[:, None, None]
    room = (np.array(problem.capacity) - np.array(problem.stage_bytes))[:, None, None]
    time = inside(base) + np.array(problem.stage_time, dtype=np.int64)[:, None, None]
    need = inside(fixed) + flight * inside(live) + sets * _widest(problem.peak) - room
    if problem.leading is not None:
        less, more, moved = _leading(problem)
        fits = need - flight * less + sets * moved * _widest(problem.redo) <= 0
        return np.where(_allowed(problem) & fits & (inside(update) <= room), time + more, NEVER)
    short = np.where(need > 0, need + sets * _widest(problem.redo), 0)
    saved = np.where(short > 0, -(-short // np.maximum(flight, 1)), 0)
    possible = _allowed(problem) & ((short == 0) | (flight > 0)) & (inside(update) <= room)
    added = _added(options(problem), saved, possible)
    out: Ints = np.where(possible & (added < NEVER), time + np.minimum(added, NEVER), NEVER)
    return out


def cheapest_modes(problem: PartitionProblem, pieces: Sequence[int], stage: int) -> list[int] | None:
    """Modes of ``pieces`` together on one stage that add the least time, or None where nothing fits.

    Of equal answers the one whose earlier pieces leave their first mode.
    """
    room = problem.capacity[stage] - problem.stage_bytes[stage]
    flight, sets = problem.in_flight[stage], problem.working_sets[stage]
    if sum(problem.update[i] for i in pieces) > room:
        return None
    need = sum(problem.fixed[i] + flight * problem.live[i][0] for i in pieces) - room
    need += sets * max((problem.peak[i] for i in pieces), default=0)
    if need <= 0:
        return [0] * len(pieces)
    if not flight:
        return None
    least = -(-(need + sets * max(problem.redo[i] for i in pieces)) // flight)
    choices = options(problem)
    saved, added = np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64)
    steps: list[tuple[Ints, Ints]] = []
    for i in pieces:
        kept, size = choices[i], len(saved)
        grown = np.minimum(np.concatenate([saved + s for s, _, _ in kept]), least)
        time = np.concatenate([added + t for _, t, _ in kept])
        order = np.lexsort(
            (np.arange(len(grown)), time, -grown)
        )  # of equal points the one that leaves this piece alone
        falls = np.concatenate([[True], time[order][1:] < np.minimum.accumulate(time[order])[:-1]])
        order = order[falls]
        saved, added = grown[order], time[order]
        steps.append((order % size, order // size))
    if saved[0] < least:
        return None
    modes, at = [], 0  # the front begins with what saves most
    for i, (parent, option) in zip(reversed(pieces), reversed(steps), strict=True):
        modes.append(choices[i][int(option[at])][2])
        at = int(parent[at])
    return modes[::-1]


# -- parts -------------------------------------------------------------------------------------------------------


def _prefix(values: object) -> Ints:
    return np.concatenate([[0], np.cumsum(np.fromiter(values, dtype=np.int64))])  # type: ignore[call-overload]


def _widest(values: Sequence[int]) -> Ints:
    """Largest entry of every interval, 0 where it is empty."""
    n = len(values)
    out = np.zeros((n + 1, n + 1), dtype=np.int64)
    row = np.asarray(values, dtype=np.int64)
    for i in range(n):
        out[i, i + 1 :] = np.maximum.accumulate(row[i:])
    return out


def _leading(problem: PartitionProblem) -> tuple[Ints, Ints, NDArray[np.bool_]]:
    """Bytes saved per micro-batch, time added, and whether any piece moves, in every interval whose first
    ``problem.leading`` movable pieces are in their second mode."""
    movable = [i for i, times in enumerate(problem.time) if len(times) > 1]
    saved = _prefix(problem.live[i][0] - problem.live[i][1] for i in movable)
    added = _prefix(problem.time[i][1] - problem.time[i][0] for i in movable)
    number = _prefix(int(len(times) > 1) for times in problem.time)
    first, last = number[:, None], np.maximum(number[None, :], number[:, None])
    upto = np.minimum(first + (problem.leading or 0), last)
    return saved[upto] - saved[first], added[upto] - added[first], upto > first


def _allowed(problem: PartitionProblem) -> NDArray[np.bool_]:
    """Intervals that order, cuts, pins and the least number of layers permit, by stage."""
    n = problem.n
    start, end = np.arange(n + 1)[:, None], np.arange(n + 1)[None, :]
    ok = np.broadcast_to(end >= start, (problem.stages, n + 1, n + 1)).copy()
    for cut in problem.no_cut():
        ok[:, cut, :] = False
        ok[:, :, cut] = False
    counted = _prefix(int(flag) for flag in problem.counted)
    ok &= counted[None, :] - counted[:, None] >= problem.least
    for piece, stage in problem.pins.items():
        holds = (start <= piece) & (end > piece)
        others = np.arange(problem.stages) != stage
        ok[others] &= ~holds
        if problem.vp == 1:
            ok[stage] &= holds
    return ok


def _added(choices: list[list[Option]], saved: Ints, possible: NDArray[np.bool_]) -> Ints:
    """Least time that saves ``saved[s, i, j]`` bytes per micro-batch in each interval."""
    wanted = (saved > 0) & possible
    if not wanted.any():
        return np.zeros_like(saved)
    amounts = [o[0] for kept in choices for o in kept[1:]]
    unit = int(np.gcd.reduce(amounts)) if amounts else 1
    choices = [[(s // unit, t, r) for s, t, r in kept] for kept in choices]
    most = sum(kept[-1][0] for kept in choices)
    levels = np.where(wanted, np.minimum(-(-saved // unit), most + 1), 0)
    keys, first, where = _alike(choices, levels.shape[1])
    width = min(int(levels.max()), most) + 1
    if len(keys) > 4 * len(choices) and width <= _WIDEST:
        return _by_table(choices, levels, width)
    return _by_front(choices, levels, first, where)


def _alike(choices: list[list[Option]], size: int) -> tuple[Ints, Ints, Ints]:
    """Groups of intervals that hold the same numbers of each kind of piece.

    Returns:
        Group numbers, one interval of each (``i * size + j``), and the group of every interval.
    """
    kinds = sorted({tuple(kept) for kept in choices if len(kept) > 1})
    number = {kind: k for k, kind in enumerate(kinds)}
    counts = np.zeros((size, len(kinds)), dtype=np.int64)
    for i, kept in enumerate(choices):
        counts[i + 1] = counts[i]
        if len(kept) > 1:
            counts[i + 1, number[tuple(kept)]] += 1
    pairs = (counts[None, :, :] - counts[:, None, :]).reshape(size * size, -1)
    upper = np.triu_indices(size)
    flat = upper[0] * size + upper[1]
    _, first, inverse = np.unique(pairs[flat], axis=0, return_index=True, return_inverse=True)
    where = np.full(size * size, -1, dtype=np.int64)
    where[flat] = inverse.reshape(-1)
    return np.arange(len(first)), flat[first], where.reshape(size, size)


Front = tuple[Ints, Ints]  # bytes saved ascending, time added ascending


def _grow(front: Front, kept: list[Option]) -> Front:
    """The front with one more piece."""
    saved = np.concatenate([front[0] + s for s, _, _ in kept])
    added = np.concatenate([front[1] + t for _, t, _ in kept])
    order = np.lexsort((added, -saved))  # most saved first, of equal the least time
    saved, added = saved[order], added[order]
    least = np.minimum.accumulate(added)
    keep = np.concatenate([[True], added[1:] < least[:-1]])
    return saved[keep][::-1], added[keep][::-1]


def _by_front(choices: list[list[Option]], levels: Ints, first: Ints, where: Ints) -> Ints:
    """Front by front: one for all intervals of like pieces."""
    size = levels.shape[1]
    out = np.zeros_like(levels)
    fronts: dict[int, Front] = {}
    order = np.argsort(where, axis=None, kind="stable")
    bounds = np.searchsorted(where.ravel()[order], np.arange(len(first) + 1))
    flat_out, flat_levels = out.reshape(len(levels), -1), levels.reshape(len(levels), -1)
    empty: Front = (np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64))
    # fewer movable pieces first: an interval's front grows from that of the interval without its last one
    movable = _prefix(int(len(kept) > 1) for kept in choices)
    for group in np.argsort(movable[first % size] - movable[first // size], kind="stable"):
        i, j = divmod(int(first[group]), size)
        if j == i:
            fronts[group] = empty
        elif len(choices[j - 1]) == 1:
            fronts[group] = fronts[where[i, j - 1]]
        else:
            fronts[group] = _grow(fronts[where[i, j - 1]], choices[j - 1])
        mine = order[bounds[group] : bounds[group + 1]]
        saved, added = fronts[group]
        place = np.searchsorted(saved, flat_levels[:, mine])
        flat_out[:, mine] = np.concatenate([added, [NEVER]])[place]
    return out


def _by_table(choices: list[list[Option]], levels: Ints, width: int) -> Ints:
    """All intervals that end at one piece together: least time to save at least 0, 1, 2 ... units."""
    size = levels.shape[1]
    out = np.where(levels >= width, NEVER, 0)
    table = np.full((size, width), NEVER, dtype=np.int64)
    table[:, 0] = 0
    inside = np.minimum(levels, width - 1)
    for j in range(1, size):
        rows = table[:j]
        grown = rows.copy()
        for saved, added, _ in choices[j - 1][1:]:
            step = min(saved, width)
            np.minimum(grown[:, :step], rows[:, :1] + added, out=grown[:, :step])
            if step < width:
                np.minimum(grown[:, step:], rows[:, : width - step] + added, out=grown[:, step:])
        table[:j] = grown
        found = grown[np.arange(j)[None, :], inside[:, :j, j]]
        out[:, :j, j] = np.maximum(out[:, :j, j], found)
    return np.minimum(out, NEVER)
