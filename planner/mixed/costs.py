"""Costs of one request's pools, as arrays over configurations, kinds of stage and layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...costmodels.candidates import CandidateTable
from ...costmodels.collectives import p2p_time_s
from ...costmodels.parallel import ParallelConfig
from ...costmodels.rules import rules_of, violations
from ...costmodels.software import Software
from ...costmodels.stage_table import (
    MicroBatchTable,
    StateTable,
    exposed_traffic_s,
    micro_batch_table,
    state_table,
    transfer_buffer_bytes,
)
from ...hardware_profiles.types import Tier
from ..problem import PlanningProblem
from ..space import MAX_MICRO_BATCH, MIN_TOKENS_PER_CP_RANK, divisors, recompute_options
from .problem import MixedProblem

Floats = NDArray[np.float64]
#: Rules that compare a configuration with a whole cluster or pipeline, which a stage of a mixed plan is not.
_WHOLE = frozenset(
    {"world_size", "layers", "batch", "interleave_batch", "vp_needs_pp", "recompute_layers", "expert_region"}
)
#: Frameworks with a mesh for each pool are built on this one.
RULES_OF = "megatron-lm"
_MAX_CP = 8


@dataclass(slots=True)
class PoolCosts:
    """One pool.

    Attributes:
        rows: micro-batch configurations, states: degrees and sharding; the same numbering in every pool.
        usable: rows that obey the rules on this pool (tp inside the scale-up domain).
        slope, start: ``start + slope * k`` is at most the time of a stage of k layers, shape (rows, kinds).
        least_end: over kinds and more layers the shortest end of a step, shape (states, layers + 1).
        limit_bytes: peak that fits.
    """

    time: MicroBatchTable
    state: StateTable
    usable: NDArray[np.bool_]
    slope: Floats
    start: Floats
    least_end: Floats
    buffer: Floats
    limit_bytes: float


@dataclass(slots=True)
class MixedCosts:
    """All pools of a request; ``rows`` and ``states`` are candidate tables shared by them."""

    problem: MixedProblem
    rows: CandidateTable
    states: CandidateTable
    pools: list[PoolCosts]

    def end_s(self, pool: int, row: Any, state: Any, kind: Any, layers: Any) -> Any:
        """Exposed data-parallel traffic and update of a stage (arrays broadcast)."""
        p, t = self.pools[pool], self.pools[pool].state
        switches = SimpleNamespace(
            overlap_grad_reduce=self.rows.overlap_grad_reduce[row],
            overlap_param_gather=self.rows.overlap_param_gather[row],
        )
        at, here = (state, kind, layers), (row, kind, layers)
        shown = exposed_traffic_s(
            self.problem.software[pool], switches, t.reduce_s[at], t.gather_s[at], p.time.backward_s[here],
            p.time.forward_s[here],
        )  # fmt: skip
        return shown + t.optimizer_s[at]

    def message_bytes(self, row: Any) -> Any:
        """Activations that all ranks of a stage's replica send to the next stage, per micro-batch."""
        w, m, t = self.problem.workload, self.problem.model, self.rows
        return t.micro_batch_size[row] * w.seq_len * float(m.hidden) * w.activation_bytes

    def hop_inside_s(self, pool: int, row: Any, ranks: Any, stages: Any) -> Any:
        """One transfer between neighbouring stages of a pool; ``ranks``: GPUs of a stage."""
        n_bytes = self.message_bytes(row) / (self.rows.tp[row] * self.rows.cp[row])
        return p2p_time_s(self.problem.cluster.pools[pool], n_bytes, ranks, stages)

    def hop_between_s(self, a: int, b: int, row_a: Any, row_b: Any, dp: Any) -> Any:
        """One transfer between stages of two pools: every GPU of the smaller stage sends its part.

        Where tp differs the wider side gathers what it received over its own fast links, which is left out.
        """
        t = self.rows
        parts = np.minimum(t.tp[row_a] * t.cp[row_a], t.tp[row_b] * t.cp[row_b])
        return self.between_s(a, b, self.message_bytes(row_a) / parts, parts * dp)

    def between_s(self, a: int, b: int, n_bytes: Any, senders: Any) -> Any:
        """Each of ``senders`` GPUs sends ``n_bytes`` to the other pool; the slower end counts."""
        cluster = self.problem.cluster
        link = cluster.link(cluster.names[a], cluster.names[b])
        senders = np.asarray(senders, dtype=float)
        share = np.ones_like(senders)
        if link.total_bytes_per_s > 0:
            share = np.minimum(1.0, link.total_bytes_per_s / (senders * link.bytes_per_s))
        tier = Tier(kind=link.kind, domain_gpus=2, bytes_per_s=link.bytes_per_s, latency_s=link.latency_s)
        wires = [replace(cluster.pools[end], nodes=2, gpus_per_node=1, tiers=(tier,)) for end in (a, b)]
        return np.maximum(*(p2p_time_s(wire, n_bytes / share, 1, 2) for wire in wires))

    def tied_embedding_s(self, first: int, last: int, row: Any, stride: Any, pp: Any, dp: Any) -> Any:
        """All-reduce of the gradients of tied embeddings between the first and the last stage."""
        model, workload, t = self.problem.model, self.problem.workload, self.rows
        n_bytes = model.padded_vocab(t.tp[row]) * model.hidden / t.tp[row] * workload.grad_dtype_bytes
        if first == last:
            hop = p2p_time_s(self.problem.cluster.pools[first], n_bytes, stride, pp)
        else:
            hop = self.between_s(first, last, n_bytes, t.tp[row] * t.cp[row] * dp)
        return np.where(pp > 1, 2.0 * hop, 0.0) / self.problem.software[0].coefficient("comm_derate")


def price_pools(problem: MixedProblem) -> MixedCosts:
    """Every configuration of a stage in every pool."""
    rows, states = _tables(problem)
    masks = [_usable(problem, i, rows) for i in range(len(problem.cluster.pools))]
    keep = np.logical_or.reduce(masks) if masks else np.zeros(len(rows), dtype=bool)
    rows = rows.take(keep)
    pools = [_pool(problem, i, rows, states, mask[keep]) for i, mask in enumerate(masks)]
    return MixedCosts(problem, rows, states, pools)


def _pool(
    problem: MixedProblem, i: int, rows: CandidateTable, states: CandidateTable, usable: NDArray[np.bool_]
) -> PoolCosts:
    cluster, software = problem.cluster.pools[i], problem.software[i]
    with np.errstate(invalid="ignore", divide="ignore"):  # zero layers, which no stage has
        time = micro_batch_table(problem.model, problem.workload, cluster, software, rows)
        state = state_table(problem.model, problem.workload, cluster, software, states)
    steps = np.diff(time.whole_s[:, :, 1:], axis=2) if problem.model.n_layers > 1 else time.whole_s[:, :, 1:]
    slope = steps.min(axis=2)
    k = np.arange(1, problem.model.n_layers + 1)
    start = (time.whole_s[:, :, 1:] - slope[:, :, None] * k).min(axis=2)
    least_end = shortest_ends(software, state)
    buffer = transfer_buffer_bytes(problem.model, problem.workload, rows, np.full(len(rows), 2))
    return PoolCosts(time, state, usable, slope, start, least_end, buffer, problem.memory_limit_bytes(i))


def shortest_ends(software: Software, state: StateTable) -> Floats:
    """Over kinds of stage and more layers the shortest end of a step: the update, and the share of the traffic that
    nothing can hide; shape (states, layers + 1)."""
    shown = (1.0 - software.coefficient("dp_overlap")) * (state.reduce_s + state.gather_s)
    end = (state.optimizer_s + shown).min(axis=1)
    return np.asarray(np.minimum.accumulate(end[:, ::-1], axis=1)[:, ::-1])


def _tables(problem: MixedProblem) -> tuple[CandidateTable, CandidateTable]:
    """Micro-batch configurations, and degrees with their sharding (ZeRO-1 over all replicas of a stage)."""
    w, model, pins = problem.workload, problem.model, problem.pins
    largest = max(pool.n_gpus for pool in problem.cluster.pools)
    domain = max(max(p.tiers[0].domain_gpus, p.gpus_per_node) for p in problem.cluster.pools)
    tps = pins.get("tp", tuple(d for d in (1, 2, 4, 8, 16, 32, 64) if d <= domain))
    longest = max(1, w.seq_len // MIN_TOKENS_PER_CP_RANK)
    cps = pins.get("cp", tuple(d for d in (1, 2, 4, 8) if d <= min(longest, _MAX_CP)))
    n_experts = model.moe.n_experts if model.moe else 1
    eps = pins.get("ep", tuple(divisors(n_experts)))
    batch = int(w.global_batch)
    sizes = pins.get("micro_batch_size", tuple(d for d in divisors(batch) if d <= MAX_MICRO_BATCH))
    masks = [mask for mask, layers in recompute_options(problem.alone(0)) if layers == 0]
    dps = pins.get("dp", tuple(d for d in divisors(batch) if d <= largest))
    base = ParallelConfig(zero_stage=1)
    switches = {
        name: int(problem.software[0].defaults.get(name, getattr(base, name)))
        for name in ("overlap_grad_reduce", "overlap_param_gather")
    }
    degrees = [(tp, cp, ep) for tp in tps for cp in cps for ep in eps if tp * cp <= largest]
    rows = [(tp, cp, ep, b, mask) for tp, cp, ep in degrees for b in sizes for mask in masks]
    states = [
        (tp, cp, ep, dp) for tp, cp, ep in degrees for dp in dps if tp * cp * dp <= largest and tp * cp * dp % ep == 0
    ]

    def table(names: tuple[str, ...], values: Sequence[tuple[int, ...]]) -> CandidateTable:
        columns = {n: np.array([v[i] for v in values], dtype=np.int64) for i, n in enumerate(names)}
        same = {name: np.full(len(values), value) for name, value in (("zero_stage", 1), *switches.items())}
        return CandidateTable({**columns, "sequence_parallel": (columns["tp"] > 1).astype(np.int64), **same})

    return table(("tp", "cp", "ep", "micro_batch_size", "recompute"), rows), table(("tp", "cp", "ep", "dp"), states)


def _usable(problem: MixedProblem, i: int, rows: CandidateTable) -> NDArray[np.bool_]:
    """Rows that obey the framework's rules on one stage in a pool."""
    alone: PlanningProblem = problem.alone(i)
    names = frozenset(r.name for r in rules_of(RULES_OF) if r.name not in _WHOLE)
    broken = violations(problem.model, problem.workload, alone.cluster, RULES_OF, rows, placement=True, only=names)
    bad = np.zeros(len(rows), dtype=bool)
    for mask in broken.values():
        bad |= np.asarray(mask, dtype=bool)
    return ~bad
