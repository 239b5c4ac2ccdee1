"""From priced rows to ``Plan`` values: metrics, named parts, ranks, ties, reasons."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ..costmodels.candidates import CandidateTable
from ..costmodels.estimate import Estimate
from ..costmodels.parallel import LayerSplit, ParallelConfig
from ..costmodels.parallelism.balance import head_in_layers
from ..costmodels.parallelism.pipeline import stage_layer_list
from ..costmodels.stage_layout import StageLayout
from ..costmodels.stage_pricing import price_stages
from .plan import Plan
from .problem import PlanningProblem
from .rank import Scored, evaluate, significant, ties

_METRICS = (
    "step_s", "step_low_s", "step_high_s", "tokens_per_s_per_gpu", "mfu", "hfu", "peak_bytes", "peak_low_bytes",
    "peak_high_bytes", "p_fit", "bubble_fraction", "exposed_comm_fraction", "fullest_stage",
)  # fmt: skip
_SECONDS_PER_DAY = 86400.0
_KERNELS = ("forward_s", "backward_s")


def make_plan(problem: PlanningProblem, config: ParallelConfig, e: Estimate, i: int, *, rank: int) -> Plan:
    """One row of an estimate as a plan (no ties, front mark or reasons yet)."""

    def at(value: Any) -> float:
        return float(np.asarray(value).reshape(-1)[i if np.size(value) > 1 else 0])

    metrics = {name: at(getattr(e, name)) for name in _METRICS}
    metrics["memory_share"] = metrics["peak_bytes"] / problem.cluster.gpu.memory_bytes
    metrics |= money(problem, metrics["step_s"])
    return Plan(
        rank=rank,
        config=config,
        precision=problem.workload.precision,
        metrics=metrics,
        time_s={name: at(value) for name, value in e.time.items()},
        memory_bytes={name: at(value) for name, value in e.memory.items()},
        stage_layers=stage_layer_list(
            problem.model.n_layers, config, problem.model.mtp_layers, head_in_layers(problem.model)
        ),
    )


def money(problem: PlanningProblem, step_s: float) -> dict[str, float]:
    """Dollars per million tokens (with a price), days of the whole run (with a token count), dollars (with both)."""
    per_step = float(problem.workload.global_batch) * problem.workload.seq_len
    hourly = problem.price_per_gpu_hour * problem.cluster.n_gpus
    out: dict[str, float] = {}
    if problem.price_per_gpu_hour > 0:
        out["dollars_per_million_tokens"] = hourly * step_s / 3600.0 / (per_step / 1e6)
    if problem.tokens > 0:
        out["days"] = problem.tokens / per_step * step_s / _SECONDS_PER_DAY
        if problem.price_per_gpu_hour > 0:
            out["dollars"] = out["days"] * 24.0 * hourly
    return out


def ranked_plans(problem: PlanningProblem, pools: list[Scored], best: list[tuple[int, int]],
                 front: list[tuple[int, int]]) -> tuple[tuple[Plan, ...], tuple[Plan, ...]]:  # fmt: skip
    """The listed plans and the front, priced in full."""
    wanted = list(dict.fromkeys([*best, *front]))
    made: dict[tuple[int, int], Plan] = {}
    for number, pool in enumerate(pools):
        mine = [w for w in wanted if w[0] == number]
        if mine:
            table = pool.table.take(np.array([row for _, row in mine]))
            e = evaluate(pool.problem, table)
            for i, key in enumerate(mine):
                made[key] = make_plan(pool.problem, table.row(i), e, i, rank=0)
    on_front = set(front)
    objective = "peak_bytes" if problem.objective == "memory" else "step_s"
    near = ties(np.array([made[key].metrics[objective] for key in best]))
    winner = made[best[0]]
    feasible = sum(int(p.fits.sum()) for p in pools)
    listed = {
        key: _with(
            made[key],
            rank=i + 1,
            tied_with=near[i],
            pareto=key in on_front,
            reasons=reasons(problem, made[key], winner, feasible),
        )
        for i, key in enumerate(best)
    }
    values = significant(np.concatenate([_objective(p, problem.objective)[p.fits] for p in pools]))
    rest = {}
    for key in front:
        if key not in listed:
            pool, row = pools[key[0]], key[1]
            value = significant(_objective(pool, problem.objective)[row])
            rank = 1 + max(int((values < value).sum()), len(best))
            said = reasons(problem, made[key], winner, feasible)
            rest[key] = _with(made[key], rank=rank, pareto=True, reasons=said)
    return tuple(listed[k] for k in best), tuple({**rest, **listed}[k] for k in front)


def _objective(pool: Scored, objective: str) -> Any:
    return pool.peak_bytes if objective == "memory" else pool.step_s


def _with(plan: Plan, **changes: Any) -> Plan:
    return replace(plan, **changes)


def reasons(problem: PlanningProblem, plan: Plan, winner: Plan, feasible: int) -> tuple[str, ...]:
    """Why a plan stands where it does: what fills its step, or which parts set it apart from the first."""
    step, peak = plan.metrics["step_s"], plan.metrics["peak_bytes"]
    if plan.config == winner.config and plan.precision == winner.precision:
        word = "least memory" if problem.objective == "memory" else "fastest"
        kernels = sum(plan.time_s[k] for k in _KERNELS) / step
        first = f"{word} of {feasible} candidates that fit"
        return (first, f"forward and backward kernels fill {kernels:.0%} of the step; {largest_rest(plan)}")
    slower = step / winner.metrics["step_s"] - 1.0
    memory = peak / winner.metrics["peak_bytes"] - 1.0
    return (f"{slower:+.1%} step time and {memory:+.1%} memory against rank 1", part_differences(plan, winner))


def largest_rest(plan: Plan) -> str:
    """The largest time part besides kernels."""
    name, seconds = max(((n, s) for n, s in plan.time_s.items() if n not in _KERNELS), key=lambda x: (x[1], x[0]))
    return f"next is {name.removesuffix('_s')} with {seconds / plan.metrics['step_s']:.0%}"


def part_differences(plan: Plan, other: Plan, limit: int = 3) -> str:
    """The largest differences of time parts, as ``tp +0.41 s, bubble -0.12 s``."""
    gaps = [(plan.time_s[n] - other.time_s[n], n) for n in plan.time_s]
    gaps = sorted((g for g in gaps if abs(g[0]) >= 5e-4 * other.metrics["step_s"]), key=lambda g: (-abs(g[0]), g[1]))
    if not gaps:
        return "no time part differs by more than 0.05% of the step"
    return ", ".join(f"{n.removesuffix('_s')} {d:+.3g} s" for d, n in gaps[:limit])


def single_plan(problem: PlanningProblem, config: ParallelConfig) -> Plan:
    """One configuration priced and packed as rank 1."""
    e = evaluate(problem, CandidateTable.from_configs([config]))
    return _alone(make_plan(problem, config, e, 0, rank=1))


def laid_out_plan(problem: PlanningProblem, config: ParallelConfig, layout: StageLayout) -> Plan:
    """One configuration with an explicit deal of its layers, priced stage by stage and packed as rank 1."""
    p, config = problem, replace(config, layer_split=int(LayerSplit.LAYOUT))
    _, e = price_stages(p.model, p.workload, p.cluster, p.software, config, layout)
    return _with(_alone(make_plan(p, config, e, 0, rank=1)), stage_layers=layout.stage_layers, stage_layout=layout)


def _alone(plan: Plan) -> Plan:
    kernels = sum(plan.time_s[k] for k in _KERNELS) / plan.metrics["step_s"]
    return _with(plan, reasons=(f"forward and backward kernels fill {kernels:.0%} of the step; {largest_rest(plan)}",))
