"""Ranked plans taken further by the exact kernels: layers dealt to stages one by one where that is faster.

The search prices one deal of layers for each configuration (``parallel.LayerSplit``). Here the listed plans, and those
that would overtake one if their stages were perfectly balanced, get the best deal that their framework can express, the
most promising first; then they are ranked anew. Work is counted in pieces, chunks and solves, never in seconds.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..costmodels.candidates import CandidateTable
from ..costmodels.estimate import Estimate
from ..costmodels.parallel import CONFIG_FIELDS, ParallelConfig, Recompute, Schedule
from .anatomy import make_plan, reasons
from .plan import Plan, Refinement
from .problem import PlanningProblem
from .rank import Floats, Scored, evaluate, significant, ties
from .refine_stages import DEFAULT_LIMITS, FRAMEWORKS, LEAST_GAIN, RefinedStages, refine_stages, refined_plan
from .solvers.result import TO_COMPLETION, Limits
from .space import excluded

#: Plans that are refined unless the search is to be full, as far as their work adds up to no more than ``BUDGET``.
MOST_PLANS = 16
#: Work of one default refinement, in pieces of the model times chunks of the pipeline (``_work``): about a second.
BUDGET = 100_000
#: Solves that finding the number of recomputed layers takes.
_LEADING_SOLVES = 10
#: Plans (by their price with even stages) among which further ones are looked for.
_LOOKED_AT = 4096


@dataclass(frozen=True, slots=True)
class Refined:
    """Plans ranked anew; how many were refined; whether a time limit cut it short."""

    plans: tuple[Plan, ...]
    count: int
    cut: bool


def refine(
    problem: PlanningProblem,
    pools: list[Scored],
    plans: tuple[Plan, ...],
    time_limit_s: float | None = None,
    cutoff_s: float = np.inf,
) -> Refined:
    """Refine the listed plans and those that may overtake one; the order of the answer is that of ``best_rows``.

    Args:
        pools: all priced candidates; plans: the listed ones, best first.
        time_limit_s: wall seconds after which no further plan is refined; the answer is then not reproducible.
        cutoff_s: plans that would not take less with perfectly balanced stages are left as they are.
    """
    if problem.refine == "off" or problem.objective == "memory" or problem.framework not in FRAMEWORKS:
        return Refined(plans, 0, False)
    full, until = problem.refine == "full", None if time_limit_s is None else time.monotonic() + time_limit_s
    limits, budget = (TO_COMPLETION, np.inf) if full else (DEFAULT_LIMITS, BUDGET)
    kept = {_order(p): p for p in plans}
    count, spent, cut = 0, 0, False
    for bound, plan in _promising(problem, pools, plans):
        if bound >= cutoff_s:
            continue
        steps = sorted(p.metrics["step_s"] for p in kept.values())
        if _order(plan) not in kept and len(steps) >= problem.top and bound >= steps[problem.top - 1]:
            continue
        spent += _work(problem, plan.config)
        if spent > budget or (count >= MOST_PLANS and not full):
            break
        cut = until is not None and time.monotonic() >= until
        if cut:
            break
        better = _refine_one(problem, plan, limits)
        kept.pop(_order(plan), None)
        kept[_order(better)] = better
        count += 1
    # two plans may end in the same layout
    best = sorted(kept.values(), key=_order)[: problem.top]
    return Refined(_ranked(problem, best, sum(int(p.fits.sum()) for p in pools)), count, cut)


def _refine_one(problem: PlanningProblem, plan: Plan, limits: Limits) -> Plan:
    """One plan with the best deal of its layers, if that is faster, fits, and breaks no pin."""
    if plan.config.vocab_parallel:  # embedding and head stand on every stage
        return plan
    found = refine_stages(problem, plan, limits)
    if found.changed and not _allowed(problem, found.config):
        found = replace(
            found, changed=False, reason="even stages stay: the pins or excludes leave no other deal of the layers"
        )
    return replace(refined_plan(problem, plan, found), refinements=(*plan.refinements, _record(plan, found)))


def _record(plan: Plan, found: RefinedStages) -> Refinement:
    after = found.refined_step_s if found.changed else plan.metrics["step_s"]
    report: dict[str, Any] = {}
    if found.solve is not None:
        report = {**found.solve.report(), "proof": found.solve.proof}
    return Refinement(
        kind="stages",
        before_s=plan.metrics["step_s"],
        after_s=after,
        simulated_gain=found.simulated_gain if found.changed else None,
        solver=report,
        reason=found.reason,
    )


def _allowed(problem: PlanningProblem, config: ParallelConfig) -> bool:
    """Whether a changed configuration still has the pinned values and is not excluded."""
    for name, values in problem.pins.items():
        if getattr(config, name) not in values:
            return False
    return not bool(excluded(problem, CandidateTable.from_configs([config]))[0])


def _work(problem: PlanningProblem, config: ParallelConfig) -> int:
    """Work of refining one plan: pieces times chunks, for every solve that it is likely to take."""
    solves = _LEADING_SOLVES if config.recompute & Recompute.FULL and problem.framework == "megatron-lm" else 1
    return (problem.model.n_layers + problem.model.mtp_layers + 2) * config.pp * config.vp * solves


def _promising(problem: PlanningProblem, pools: list[Scored], plans: Sequence[Plan]) -> list[tuple[float, Plan]]:
    """The listed plans and those that could overtake one, with the step that perfectly balanced stages would take.

    In the order of the middle between that step and the plan's own: the head cannot be split, so that a heavy one
    leaves the balanced step out of reach.
    """
    listed = {(p.config, p.precision): p for p in plans}
    worst = max(p.metrics["step_s"] for p in plans)
    out: list[tuple[float, float, Plan]] = []
    for pool in pools:
        rows = np.flatnonzero(pool.fits)
        rows = rows[np.argsort(pool.step_s[rows], kind="stable")][:_LOOKED_AT]
        table = pool.table.take(rows)
        priced = evaluate(pool.problem, table)
        bound = balanced_step_s(pool.problem, table, priced)
        precision = pool.problem.workload.precision
        for i in np.flatnonzero((bound < worst) & (bound < (1.0 - LEAST_GAIN) * pool.step_s[rows])):
            config = table.row(int(i))
            plan = listed.get((config, precision)) or make_plan(pool.problem, config, priced, int(i), rank=0)
            out.append((0.5 * float(bound[i] + priced.step_s[i]), float(bound[i]), plan))
    out.sort(key=lambda x: (float(significant(x[0])), *_order(x[2])))
    return [(least, plan) for _, least, plan in out]


def balanced_step_s(problem: PlanningProblem, table: CandidateTable, priced: Estimate) -> Floats:
    """Step of every candidate if its pipeline's work were spread evenly over the stages, to the last operator.

    The step has ``m`` micro-batches at the pace of the busiest stage and the fill of a pipeline, ``(sum - max)/vp``
    (``schedule.bubble_s``); what comes once a step stays. Layers cannot be split, so no deal of them reaches it by
    more than what uneven memory and gradient traffic bring: it says which plans are worth a closer look, not how fast
    they are. Schedules other than 1F1B, interleaved or not, keep their step.
    """
    t, c = priced.time, table
    n_micro = np.maximum(problem.workload.global_batch / (c.micro_batch_size * c.dp), 1.0)
    busiest = (t.forward_s + t.backward_s + t.recompute_s + t.host_s + t.tp_s + t.cp_s + t.ep_s) / n_micro
    mean = (t.bubble_s * c.vp + busiest) / c.pp
    saved = (n_micro - 1.0 / c.vp) * (busiest - mean)
    plain = (c.schedule == Schedule.ONE_F_ONE_B) & (c.pp > 1)
    bound: Floats = priced.step_s - np.where(plain, saved, 0.0)
    return bound


def _order(plan: Plan) -> tuple[Any, ...]:
    key = tuple(int(getattr(plan.config, name)) for name in CONFIG_FIELDS)
    step, peak = (float(significant(plan.metrics[name])) for name in ("step_s", "peak_bytes"))
    return step, peak, plan.precision, key, plan.stage_layers


def _ranked(problem: PlanningProblem, plans: Sequence[Plan], feasible: int) -> tuple[Plan, ...]:
    """Ranks, ties and reasons for a new order."""
    near = ties(np.array([p.metrics["step_s"] for p in plans]))
    told = [(*reasons(problem, p, plans[0], feasible), *(r.reason for r in p.refinements)) for p in plans]
    return tuple(
        replace(p, rank=i + 1, tied_with=near[i], reasons=said)
        for i, (p, said) in enumerate(zip(plans, told, strict=True))
    )
