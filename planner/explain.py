"""Why a plan is as it is: its parts, what bounds it, what each neighbour would cost, and why not another one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ..costmodels.candidates import CandidateTable
from ..costmodels.parallel import ParallelConfig
from ..costmodels.rules import first_violation_sentence
from ..hardware_profiles.errors import InvalidProblemError
from .anatomy import make_plan, part_differences, single_plan
from .infeasible import nearest_miss, removals
from .label import config_label, gigabytes, value_label
from .neighbours import DIMENSIONS, neighbours_of
from .pins import check_pins
from .plan import Plan, PlanSet
from .problem import PlanningProblem
from .rank import best_rows, evaluate, fits, with_precision
from .refine import refine
from .search import explore

_MODES = frozenset({"schedule", "cp_comm", "zero_stage", "recompute"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One named part of the step or of the peak.

    Attributes:
        amount: seconds or bytes; share: of the step or of the peak; reason: what makes it.
    """

    name: str
    amount: float
    share: float
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """The same plan with one dimension moved to its next value (dp takes up the GPUs).

    Attributes:
        step_change, memory_change: relative to the plan; fits: within the memory limit;
        violation: sentence of the rule that forbids it, else empty (then the changes are numbers).
    """

    dimension: str
    value: int
    config: ParallelConfig
    violation: str = ""
    step_change: float = 0.0
    memory_change: float = 0.0
    fits: bool = False

    @property
    def sentence(self) -> str:
        """``tp=8: +3.2% step time, -20.1% memory`` or why it is impossible."""
        if self.violation:
            return f"{value_label(self.dimension, self.value)}: {self.violation.rstrip('.')}"
        room = "" if self.fits else ", which does not fit"
        time, memory = f"{self.step_change:+.1%} step time", f"{self.memory_change:+.1%} memory"
        return f"{value_label(self.dimension, self.value)}: {time}, {memory}{room}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Anatomy of one ranked plan.

    Attributes:
        time, memory: parts, largest first; bound: what limits the step, what limits memory;
        neighbours: next lower and higher value of each dimension; choices: one sentence per dimension.
    """

    plan: Plan
    time: tuple[Part, ...]
    memory: tuple[Part, ...]
    bound: tuple[str, ...]
    neighbours: tuple[Neighbour, ...]
    choices: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class WhyNot:
    """Why the best plan is not of the asked kind.

    Attributes:
        kind: ``rule`` (cannot be expressed), ``memory`` (does not fit), ``slower`` or ``best``.
        sentence: the answer; plan: the best plan of that kind (the nearest miss for ``memory``), if there is one.
    """

    kind: str
    sentence: str
    plan: Plan | None = None


def plan_of_rank(plan_set: PlanSet, rank: int) -> Plan:
    """The listed plan of a rank.

    Raises:
        InvalidProblemError: no such rank.
    """
    for plan in plan_set.plans:
        if plan.rank == rank:
            return plan
    raise InvalidProblemError(f"There is no plan of rank {rank}; the plans go from 1 to {len(plan_set.plans)}.")


def explain(plan_set: PlanSet, rank: int = 1) -> Explanation:
    """Take one plan apart.

    Raises:
        InvalidProblemError: no such rank.
    """
    plan = plan_of_rank(plan_set, rank)
    problem = with_precision(plan_set.problem, plan.precision)
    near = _priced_neighbours(problem, plan)
    return Explanation(
        plan=plan,
        time=_parts(plan.time_s, plan.metrics["step_s"], _time_reasons(problem, plan)),
        memory=_parts(plan.memory_bytes, plan.metrics["peak_bytes"], _memory_reasons(problem, plan)),
        bound=_bounds(problem, plan),
        neighbours=near,
        choices=_choices(plan, near),
    )


def _parts(amounts: Mapping[str, float], total: float, reasons: Mapping[str, str]) -> tuple[Part, ...]:
    parts = [Part(name=n, amount=a, share=a / total, reason=reasons[n]) for n, a in amounts.items()]
    return tuple(sorted(parts, key=lambda p: (-p.amount, p.name)))


def _micro_batches(problem: PlanningProblem, c: ParallelConfig) -> int:
    return int(problem.workload.global_batch) // (c.micro_batch_size * c.dp)


def _link(problem: PlanningProblem, ranks: int) -> str:
    """The slowest link inside a block of neighbouring ranks."""
    tiers = problem.cluster.tiers
    return next((t.kind for t in tiers if ranks <= t.domain_gpus), tiers[-1].kind)


def _time_reasons(problem: PlanningProblem, plan: Plan) -> dict[str, str]:
    c, m = plan.config, _micro_batches(problem, plan.config)
    layers = max(plan.stage_layers)
    up, across = _link(problem, c.tp), _link(problem, c.tp * c.cp * c.dp)
    again = ", in 8 bits (qwZ)" * c.quantized_weights
    again += f", then over {c.hpz} ranks on {_link(problem, c.tp * c.hpz)} (hpZ)" if c.hpz else ""
    exchange = f"ep={c.ep}: tokens to their experts and back over {_link(problem, c.ep * c.etp)}"
    return {
        "forward_s": f"{m} micro-batches through the busiest stage of {layers} layers",
        "backward_s": f"twice the forward work of {m} micro-batches",
        "recompute_s": "activations are kept" if not c.recompute else f"mode {config_label(c).split()[-1]}",
        "host_s": f"kernel launches that {m} micro-batches do not hide",
        "tp_s": _no_tp(c) if c.tp == 1 else f"tp={c.tp}: gathers and scatters of every layer over {up}",
        "cp_s": "cp=1 sends nothing" if c.cp == 1 else f"cp={c.cp}: keys and values over {_link(problem, c.tp * c.cp)}",
        "ep_s": "no routed experts" if problem.model.moe is None else exchange,
        "pp_s": "pp=1 sends nothing" if c.pp == 1 else f"{2 * c.vp * m} transfers between stages",
        "bubble_s": "no pipeline"
        if c.pp == 1
        else f"fill and drain of pp={c.pp} with vp={c.vp} against {m} micro-batches, and uneven stages",
        "dp_s": f"gradients of {c.dp * c.cp} replicas over {across}{', in 4 bits (qgZ)' * c.quantized_gradients}, what "
        "backward does not hide",
        "param_gather_s": f"parameters over {c.dp_shard} ranks (ZeRO-{c.zero_stage}){again}, what compute does not hide"
        if c.zero_stage
        else "parameters are not sharded",
        "optimizer_s": f"update of this rank's share over {c.dp_shard if c.zero_stage else 1} ranks",
        "step_overhead_s": "host work once a step",
        "jitter_s": f"stragglers among {problem.cluster.nodes} nodes",
    }


def _no_tp(c: ParallelConfig) -> str:
    if c.vocab_parallel:
        return f"broadcasts and reductions of the vocabulary split over pp={c.pp}"
    return "tp=1 sends nothing"


def _memory_reasons(problem: PlanningProblem, plan: Plan) -> dict[str, str]:
    c = plan.config
    sharded = [f"sharded over {c.dp_shard}" if c.zero_stage >= stage else "on every replica" for stage in (1, 2, 3)]
    share = f"1/{c.tp} of {max(plan.stage_layers)} layers"
    copy = f", and a second copy over {c.hpz} ranks (hpZ)" if c.hpz else ""
    return {
        "weights_bytes": f"{share}, {sharded[2]}{copy}",
        "gradients_bytes": f"{problem.workload.grad_dtype_bytes:g} bytes each, {sharded[1]}",
        "optimizer_bytes": "on the host" if c.optimizer_offload else f"{problem.workload.optimizer}, {sharded[0]}",
        "gathered_bytes": "layers gathered for use" if c.zero_stage == 3 else "nothing is gathered",
        "activations_bytes": f"micro-batches of {c.micro_batch_size} in flight on stage "
        f"{int(plan.metrics['fullest_stage'])} of {c.pp}",
        "working_bytes": "largest layer's temporaries",
        "logits_bytes": "logits and their gradient (last stage)",
        "buffers_bytes": "communication buffers",
        "context_bytes": "CUDA context and libraries",
        "slack_bytes": "allocator's reserve",
    }


def _bounds(problem: PlanningProblem, plan: Plan) -> tuple[str, ...]:
    t, step = plan.time_s, plan.metrics["step_s"]
    groups = {
        "compute": t["forward_s"] + t["backward_s"] + t["recompute_s"],
        "communication": sum(t[k] for k in ("tp_s", "cp_s", "ep_s", "pp_s", "dp_s", "param_gather_s")),
        "the pipeline bubble": t["bubble_s"],
        "the host": t["host_s"] + t["step_overhead_s"],
    }
    name, seconds = max(groups.items(), key=lambda x: (x[1], x[0]))
    peak, limit = plan.metrics["peak_bytes"], problem.memory_limit_bytes
    part, size = max(plan.memory_bytes.items(), key=lambda x: (x[1], x[0]))
    return (
        f"the step is bound by {name} ({seconds / step:.0%} of {step:.3g} s)",
        f"the fullest device holds {gigabytes(peak)} of {gigabytes(limit)}, most of it {part.removesuffix('_bytes')} "
        f"({gigabytes(size)})",
    )


def _priced_neighbours(problem: PlanningProblem, plan: Plan) -> tuple[Neighbour, ...]:
    found = neighbours_of(problem, plan.config)
    args = (problem.model, problem.workload, problem.cluster, problem.framework)
    sentences = [first_violation_sentence(*args, c) for _, _, c in found]
    legal = [c for (_, _, c), said in zip(found, sentences, strict=True) if not said]
    e = evaluate(problem, CandidateTable.from_configs(legal))
    priced = {c: make_plan(problem, c, e, i, rank=0) for i, c in enumerate(legal)}
    out = []
    for (dimension, value, c), said in zip(found, sentences, strict=True):
        if said and dimension in _MODES:
            continue  # what the framework lacks says nothing about this plan
        if said:
            out.append(Neighbour(dimension=dimension, value=value, config=c, violation=said))
            continue
        metrics = priced[c].metrics
        out.append(
            Neighbour(
                dimension=dimension,
                value=value,
                config=c,
                step_change=metrics["step_s"] / plan.metrics["step_s"] - 1.0,
                memory_change=metrics["peak_bytes"] / plan.metrics["peak_bytes"] - 1.0,
                fits=bool(fits(problem, metrics["peak_bytes"])),
            )
        )
    return tuple(out)


def _choices(plan: Plan, near: tuple[Neighbour, ...]) -> tuple[str, ...]:
    out = []
    for dimension in DIMENSIONS:
        mine = [n.sentence for n in near if n.dimension == dimension]
        if mine:
            chosen = value_label(dimension, getattr(plan.config, dimension))
            out.append(f"{chosen} is chosen; " + "; ".join(mine))
    return tuple(out)


def why_not(plan_set: PlanSet, wanted: Mapping[str, int]) -> WhyNot:
    """Why the best plan does not have these field values.

    The search is repeated with them pinned; other pins stay.

    Raises:
        InvalidProblemError: an unknown field or a value that is no whole number.
    """
    if not wanted:
        raise InvalidProblemError("Say which values are meant, as in tp=8,pp=4.")
    problem = plan_set.problem
    pinned = replace(problem, pins={**problem.pins, **{k: (v,) for k, v in wanted.items()}})
    shown = ", ".join(f"{k}={v}" for k, v in wanted.items())
    try:
        check_pins(pinned)
    except InvalidProblemError as error:
        return WhyNot(kind="rule", sentence=str(error))
    return _answer(plan_set, pinned, shown)


def _answer(plan_set: PlanSet, pinned: PlanningProblem, shown: str) -> WhyNot:
    pools, search = explore(pinned)
    if not any(len(p.table) for p in pools):
        return WhyNot(kind="rule", sentence=f"No candidate with {shown} obeys the rules: {removals(search)}.")
    if search.feasible == 0:
        miss = nearest_miss(pools)
        parts = sorted(miss.memory_bytes.items(), key=lambda x: (-x[1], x[0]))[:3]
        largest = ", ".join(f"{n.removesuffix('_bytes')} {gigabytes(v)}" for n, v in parts)
        peak, limit = miss.metrics["peak_bytes"], pinned.memory_limit_bytes
        p_fit = miss.metrics["p_fit"]
        over = f"{gigabytes(peak - limit)} over" if peak > limit else f"too close (p_fit {p_fit:.2f}) to"
        said = f"No candidate with {shown} fits: the leanest, {config_label(miss.config)}, needs {gigabytes(peak)}, "
        return WhyNot(kind="memory", sentence=said + f"{over} the limit of {gigabytes(limit)} ({largest}).", plan=miss)
    ((pool, row),) = best_rows(pools, pinned.objective, 1)
    even = single_plan(pools[pool].problem, pools[pool].table.row(row))
    best = refine(replace(pinned, top=1), pools, (even,)).plans[0]
    winner = plan_set.plans[0]
    if best.config == winner.config and best.precision == winner.precision:
        return WhyNot(kind="best", sentence=f"The plan of rank 1 already has {shown}.", plan=best)
    slower = best.metrics["step_s"] / winner.metrics["step_s"] - 1.0
    memory = best.metrics["peak_bytes"] / winner.metrics["peak_bytes"] - 1.0
    said = f"The best plan with {shown} is {config_label(best.config)}: {slower:+.1%} step time and {memory:+.1%} "
    said += f"memory against rank 1 ({part_differences(best, winner)})."
    return WhyNot(kind="slower", sentence=said, plan=best)
