"""A plan's pipeline as a partition problem: seconds and bytes of its pieces in whole units, with the cost model's own
limits on memory and its own critical path."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from fractions import Fraction
from typing import Any

import numpy as np

from ..costmodels.interval import fit_probability, memory_sigma
from ..costmodels.layer_costs import FULL, PARTIAL, Floats, LayerCosts, Piece
from ..costmodels.memory import ledger, micro_batches_held, more_working_sets
from ..costmodels.parallel import ParallelConfig, Recompute, Schedule
from ..costmodels.states import bucket_bytes, gathered_parameters, update_bytes
from .problem import PlanningProblem
from .solvers.partition import PartitionProblem

#: Bytes of one unit of memory; sizes are rounded up to it, so that what fits in units fits.
UNIT_BYTES = 2.0**16
_FINEST_S = 1e-9


class Choice(Enum):
    """What a framework lets each layer do: as the plan says, whole layers at the head of each chunk, or free."""

    PLAN = "plan"
    LEADING = "leading"
    FREE = "free"


@dataclass(frozen=True, slots=True)
class StageRules:
    """What a layout may be.

    Attributes:
        choice: see ``Choice``; leading: number of layers under ``LEADING``.
        layer_everywhere: every chunk needs a transformer layer (else any piece will do).
    """

    choice: Choice = Choice.PLAN
    leading: int = 0
    layer_everywhere: bool = False


def partition_problem(
    problem: PlanningProblem, config: ParallelConfig, costs: LayerCosts, rules: StageRules, *, less_bytes: float = 0.0
) -> PartitionProblem:
    """Pieces, stages, limits and objective of one configuration.

    Time of a stage is one linear form of its pieces: kernels and exposed collectives where the device sets the pace,
    launches where the host does (whichever is larger for the whole model); ``price_stages`` has the maximum of both for
    each stage. ZeRO-3's gathered layers count as on a stage of the whole model, temporaries as the largest of a stage's
    pieces. Multi-token-prediction blocks stand with the head: apart from it they would need a copy of the vocabulary.

    Args:
        less_bytes: room to leave free beyond that.
    """
    software, n = problem.software, costs.n
    seconds = _piece_seconds(problem, costs)
    base = 0.0 if software.cuda_graphs else software.coefficient("microbatch_s")
    sums, largest = objective_weights(problem, config, costs)
    # whole units: the largest total that can occur stays far below what 64 bits and a double hold
    unit = max(_FINEST_S, (float(seconds.max(axis=1).sum()) + base * config.pp * config.vp) * (sums + largest) / 2**50)
    ticks = np.rint(seconds / unit).astype(np.int64)
    flight = _in_flight(problem, config)
    scale = int(np.lcm.reduce([f.denominator for f in flight]))
    memory = _Memory(problem, config, costs)
    limit = memory_limit_bytes(problem) - less_bytes
    one = recompute_of_plan(config)
    movable = costs.layer & (rules.choice is not Choice.PLAN)
    modes = [[PARTIAL, FULL] if m else [PARTIAL if p else one] for m, p in zip(movable, _plain(costs), strict=True)]
    room = [scale * ((limit - memory.constant) // UNIT_BYTES) - scale * x for x in memory.sent_units(flight)]
    head = int(np.flatnonzero(costs.kind == Piece.HEAD)[0])
    blocks = np.flatnonzero(costs.kind == Piece.MTP)
    return PartitionProblem(
        stages=config.pp,
        vp=config.vp,
        time=tuple(tuple(_rising(int(ticks[i, r]) for r in kept)) for i, kept in enumerate(modes)),
        live=tuple(tuple(memory.live_units(i, r) for r in kept) for i, kept in enumerate(modes)),
        fixed=_units(memory.states + memory.short, scale),
        update=_units(memory.states + memory.update, scale),
        peak=_units(memory.temporary + _always_redone(costs, modes, memory.redo), scale),
        redo=_units(memory.redo, scale),
        in_flight=tuple(int(f * scale) for f in flight),
        capacity=tuple(int(r) for r in room),
        working_sets=tuple(
            int(k) for k in 1 + np.ceil(more_working_sets(software, config, n_micro(problem, config), memory.stage))
        ),
        stage_time=(round(base / unit / config.vp),) * config.pp,
        sum_weight=sums,
        max_weight=largest,
        leading=rules.leading if rules.choice is Choice.LEADING else None,
        counted=tuple(bool(x) for x in (costs.layer if rules.layer_everywhere else np.ones(n, dtype=bool))),
        least=1,
        forbidden_cuts=tuple(int(i) for i in range(int(blocks[0]) + 1, head + 1)) if len(blocks) else (),
    )


def n_micro(problem: PlanningProblem, config: ParallelConfig) -> float:
    """Micro-batches of one data-parallel rank."""
    return max(float(problem.workload.global_batch) / (config.micro_batch_size * config.dp), 1.0)


def objective_weights(problem: PlanningProblem, config: ParallelConfig, costs: LayerCosts) -> tuple[int, int]:
    """Whole weights of the sum and of the largest chunk, in the proportion of the step's time.

    The step takes ``m max + b (sum - max) / vp`` with ``b`` what the schedule leaves of the bubble (``schedule``). With
    several chunks on a stage the largest chunk stands for the largest stage, ``vp`` chunks as slow as it.
    """
    forward = float(costs.forward_s.sum() / costs.device_s[:, PARTIAL].sum())
    left = {Schedule.ZERO_BUBBLE_H1: forward, Schedule.ZERO_BUBBLE_V: 0.0}.get(Schedule(config.schedule), 1.0)
    micro = n_micro(problem, config)
    scale = 1 if left == 1.0 and config.vp == 1 and micro == int(micro) else 120
    per_chunk = left / config.vp
    return round(scale * per_chunk), max(round(scale * config.vp * (micro - per_chunk)), 0)


def memory_limit_bytes(problem: PlanningProblem) -> float:
    """Largest peak that ``rank.fits`` lets pass: within the cap, and likely enough to fit the device."""
    sigma = memory_sigma(problem.cluster, problem.model, problem.software)
    capacity = problem.cluster.gpu.memory_bytes
    low, high = 0.0, problem.memory_limit_bytes
    if fit_probability(high, capacity, sigma) >= problem.fit_confidence:
        return high
    for _ in range(60):
        middle = (low + high) / 2
        fits = fit_probability(middle, capacity, sigma) >= problem.fit_confidence
        low, high = (middle, high) if fits else (low, middle)
    return low


def recompute_of_plan(config: ParallelConfig) -> int:
    """Mode of every layer where the plan recomputes all whole or none."""
    return FULL if config.recompute & Recompute.FULL and not config.recompute_layers else PARTIAL


# -- parts -------------------------------------------------------------------------------------------------------


def _piece_seconds(problem: PlanningProblem, costs: LayerCosts) -> Floats:
    """Seconds of every piece by mode, ``(n, 2)``: the one of the linear forms whose maximum is a stage's time
    (``host_wait_s``) that is largest for the whole model."""
    software, device = problem.software, costs.device_s
    if software.cuda_graphs:
        return device
    launches = costs.launches * software.coefficient("launch_s")
    forward = (costs.host_forward_s + launches / 3.0)[:, None]
    host = (costs.host_forward_s + costs.host_backward_s + launches)[:, None] + costs.recompute_host_s
    if software.launch_blocking:
        return device + host
    drain = software.coefficient("host_drain")
    then = forward + device - (costs.forward_s + costs.comm_forward_s)[:, None]
    forms = [device, host, (1 - drain) * host + drain * then, (1 - drain) * device + drain * then]
    return max(forms, key=lambda form: float(form[:, PARTIAL].sum()))


def _plain(costs: LayerCosts) -> list[bool]:
    """Pieces without a recompute mode of their own."""
    return [bool(k in (Piece.EMBEDDING, Piece.HEAD)) for k in costs.kind]


def _rising(times: Any) -> list[int]:
    """Times by mode, none below the first."""
    out = list(times)
    return [max(t, out[0]) for t in out]


def _units(n_bytes: Floats, scale: int) -> tuple[int, ...]:
    return tuple(int(x) * scale for x in np.ceil(n_bytes / UNIT_BYTES))


def _in_flight(problem: PlanningProblem, config: ParallelConfig) -> list[Fraction]:
    held = micro_batches_held(problem.software, config, n_micro(problem, config), np.arange(config.pp))
    return [Fraction(float(x)).limit_denominator(64) for x in np.asarray(held) + np.zeros(config.pp)]


def _always_redone(costs: LayerCosts, modes: list[list[int]], redo: Floats) -> Floats:
    """The layer that recompute holds whole where the plan recomputes every layer."""
    fixed = np.array([kept == [FULL] for kept in modes])
    return np.where(fixed, redo, 0.0)


class _Memory:
    """Bytes per piece as ``stage_pricing`` adds them up, slack included, and what every stage has besides."""

    def __init__(self, problem: PlanningProblem, config: ParallelConfig, costs: LayerCosts) -> None:
        software, workload = problem.software, problem.workload
        more = 1.0 + software.coefficient("allocator_slack")
        self.costs, self.more, self.stage = costs, more, np.arange(config.pp)
        self.states = costs.state_bytes + software.coefficient("gradient_slack") * costs.gradient_bytes
        self.short = more * costs.logits_bytes
        self.temporary, self.redo = more * costs.temporary_bytes, more * costs.whole_bytes
        largest = costs.largest_tensor_params
        self.update = np.zeros(costs.n) + update_bytes(
            workload, software, config, costs.dense_params, costs.expert_params, largest
        )
        everything = float((costs.dense_params + costs.expert_params).sum())
        gathered = gathered_parameters(workload, software, config, everything, costs.largest_layer_params)
        empty = ledger(
            problem.model,
            workload,
            software,
            config,
            states=(0.0, 0.0, 0.0),
            gathered=gathered,
            in_use=(0.0, 0.0, 0.0),
            update=0.0,
            buckets=bucket_bytes(software, config),
        )
        self.constant = float(empty.total)
        self.sent = more * software.coefficient("pipeline_outputs") * costs.boundary_bytes

    def live_units(self, i: int, mode: int) -> int:
        """Units that a piece keeps per micro-batch in flight."""
        return int(np.ceil(self.more * self.costs.kept_bytes[i, mode] / UNIT_BYTES))

    def sent_units(self, flight: list[Fraction]) -> list[int]:
        """Units of kept outputs on every stage but the last."""
        last = len(flight) - 1
        return [int(np.ceil(float(f) * self.sent / UNIT_BYTES)) * (s < last) for s, f in enumerate(flight)]
