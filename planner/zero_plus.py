"""ZeRO++ options of the search: where a second copy of the parameters may lie, and quantized traffic where allowed."""

from __future__ import annotations

from itertools import product

from .problem import PlanningProblem

#: Fields of ``ParallelConfig`` that ZeRO++ adds.
ZERO_PLUS = ("hpz", "quantized_weights", "quantized_gradients")


def divisors(n: int) -> list[int]:
    """All divisors in ascending order."""
    low = [i for i in range(1, int(n**0.5) + 1) if n % i == 0]
    return sorted({*low, *(n // i for i in low)})


def zero_plus_options(p: PlanningProblem, zero_stage: int, ranks: int) -> list[tuple[int, int, int]]:
    """Values of ``ZERO_PLUS`` for one ZeRO stage over so many ranks.

    hpZ changes no result, so the search tries it unasked, over the ranks of every inner domain of the links (a pair of
    dies, a node, a rack); quantized traffic does, so it takes ``--allow quantized-comm`` or a pin.
    """
    offered = p.framework == "deepspeed" and zero_stage == 3
    domains = {tier.domain_gpus for tier in p.cluster.tiers[:-1]} | {p.cluster.gpus_per_node}
    inner = {max(d for d in divisors(ranks) if d <= domain) for domain in domains} if offered else set()
    hpz = p.pins.get("hpz", (0, *sorted(d for d in inner if 1 < d < ranks)))
    switch = (0, 1) if offered and "quantized-comm" in p.allow and ranks > 1 else (0,)
    return list(product(hpz, p.pins.get(ZERO_PLUS[1], switch), p.pins.get(ZERO_PLUS[2], switch)))
