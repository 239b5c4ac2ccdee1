"""Unequal shares of the batch: how many micro-batches the pipelines of each pool serve, so that all end together."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import numpy as np

#: Combinations of pipelines that are dealt shares at most, in the order of their bounds.
MOST_DEALT = 4000
#: Shares tried one by one before only those near the even finish are.
MOST_TRIED = 4096


@dataclass(frozen=True, slots=True)
class PoolPipeline:
    """A pipeline of one pool: seconds of its slowest stage and of all stages together."""

    pool: int
    i: int
    layers: tuple[int, ...]
    slowest: float
    total: float
    quantum: int
    vp: int
    pp: int

    def seconds(self, micro_batches: int) -> float:
        """From the first to the last micro-batch."""
        return (micro_batches - 1.0 / self.vp) * self.slowest + self.total / self.vp

    def allowed(self, micro_batches: int) -> bool:
        """Whether the schedule takes this number."""
        return micro_batches >= 1 and (self.vp == 1 or micro_batches % self.pp == 0)


def undominated(solved: list[PoolPipeline]) -> list[PoolPipeline]:
    """Of pipelines with equal portions of the batch (and chunks, and micro-batches that go with them) the front of
    slowest stage against all stages."""
    kept: list[PoolPipeline] = []
    for one in sorted(solved, key=lambda s: (s.quantum, s.vp, s.pp if s.vp > 1 else 0, s.slowest, s.total, s.i)):
        last = kept[-1] if kept else None
        same = (
            last is not None and (one.quantum, one.vp) == (last.quantum, last.vp) and (one.vp == 1 or one.pp == last.pp)
        )
        if last is None or not same or one.total < last.total:
            kept.append(one)
    return kept


def best_shares(
    batch: int, pools: list[list[PoolPipeline]], k: int
) -> list[tuple[tuple[PoolPipeline, ...], tuple[int, ...]]]:
    """The ``k`` combinations of one pipeline for each pool that serve the batch soonest, with their micro-batches.

    Combinations are dealt in the order of what they would take if micro-batches could be divided, until that is no
    better than the ``k``-th found.
    """
    if not all(pools):
        return []
    rate = [np.array([s.quantum / s.slowest for s in options]) for options in pools]
    late = [np.array([(s.total - s.slowest) / s.vp for s in options]) for options in pools]
    rates, delayed = rate[0], rate[0] * late[0]
    for r, d in zip(rate[1:], late[1:], strict=True):
        rates = np.add.outer(rates, r)
        delayed = np.add.outer(delayed, r * d)
    bound = ((batch + delayed) / rates).ravel()
    found: list[tuple[float, tuple[int, ...], tuple[PoolPipeline, ...], tuple[int, ...]]] = []
    for flat in np.argsort(bound, kind="stable")[:MOST_DEALT]:
        if len(found) >= k and bound[flat] >= found[k - 1][0]:
            break
        index = tuple(int(i) for i in np.unravel_index(flat, rates.shape))
        chosen = tuple(options[i] for options, i in zip(pools, index, strict=True))
        shared = deal(batch, chosen)
        if shared is not None:
            step = max(s.seconds(m) for s, m in zip(chosen, shared, strict=True))
            found = sorted([*found, (step, index, chosen, shared)], key=lambda f: f[:2])[:k]
    return [(chosen, shared) for _, _, chosen, shared in found]


def deal(batch: int, chosen: tuple[PoolPipeline, ...]) -> tuple[int, ...] | None:
    """Micro-batches of each pool's pipelines that make up the batch and let the slowest pool end first."""
    if len(chosen) == 1:
        m, rest = divmod(batch, chosen[0].quantum)
        return (m,) if rest == 0 and chosen[0].allowed(m) else None
    *others, last = chosen
    best: tuple[float, tuple[int, ...]] | None = None
    most = [batch // s.quantum for s in others]
    if math.prod(most) <= MOST_TRIED:
        ranges = [range(1, m + 1) for m in most]
    else:  # the shares with which all pools would end together, and what is near them
        rates = [s.quantum / s.slowest for s in chosen]
        reach = last.quantum // math.gcd(*(s.quantum for s in chosen)) + 4
        even = [int(batch * r / sum(rates) / s.quantum) for r, s in zip(rates, chosen, strict=True)]
        ranges = [range(max(1, c - reach), min(c + reach, m) + 1) for c, m in zip(even, most, strict=False)]
    for counts in product(*ranges):
        left = batch - sum(m * s.quantum for m, s in zip(counts, others, strict=True))
        if left <= 0 or left % last.quantum:
            continue
        shared = (*counts, left // last.quantum)
        if all(s.allowed(m) for s, m in zip(chosen, shared, strict=True)):
            value = (max(s.seconds(m) for s, m in zip(chosen, shared, strict=True)), shared)
            best = value if best is None or value < best else best
    return best[1] if best else None
