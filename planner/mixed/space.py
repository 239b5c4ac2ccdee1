"""Pipelines across pools worth pricing: order of pools, stages in each, degrees, micro-batch, recomputation, chunks.

Stages of one pool are neighbours. Every stage has ``tp * cp * dp`` GPUs; dp, cp and ep are the same on all stages, tp
and recomputation may differ between pools where the framework allows it. A pool gives whole nodes. Layers per stage
are not enumerated: the solver finds them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations, product

import numpy as np
from numpy.typing import NDArray

from ..space import divisors
from .costs import MixedCosts

Ints = NDArray[np.int64]
MAX_VP = 10
#: Rows beyond which the space is narrowed.
MAX_ROWS = 1_500_000
#: Ways to narrow it, each with those before it: words, and the most numbers of stages that a pool may have (0: all).
NARROWING = (
    ("", 0),
    ("recomputation is the same in all pools", 0),
    ("a pool has at most six numbers of stages to choose from, all of its GPUs among them", 6),
    ("a pool gives all of its GPUs or none", 1),
)


@dataclass(slots=True)
class Choices:
    """Outer choices, one per row.

    Attributes:
        order: pools from the first stage on, -1 behind the last, shape (rows, pools); stages, row, state: of the
            pool at each position (0 where there is none); ranks: GPUs of one of its stages; stride: from one of its
            stages to the next in rank order.
        vp, micro_batches, pp, dp: of the pipeline, shape (rows,).
    """

    order: Ints
    stages: Ints
    row: Ints
    state: Ints
    ranks: Ints
    stride: Ints
    vp: Ints
    micro_batches: Ints
    pp: Ints
    dp: Ints

    def __len__(self) -> int:
        return len(self.vp)

    def take(self, index: Ints) -> Choices:
        """Rows by index."""
        return Choices(*(getattr(self, name)[index] for name in self.__slots__))


@dataclass(frozen=True, slots=True)
class _Shape:
    """One choice of order, stages and degrees, before micro-batch, recomputation and chunks."""

    order: tuple[int, ...]
    stages: tuple[int, ...]
    tp: tuple[int, ...]
    cp: int
    ep: int
    dp: int


def enumerate_choices(costs: MixedCosts) -> tuple[Choices, str]:
    """All outer choices, and how the space was narrowed (empty: it was not)."""
    mixed = costs.problem.framework == "any"
    said: list[str] = []
    for level, (words, most) in enumerate(NARROWING):
        if level == 1 and not mixed:
            continue  # one recompute mode for all pools is no narrowing there
        said = [*said[: 1 if mixed else 0], words] if words else []
        blocks = list(_blocks(costs, most))
        n_shapes = sum(math.prod(len(stages) for stages in block.stages) for block in blocks)
        free = mixed and level == 0
        if most == 1 or n_shapes * _grid_size(costs, free) <= MAX_ROWS:
            break
    return _cross(costs, list(_shapes(costs, blocks)), free), "; ".join(said)


def stage_counts(n_gpus: int, ranks: int, gpus_per_node: int) -> list[int]:
    """Numbers of stages of ``ranks`` GPUs for which a pool gives whole nodes, fewest first."""
    return [s for s in range(1, n_gpus // ranks + 1) if s * ranks % gpus_per_node == 0]


def _thinned(counts: list[int], most: int) -> list[int]:
    """At most ``most`` of some numbers, evenly spread, the largest among them (0: all of them)."""
    if not most or len(counts) <= most:
        return counts
    return [counts[len(counts) * (i + 1) // most - 1] for i in range(most)]


@dataclass(frozen=True, slots=True)
class _Block:
    """Shapes that differ in the numbers of stages only: options for each pool of the order."""

    order: tuple[int, ...]
    stages: tuple[list[int], ...]
    tp: tuple[int, ...]
    cp: int
    ep: int
    dp: int


def _shapes(costs: MixedCosts, blocks: list[_Block]) -> Iterator[_Shape]:
    n_layers, pins = costs.problem.model.n_layers, costs.problem.pins
    for b in blocks:
        for stages in product(*b.stages):
            pp = sum(stages)
            if pp <= n_layers and ("pp" not in pins or pp in pins["pp"]):
                yield _Shape(b.order, stages, b.tp, b.cp, b.ep, b.dp)


def _blocks(costs: MixedCosts, most: int) -> Iterator[_Block]:
    problem = costs.problem
    pools = problem.cluster.pools
    t = costs.states
    tps = sorted({int(v) for v in t.tp})
    mixed_tp = problem.framework == "any"
    for cp, ep, dp in sorted({(int(c), int(e), int(d)) for c, e, d in zip(t.cp, t.ep, t.dp, strict=True)}):
        counts = {
            (j, tp): _thinned(stage_counts(pool.n_gpus, tp * cp * dp, pool.gpus_per_node), most)
            for j, pool in enumerate(pools)
            for tp in tps
            if tp * cp * dp % ep == 0
        }
        for size in range(2, len(pools) + 1):
            for order in permutations(range(len(pools)), size):
                for degrees in product(tps, repeat=size) if mixed_tp else ((tp,) * size for tp in tps):
                    options = tuple(counts.get((j, tp), []) for j, tp in zip(order, degrees, strict=True))
                    if all(options):
                        yield _Block(order, options, degrees, cp, ep, dp)


def _options(costs: MixedCosts) -> tuple[list[int], list[int], list[int]]:
    """Micro-batches, recompute masks, chunks."""
    problem = costs.problem
    sizes = sorted({int(v) for v in costs.rows.micro_batch_size})
    masks = sorted({int(v) for v in costs.rows.recompute})
    layers = problem.model.n_layers
    chunks = problem.pins.get("vp", tuple(v for v in divisors(layers) if v <= MAX_VP))
    if problem.framework == "any" and "vp" not in problem.pins:
        chunks = (1,)  # a mesh for each pool excludes interleaving
    return sizes, masks, [v for v in chunks if layers % v == 0]


def _grid_size(costs: MixedCosts, free: bool) -> int:
    sizes, masks, chunks = _options(costs)
    pools = len(costs.problem.cluster.pools)
    modes: int = len(masks) ** (pools if free else 1)
    return len(sizes) * modes * len(chunks)


def _cross(costs: MixedCosts, shapes: list[_Shape], free: bool) -> Choices:
    """Every shape with every micro-batch, recomputation and number of chunks that go with it."""
    n_pools = len(costs.problem.cluster.pools)
    sizes, masks, chunks = _options(costs)
    recompute = (
        list(product(range(len(masks)), repeat=n_pools)) if free else [(i,) * n_pools for i in range(len(masks))]
    )
    lookup = _Lookup(costs, sizes, masks)
    order, stages, degree, state, ranks, pp, dp = lookup.columns(shapes, n_pools)
    batch = int(costs.problem.workload.global_batch)
    out: list[tuple[Ints, ...]] = []
    for b, size in enumerate(sizes):
        for mask in recompute:
            row = np.where(order >= 0, lookup.row_of[degree, b, np.array(mask)], 0)
            used = lookup.usable[np.maximum(order, 0), np.maximum(row, 0)]
            fine = ((row >= 0) & (state >= 0) & used | (order < 0)).all(axis=1) & (batch % (size * dp) == 0)
            if free:  # positions behind the last pool take the first mask only
                fine &= ((order >= 0) | (np.array(mask) == 0)).all(axis=1)
            m = batch // (size * dp)
            for vp in chunks:
                ok = fine & (pp * vp <= costs.problem.model.n_layers)
                if vp > 1:
                    ok &= m % pp == 0
                index = np.flatnonzero(ok)
                out.append(
                    (order[index], stages[index], row[index], state[index], ranks[index], ranks[index],
                     np.full(len(index), vp), m[index], pp[index], dp[index])
                )  # fmt: skip
    if not out:
        none = np.zeros((0, n_pools), dtype=np.int64)
        return Choices(*(none,) * 6, *(none[:, 0],) * 4)
    return Choices(*(np.concatenate(parts) for parts in zip(*out, strict=True)))


class _Lookup:
    """Numbers of rows and states by their fields."""

    def __init__(self, costs: MixedCosts, sizes: list[int], masks: list[int]) -> None:
        rows, states = costs.rows, costs.states
        keys = list(zip(rows.tp.tolist(), rows.cp.tolist(), rows.ep.tolist(), strict=True))
        self.degrees = {key: i for i, key in enumerate(dict.fromkeys(keys))}
        self.row_of = np.full((len(self.degrees) + 1, len(sizes), len(masks)), -1)
        for i, key in enumerate(keys):
            b, r = sizes.index(int(rows.micro_batch_size[i])), masks.index(int(rows.recompute[i]))
            self.row_of[self.degrees[key], b, r] = i
        fields = (states.tp.tolist(), states.cp.tolist(), states.ep.tolist(), states.dp.tolist())
        self.states = {key: i for i, key in enumerate(zip(*fields, strict=True))}
        self.usable = np.stack([pool.usable for pool in costs.pools])

    def columns(self, shapes: list[_Shape], n_pools: int) -> tuple[Ints, ...]:
        """Shapes as arrays; the last degree number stands for what has no rows."""
        n, none = len(shapes), len(self.degrees)
        order = np.full((n, n_pools), -1)
        stages, degree, state, ranks = (np.zeros((n, n_pools), dtype=np.int64) for _ in range(4))
        degree[:] = none
        for i, s in enumerate(shapes):
            size = len(s.order)
            order[i, :size], stages[i, :size] = s.order, s.stages
            for j, tp in enumerate(s.tp):
                degree[i, j] = self.degrees.get((tp, s.cp, s.ep), none)
                state[i, j] = self.states.get((tp, s.cp, s.ep, s.dp), -1)
                ranks[i, j] = tp * s.cp * s.dp
        dp = np.array([s.dp for s in shapes], dtype=np.int64)
        return order, stages, degree, state, ranks, stages.sum(axis=1), dp
