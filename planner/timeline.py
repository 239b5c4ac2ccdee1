"""One plan's pipeline as the event simulator sees it, beside what the closed form says."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from ..costmodels.layer_costs import layer_costs
from ..costmodels.parallel import ParallelConfig, Schedule
from ..costmodels.schedules import PassTimes, Simulation, build_schedule, schedule_name, simulate
from ..costmodels.schedules.layout_passes import layout_passes
from ..costmodels.schedules.pass_times import Floats
from ..costmodels.schedules.passes import PassKind
from ..costmodels.schedules.registry import SPLIT_VOCABULARY
from ..costmodels.schedules.stage_passes import hop_s, stage_passes
from ..costmodels.stage_layout import StageLayout
from ..costmodels.stage_pricing import price_stages
from ..costmodels.training import estimate
from ..hardware_profiles.errors import InvalidProblemError
from .plan import Plan
from .problem import PlanningProblem

#: Schedules that the planner's closed forms price; interleaving is ``vp`` of a configuration.
_CODES = {
    "1f1b": Schedule.ONE_F_ONE_B,
    "interleaved": Schedule.ONE_F_ONE_B,
    "gpipe": Schedule.GPIPE,
    "zb-h1": Schedule.ZERO_BUBBLE_H1,
    "zb-v": Schedule.ZERO_BUBBLE_V,
}
_SPLIT = {name: int(code) for code, name in SPLIT_VOCABULARY.items()}
#: Schedules that run a plan's explicit deal of layers.
_DEALT = ("1f1b", "interleaved", "gpipe", "zb-h1")
#: Schedules that a timeline can draw: those whose passes a plan's stage times give.
DRAWN = (*_CODES, "dualpipe", *_SPLIT)


@dataclass(frozen=True)
class Timeline:
    """A simulated step without its optimizer and gradient traffic.

    Attributes:
        schedule: name; n_micro: micro-batches simulated; hop_s: one transfer between stages.
        dealt: whether the stages are the plan's own explicit deal of layers.
        closed_form_s: what ``estimate`` takes for compute, transfers and bubble of this schedule (None: it has none).
    """

    schedule: str
    n_micro: int
    hop_s: float
    times: PassTimes
    simulation: Simulation
    dealt: bool
    closed_form_s: float | None


def timeline(
    problem: PlanningProblem, plan: Plan, *, schedule: str | None = None, n_micro: int | None = None
) -> Timeline:
    """Simulate the pipeline of a plan.

    Args:
        schedule: another one than the plan's, from ``DRAWN``; n_micro: another number of micro-batches.

    Raises:
        InvalidProblemError: the plan has no pipeline, or the schedule does not take its sizes.
    """
    c = plan.config
    if c.pp < 2:
        raise InvalidProblemError(f"Rank {plan.rank} has no pipeline (pp=1); choose a plan with pp of 2 or more.")
    name = schedule or schedule_name(c)
    if name not in DRAWN:
        raise InvalidProblemError(f"--schedule {name} is none of {', '.join(DRAWN)}.")
    workload = replace(problem.workload, precision=plan.precision)
    micro = n_micro or max(workload.global_batch // (c.micro_batch_size * c.dp), 1)
    c = _for_schedule(c, name)
    where = problem.cluster, problem.model, workload, problem.software
    chunks = {"zb-v": 2, "dualpipe": 1}.get(name, c.vp)
    layout = plan.stage_layout if name in _DEALT and plan.stage_layout and plan.stage_layout.vp == chunks else None
    times, hop = stage_passes(*where, c, chunks), hop_s(problem.cluster, problem.model, workload, c)
    if layout is not None:
        costs = layer_costs(problem.model, workload, problem.cluster, problem.software, c)
        own, _ = price_stages(problem.model, workload, problem.cluster, problem.software, c, layout, costs)
        times = layout_passes(costs, layout, own)
    if name == "dualpipe":  # the second copy runs the stages in reverse
        times = _with_reversed_copy(times)
    run = simulate(build_schedule(name, c.pp, micro, chunks, _costs(name, times)), times, hop)
    closed = _closed_form_s(problem, plan, c, name, micro, layout)
    return Timeline(name, micro, hop, times, run, layout is not None, closed)


def _for_schedule(c: ParallelConfig, name: str) -> ParallelConfig:
    if name == "interleaved":
        if c.vp < 2:
            raise InvalidProblemError("--schedule interleaved needs a plan with vp of 2 or more.")
        return replace(c, schedule=Schedule.ONE_F_ONE_B, vocab_parallel=0)
    code = _CODES.get(name, Schedule.ONE_F_ONE_B)
    return replace(c, vp=1, schedule=code, vocab_parallel=_SPLIT.get(name, 0))


def _costs(name: str, times: PassTimes) -> tuple[float, float, float]:
    """Mean times for which ``build_schedule`` orders the passes."""
    forward, backward = _mean(times.forward_s), _mean(times.backward_s)
    if name in _SPLIT:
        return forward, backward, _mean(times.sharded_s[PassKind.OUTPUT_HEAD])
    weight = backward / 2.0 if times.weight_gradient_s is None else _mean(times.weight_gradient_s)
    return forward, backward - weight, weight


def _mean(values: ArrayLike) -> float:
    return float(np.asarray(values, dtype=np.float64).mean())


def _with_reversed_copy(times: PassTimes) -> PassTimes:
    def both(one: ArrayLike | None) -> Floats:
        column = np.asarray(one, dtype=np.float64)
        return np.hstack((column, column[::-1]))

    return PassTimes(both(times.forward_s), both(times.backward_s), both(times.weight_gradient_s))


def _closed_form_s(
    problem: PlanningProblem, plan: Plan, c: ParallelConfig, name: str, n_micro: int, layout: StageLayout | None
) -> float | None:
    if name == "dualpipe":
        return None
    workload = replace(problem.workload, precision=plan.precision, global_batch=n_micro * c.micro_batch_size * c.dp)
    where = problem.cluster, problem.software
    if layout is None:
        t = estimate(problem.model, workload, c, *where).time
    else:
        t = price_stages(problem.model, workload, *where, c, layout)[1].time
    parts = (t.forward_s, t.backward_s, t.recompute_s, t.host_s, t.tp_s, t.cp_s, t.ep_s, t.pp_s, t.bubble_s)
    return float(sum(parts))
