"""Price of pipelines across pools: a bound for a million choices at once, the layers of one choice exactly.

A step takes ``(m - 1/v) max_s c_s + sum_s c_s / v`` plus the longest end of a stage, where ``c_s`` is a micro-batch
on stage s with its transfers to the slower of its neighbours (``2 v hop``). With equal stages this is ``estimate``.
Transfers between pools are taken as fully exposed, those inside as far as the release's coefficients say.

Stages hold the same number of layers in each of their v chunks: then no stage waits for a longer chunk of another
(``costmodels.schedules.chunk_waiting`` is zero), and the pace is that of the slowest stage however they differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...costmodels.stage_table import FIRST, LAST, MIDDLE, ONLY, held_micro_batches, peak_bytes
from ..solvers.mixed_stages import StageSplit
from .costs import MixedCosts
from .space import Choices

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
NANOSECONDS = 1e9
_BISECTIONS = 36


@dataclass(slots=True)
class Stages:
    """Stages of some choices side by side, shape (choices, most stages); ``real`` marks those that exist."""

    real: NDArray[np.bool_]
    pool: Ints
    row: Ints
    state: Ints
    kind: Ints
    hop: Floats
    live: Floats
    sets: Floats
    start: Floats
    slope: Floats
    least: Ints
    most: Ints


class Pricer:
    """Prices choices of one request."""

    def __init__(self, costs: MixedCosts) -> None:
        self.costs, pools = costs, costs.pools
        self.layers = costs.problem.model.n_layers
        self.start = np.stack([p.start for p in pools])
        self.slope = np.stack([p.slope for p in pools])
        self.whole = np.stack([p.time.whole_s for p in pools])
        self.least_end = np.stack([p.least_end for p in pools])
        self.kept, self.short = np.stack([p.time.kept for p in pools]), np.stack([p.time.short for p in pools])
        self.working = np.stack([p.time.working for p in pools])
        self.base, self.update = np.stack([p.state.base for p in pools]), np.stack([p.state.update for p in pools])
        self.buffer = np.stack([p.buffer for p in pools])
        self.limit = np.array([p.limit_bytes for p in pools])
        model = costs.problem.model
        dense_first = model.moe is not None and model.moe.dense_first
        self.dense = model.n_dense_layers if dense_first else 0

    # -- all choices at once --------------------------------------------------------------------------------------

    def quick_bound(self, c: Choices) -> Floats:
        """No split of layers can beat this: pools at the rate of their middle stages, no transfer, no memory."""
        used = c.order >= 0
        pool = np.maximum(c.order, 0)
        slope = np.where(used, self.slope[pool, c.row].min(axis=2), np.inf)
        rate = np.where(used, c.stages / slope, 0.0).sum(axis=1)
        # leading dense layers may be cheaper than the line through the others
        early = np.minimum(self.start[pool[:, 0], c.row[:, 0], FIRST], 0.0)
        pace = np.maximum(self.layers + early / slope[:, 0], 0.0) / rate
        total = np.maximum(self.layers * slope.min(axis=1) + early, 0.0)
        seconds: Floats = np.asarray((c.micro_batches - 1.0 / c.vp) * pace + total / c.vp, dtype=np.float64)
        return seconds * self.jitter(c)

    def stages(self, c: Choices) -> Stages:
        """Every stage of every choice, with the most layers that its memory holds (in units of ``vp``)."""
        n, most = len(c), int(c.pp.max(initial=1))
        place = np.arange(most)[None, :]
        ends = c.stages.cumsum(axis=1)
        position = np.minimum((place[:, None, :] >= ends[:, :, None]).sum(axis=1), c.order.shape[1] - 1)
        real = place < c.pp[:, None]

        def at(values: Ints) -> Ints:
            return np.take_along_axis(values, position, axis=1)

        pool, row, state = np.maximum(at(c.order), 0), at(c.row), at(c.state)
        kind = np.where(place == 0, FIRST, np.where(place == c.pp[:, None] - 1, LAST, MIDDLE))
        kind = np.where(c.pp[:, None] == 1, ONLY, kind)
        live, sets = held_micro_batches(
            self.costs.problem.software[0], c.pp[:, None], c.vp[:, None], c.micro_batches[:, None] * 1.0, place
        )
        hop = self._hops(c, position, real)
        out = Stages(
            real, pool, row, state, kind, hop, live + 0.0 * hop, sets + 0.0 * hop,
            self.start[pool, row, kind] + hop, self.slope[pool, row, kind], np.ones((n, most), dtype=np.int64),
            np.zeros((n, most), dtype=np.int64),
        )  # fmt: skip
        if self.dense:
            out.least[:, 0] = -(-self.dense // c.vp)
        out.most = self._most(out, c.vp[:, None])
        return out

    def _hops(self, c: Choices, position: Ints, real: NDArray[np.bool_]) -> Floats:
        """Seconds that a micro-batch's transfers add to every stage."""
        inside, between, wrap = self.links(c)
        n, most = position.shape
        here, following = position[:, :-1], position[:, 1:]
        border = np.where(
            here == following,
            np.take_along_axis(inside, here, axis=1),
            np.take_along_axis(between, np.minimum(here, between.shape[1] - 1), axis=1),
        )
        border = np.where(real[:, 1:], border, 0.0)
        left, right = np.zeros((n, most)), np.zeros((n, most))
        left[:, 1:], right[:, :-1] = border, border
        left[:, 0] = wrap
        rows = np.arange(n)
        right[rows, c.pp - 1] = wrap
        return np.asarray(2.0 * c.vp[:, None] * np.maximum(left, right), dtype=np.float64)

    def links(self, c: Choices) -> tuple[Floats, Floats, Floats]:
        """Exposed seconds of one transfer inside each position's pool, to the next position, and from last to first
        (between the chunks of an interleaved pipeline)."""
        costs, software = self.costs, self.costs.problem.software[0]
        n, places = c.order.shape
        shown = software.coefficient("p2p_exposed")
        shown_inside = np.where(c.vp > 1, software.coefficient("p2p_interleaved"), shown)
        inside, between, wrap = np.zeros((n, places)), np.zeros((n, max(places - 1, 1))), np.zeros(n)
        last = (c.order >= 0).sum(axis=1) - 1
        for j in range(len(costs.pools)):
            for i in range(places):
                rows = np.flatnonzero((c.order[:, i] == j) & (c.stages[:, i] > 1))
                if len(rows):
                    hop = costs.hop_inside_s(j, c.row[rows, i], c.stride[rows, i], c.stages[rows, i])
                    inside[rows, i] = shown_inside[rows] * hop
            for k in range(len(costs.pools)):
                for i in range(places - 1):
                    rows = np.flatnonzero((c.order[:, i] == j) & (c.order[:, i + 1] == k))
                    if len(rows):
                        hop = costs.hop_between_s(j, k, c.row[rows, i], c.row[rows, i + 1], c.dp[rows])
                        between[rows, i] = shown * hop
                tail = c.order[np.arange(n), last]
                rows = np.flatnonzero((tail == j) & (c.order[:, 0] == k) & (c.vp > 1) & (last > 0))
                if len(rows):
                    hop = costs.hop_between_s(j, k, c.row[rows, last[rows]], c.row[rows, 0], c.dp[rows])
                    wrap[rows] = shown * hop
        return inside, between, wrap

    def peaks(self, s: Stages, layers: Any) -> Floats:
        """Peak bytes of every stage that holds ``layers``."""
        at, here = (s.pool, s.state, s.kind, layers), (s.pool, s.row, s.kind, layers)
        peak = peak_bytes(
            self.costs.problem.software[0], self.base[at], self.update[at], self.kept[here], self.short[here],
            self.working[here], (s.live, s.sets),
        )  # fmt: skip
        return np.asarray(peak + self.buffer[s.pool, s.row])

    def _most(self, s: Stages, vp: Ints) -> Ints:
        """Units that fit in memory, by bisection (peaks rise with layers)."""
        limit = self.limit[s.pool]
        low, high = np.zeros_like(s.pool), np.broadcast_to(self.layers // vp, s.pool.shape).copy()
        while (high > low).any():
            middle = (low + high + 1) // 2
            fits = self.peaks(s, middle * vp) <= limit
            low, high = np.where(fits, middle, low), np.where(fits, high, middle - 1)
        return np.where(s.real, low, 0)

    def feasible(self, c: Choices, s: Stages) -> NDArray[np.bool_]:
        """Choices whose memory holds all layers."""
        enough = s.most.sum(axis=1) * c.vp >= self.layers
        return np.asarray(enough & ((s.most >= s.least) | ~s.real).all(axis=1))

    def bound(self, c: Choices, s: Stages) -> Floats:
        """As ``quick_bound`` with transfers, ends of the pipeline, whole layers and memory (infinite: does not fit)."""
        vp = c.vp[:, None]
        units = self.layers // c.vp
        step = s.slope * vp
        least_cycle = np.where(s.real, s.start + step * s.least, 0.0)
        low = least_cycle.max(axis=1)
        rate = np.where(s.real, 1.0 / s.slope, 0.0).sum(axis=1)
        low = np.maximum(low, (self.layers + np.where(s.real, s.start / s.slope, 0.0).sum(axis=1)) / rate)
        high = np.maximum(np.where(s.real, s.start + step * s.most, 0.0).max(axis=1), low)
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            room = np.floor((middle[:, None] - s.start) / step + 1e-9)
            room = np.where(s.real, np.clip(room, 0, s.most), 0)
            enough = room.sum(axis=1) >= units
            low, high = np.where(enough, low, middle), np.where(enough, middle, high)
        cheapest = np.where(s.real, step, np.inf).min(axis=1)
        total = least_cycle.sum(axis=1) + (units - np.where(s.real, s.least, 0).sum(axis=1)) * cheapest
        # some stage holds at least its even share
        share = -(-self.layers // c.pp)[:, None]
        some = np.where(s.real, self.least_end[s.pool, s.state, share], np.inf).min(axis=1)
        all_ = np.where(s.real, self.least_end[s.pool, s.state, np.minimum(s.least * vp, self.layers)], 0.0).max(axis=1)
        end = np.maximum(some, all_)
        value = (c.micro_batches - 1.0 / c.vp) * low + total / c.vp + end + self.tied_s(c) + self.overhead_s
        return np.where(self.feasible(c, s), value * self.jitter(c), np.inf)

    # -- one choice -----------------------------------------------------------------------------------------------

    def split(self, c: Choices, s: Stages, i: int) -> StageSplit:
        """The problem of dealing layers to the stages of choice ``i``, in nanoseconds times ``vp``."""
        pp, vp = int(c.pp[i]), int(c.vp[i])
        layers = np.arange(0, self.layers + 1, vp)
        at = (s.pool[i, :pp, None], s.row[i, :pp, None], s.kind[i, :pp, None], layers[None, :])
        cycle = self.whole[at] + s.hop[i, :pp, None]
        end = np.empty((pp, len(layers)))
        for pool in np.unique(s.pool[i, :pp]):
            of = np.flatnonzero(s.pool[i, :pp] == pool)[:, None]
            end[of[:, 0]] = self.costs.end_s(int(pool), s.row[i, of], s.state[i, of], s.kind[i, of], layers[None, :])
        return StageSplit(
            cycle=_rising(cycle),
            end=np.maximum.accumulate(np.rint(end * NANOSECONDS).astype(np.int64), axis=1),
            least=s.least[i, :pp],
            most=s.most[i, :pp],
            units=len(layers) - 1,
            pace=int(c.micro_batches[i]) * vp - 1,
            end_weight=vp,
        )

    def _ends(self, s: Stages, i: int, k: int, layers: Any) -> Floats:
        pool, row, state, kind = (int(a[i, k]) for a in (s.pool, s.row, s.state, s.kind))
        return np.asarray(self.costs.end_s(pool, row, state, kind, layers))

    def parts(self, c: Choices, s: Stages, i: int, layers: Ints) -> dict[str, float]:
        """Named parts of the step of choice ``i`` with ``layers`` on its stages; they add up."""
        pp, vp, m = int(c.pp[i]), int(c.vp[i]), float(c.micro_batches[i])
        hop = s.hop[i, :pp]
        busy = self.whole[s.pool[i, :pp], s.row[i, :pp], s.kind[i, :pp], layers]
        slow = int(np.argmax(busy + hop))
        ends = [float(self._ends(s, i, k, int(layers[k]))) for k in range(pp)]
        longest = int(np.argmax(ends))
        pool = int(s.pool[i, longest])
        update = float(
            self.costs.pools[pool].state.optimizer_s[s.state[i, longest], s.kind[i, longest], layers[longest]]
        )
        parts = {
            "stage_s": m * float(busy[slow]),
            "bubble_s": (float(busy.sum()) - float(busy[slow])) / vp,
            "transfer_s": m * float(hop[slow]) + (float(hop.sum()) - float(hop[slow])) / vp,
            "dp_s": ends[longest] - update + float(self.tied_s(c.take(np.array([i])))[0]),
            "optimizer_s": update,
            "step_overhead_s": self.overhead_s,
        }
        parts["jitter_s"] = sum(parts.values()) * (float(self.jitter(c)[i]) - 1.0)
        return parts

    def tied_s(self, c: Choices) -> Floats:
        """Reduction of tied embeddings, zero for models without."""
        out = np.zeros(len(c))
        if not self.costs.problem.model.tied_embeddings or not len(c):
            return out
        final = c.order[np.arange(len(c)), (c.order >= 0).sum(axis=1) - 1]
        for a, b in sorted(set(zip(c.order[:, 0].tolist(), final.tolist(), strict=True))):
            at = np.flatnonzero((c.order[:, 0] == a) & (final == b))
            out[at] = self.costs.tied_embedding_s(a, b, c.row[at, 0], c.stride[at, 0], c.pp[at], c.dp[at])
        return out

    @property
    def overhead_s(self) -> float:
        """Host work of a step."""
        return self.costs.problem.software[0].coefficient("step_s")

    def jitter(self, c: Choices) -> Floats:
        """Factor for stragglers by the number of nodes in use."""
        pools = self.costs.problem.cluster.pools
        per_node = np.array([p.gpus_per_node for p in pools])
        nodes = (c.stages * c.ranks / per_node[np.maximum(c.order, 0)]).sum(axis=1)
        slow = self.costs.problem.software[0].coefficient("jitter_per_doubling")
        return np.asarray(1.0 + slow * np.log2(np.maximum(nodes, 1.0)))


def _rising(cycle: Floats) -> Ints:
    """Nanoseconds of 0, 1 ... units. No stage holds none: that entry continues the line of the next two. Where a unit
    never costs less than the one before it, rounding must not hide that (the solver is faster on convex costs): steps
    are rounded, and raised by a nanosecond where they would fall."""
    first = np.rint(cycle[:, 1:2] * NANOSECONDS).astype(np.int64)
    steps = np.diff(cycle[:, 1:], axis=1) * NANOSECONDS
    if (np.diff(steps, axis=1) >= -0.5).all():
        steps = np.maximum.accumulate(np.rint(steps), axis=1)
    whole = np.maximum(np.rint(steps), 0).astype(np.int64)
    before = np.maximum(first - whole[:, :1], 0) if whole.shape[1] else first
    return np.concatenate([before, first, first + whole.cumsum(axis=1)], axis=1)
