"""From a ranked plan to a better deal of its layers: uneven stages, embedding and head placed, whole layers recomputed
where memory asks for it and the framework can say so."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

from ..costmodels.estimate import Estimate
from ..costmodels.layer_costs import FULL, LayerCosts, layer_costs
from ..costmodels.parallel import LayerSplit, ParallelConfig, Recompute, Schedule
from ..costmodels.schedules import build_schedule, schedule_name, simulate
from ..costmodels.schedules.layout_passes import layout_passes
from ..costmodels.stage_layout import StageLayout, even_layout, layout_of
from ..costmodels.stage_pricing import price_stages
from .anatomy import make_plan
from .plan import Plan
from .problem import PlanningProblem
from .rank import fits, with_precision
from .solvers.partition import Partition, PartitionProblem
from .solvers.partition_balance import balance_stages
from .solvers.partition_dp import PartitionDp
from .solvers.result import Limits, SolveResult
from .stage_problem import Choice, StageRules, memory_limit_bytes, n_micro, partition_problem, recompute_of_plan

#: Passes of the kernel that one solve may take unless told otherwise; most need fewer than twenty.
DEFAULT_LIMITS = Limits(work=60)
#: Frameworks whose launch files can deal layers one by one.
FRAMEWORKS = ("megatron-lm", "torchtitan", "any")
#: A layout must save at least this share of the step to be worth writing down.
LEAST_GAIN = 1e-4
#: Best layouts that are simulated before the even one is kept, and micro-batches simulated for every stage.
_SIMULATED, _ROUNDS = 4, 4


@dataclass(frozen=True, slots=True, kw_only=True)
class RefinedStages:
    """What became of one plan's stages.

    Attributes:
        changed: whether ``layout`` or the number of recomputed layers differs from the plan's own.
        config, layout, estimate: the answer; the configuration has the layout's split and recomputed layers, the
            estimate is exact stage by stage.
        before: the plan's own layout, priced alike; before_fits: whether it then fits memory.
        even: the even deal at its best: where the framework counts recomputed layers, at the count that is fastest.
        solve: the kernel's answer to the partition problem behind the layout (None for an even layout). Its objective
            is in ticks of the linear stage times; the proof is of that objective, not of the step.
        simulated_gain: share of the even pipeline that the layout saves when passes are simulated one by one, without
            transfers (None for even stages and schedules that are not simulated).
        per_layer_step_s: the step if every layer could recompute or not by itself, 0 where it was not asked.
        reason: one sentence for a reader.
    """

    changed: bool
    config: ParallelConfig
    layout: StageLayout
    estimate: Estimate
    before: Estimate
    before_fits: bool
    even: Estimate
    even_layout: StageLayout
    solve: SolveResult[Partition] | None
    simulated_gain: float | None
    per_layer_step_s: float
    reason: str

    @property
    def plan_step_s(self) -> float:
        """Seconds of a step as the plan stands."""
        return float(self.before.step_s)

    @property
    def even_step_s(self) -> float:
        """Seconds of a step with even stages."""
        return float(self.even.step_s)

    @property
    def refined_step_s(self) -> float:
        """Seconds of a step with the layout."""
        return float(self.estimate.step_s)

    @property
    def gain(self) -> float:
        """Share of the even step that uneven stages save."""
        return 1.0 - self.refined_step_s / self.even_step_s

    @property
    def saved(self) -> float:
        """Share of the plan's own step that is saved."""
        return 1.0 - self.refined_step_s / self.plan_step_s


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A layout that fits, priced; ``solve`` None: the even deal."""

    config: ParallelConfig
    layout: StageLayout
    estimate: Estimate
    solve: SolveResult[Partition] | None

    @property
    def step_s(self) -> float:
        return float(self.estimate.step_s)

    @property
    def key(self) -> tuple[float, tuple[int, ...]]:
        return self.step_s, self.layout.chunk_of_piece


def refine_stages(problem: PlanningProblem, plan: Plan, limits: Limits = DEFAULT_LIMITS) -> RefinedStages:
    """Deal a plan's layers to its stages anew.

    Megatron-LM takes any deal of embedding, layers and head (``--pipeline-model-parallel-layout``) and recomputes the
    same number of whole layers at the head of every chunk; TorchTitan takes any deal with a layer on each chunk
    (``module_fqns_per_model_part``) and recomputes all layers or none; ``any`` lets each layer choose. DeepSpeed's and
    FSDP's files cannot say a deal: the even one stays. Multi-token prediction stands with the head. With several
    chunks on a stage the kernel makes the largest chunk small (``PartitionDp``) and a local search then the busiest
    stage (``balance_stages``).

    Args:
        limits: of each solve; counts passes of the kernel.

    Returns:
        The better of the even and the best layout found that fits; the step of both is priced exactly. A layout is
        taken only if the event simulator does not find its pipeline slower than the even one's.

    Raises:
        InvalidProblemError: the plan splits the vocabulary over its stages (``vocab_parallel``).
    """
    problem = with_precision(problem, plan.precision)
    work = _Work(problem, plan.config, limits)
    told = work.refusal()
    if told:
        return work.answer(work.own, work.own, f"even stages stay: {told}")
    evens = [work.own] if work.own_fits else []
    even = min([*evens, *work.evens()], key=lambda c: c.key, default=work.own)
    found = sorted(work.candidates(), key=lambda c: c.key)
    best = found[0] if found else None
    free = 0.0
    if problem.framework == "megatron-lm" and plan.config.recompute & Recompute.FULL:
        free = min((c.step_s for c in work.solved(StageRules(Choice.FREE))), default=0.0)
    if best is None:
        return work.answer(even, even, "even stages stay: no other deal of the layers fits memory", free)
    fits_evenly = even is not work.own or work.own_fits
    if fits_evenly and best.step_s > even.step_s * (1.0 - LEAST_GAIN):
        words = "even stages stay: no other deal of the layers is faster"
        return work.answer(even, even, words + _recompute_words(work.own, even), free)
    if fits_evenly:
        best = next((c for c in found[:_SIMULATED] if work.simulated_gain(c, even) > -LEAST_GAIN), even)
        if best is even or best.step_s > even.step_s * (1.0 - LEAST_GAIN):
            words = "even stages stay: the event simulator finds other deals slower"
            return work.answer(even, even, words + _recompute_words(work.own, even), free)
    words = _deal_words(best, even, fits_evenly) + _recompute_words(work.own, best) + _free_words(best, free)
    return work.answer(best, even, words, free)


class _Work:
    """One plan's pieces, its even layout, and layouts solved for."""

    def __init__(self, problem: PlanningProblem, config: ParallelConfig, limits: Limits) -> None:
        self.problem, self.config, self.limits = problem, config, limits
        self.costs: LayerCosts = layer_costs(problem.model, problem.workload, problem.cluster, problem.software, config)
        self.spans: dict[StageLayout, float] = {}
        layout = even_layout(problem.model, config)
        self.own = _Candidate(config, layout, self.price(config, layout), None)
        self.own_fits = bool(fits(problem, self.own.estimate.peak_bytes))

    def price(self, config: ParallelConfig, layout: StageLayout) -> Estimate:
        p = self.problem
        return price_stages(p.model, p.workload, p.cluster, p.software, config, layout, self.costs)[1]

    def simulated_gain(self, candidate: _Candidate, even: _Candidate) -> float:
        """Share of the even pipeline's time that a layout saves in the event simulator; 0 where it has no schedule."""
        spans = [self.span_s(each.layout) for each in (candidate, even)]
        return 0.0 if None in spans else 1.0 - spans[0] / spans[1]  # type: ignore[operator]

    def span_s(self, layout: StageLayout) -> float | None:
        """Simulated seconds of a few rounds of micro-batches, transfers left out."""
        p, config = self.problem, self.config
        micro = int(n_micro(p, config))
        if config.schedule != Schedule.ONE_F_ONE_B or (config.vp > 1 and micro % config.pp):
            return None
        if layout not in self.spans:
            stages, _ = price_stages(p.model, p.workload, p.cluster, p.software, config, layout, self.costs)
            schedule = build_schedule(schedule_name(config), config.pp, min(micro, _ROUNDS * config.pp), config.vp)
            self.spans[layout] = simulate(schedule, layout_passes(self.costs, layout, stages)).makespan_s
        return self.spans[layout]

    def refusal(self) -> str:
        """Why the even deal must stay, or nothing."""
        if self.config.pp == 1:
            return "one stage holds the whole model"
        if self.problem.framework not in FRAMEWORKS:
            return f"launch files of {self.problem.framework} cannot deal layers one by one"
        if self.config.schedule == Schedule.ZERO_BUBBLE_V:
            return "the V schedule places its first and its last chunk on one stage"
        if self.problem.model.mtp_layers and self.problem.framework == "torchtitan":
            return "TorchTitan's layouts have no multi-token prediction"
        return ""

    def evens(self) -> Iterator[_Candidate]:
        """The even deal with every number of recomputed layers that a framework which counts them can ask for."""
        if self.problem.framework != "megatron-lm" or not self.config.recompute & Recompute.FULL:
            return
        for number in range(max(chunk.layers for chunk in self.own.layout.flat) + 1):
            rules = StageRules(Choice.LEADING, number)
            config = self.with_recompute(rules, False)
            layout = even_layout(self.problem.model, config) if number else self.bare()
            estimate = self.price(config, layout)
            if bool(fits(self.problem, estimate.peak_bytes)):
                yield _Candidate(config, layout, estimate, None)

    def bare(self) -> StageLayout:
        """The even deal without whole-layer recompute."""
        return replace(self.own.layout, recompute=(False,) * self.problem.model.n_layers)

    def candidates(self) -> Iterator[_Candidate]:
        """Layouts that the framework can express."""
        framework, full = self.problem.framework, bool(self.config.recompute & Recompute.FULL)
        if framework == "any":
            yield from self.solved(StageRules(Choice.FREE))
        elif framework == "megatron-lm" and full:
            yield from self.leading()
        elif not self.config.recompute_layers:
            yield from self.solved(StageRules(Choice.PLAN, layer_everywhere=framework == "torchtitan"))

    def leading(self) -> Iterator[_Candidate]:
        """Whole layers at the head of each chunk: none, and from the fewest that fit on while steps get shorter."""
        yield from self.solved(StageRules(Choice.LEADING, 0))
        low, high = 0, self.problem.model.n_layers
        seen: dict[int, list[_Candidate]] = {}
        while high - low > 1:
            middle = (low + high) // 2
            seen[middle] = list(self.solved(StageRules(Choice.LEADING, middle)))
            low, high = (low, middle) if seen[middle] else (middle, high)
        best = float("inf")
        for number in range(high, self.problem.model.n_layers + 1):
            found = seen.get(number) or list(self.solved(StageRules(Choice.LEADING, number)))
            step = min((float(c.estimate.step_s) for c in found), default=float("inf"))
            if step >= best:
                return
            best = step
            yield from found

    def solved(self, rules: StageRules) -> Iterator[_Candidate]:
        """The kernel's layout under some rules, if it fits; a second try leaves the room that the first lacked."""
        less = 0.0
        for _ in range(2):
            posed = partition_problem(self.problem, self.config, self.costs, rules, less_bytes=less)
            result = PartitionDp().solve(posed, self.limits)
            over, found = 0.0, False
            for value in self.answers(posed, result):
                config, layout = self.read(value, rules)
                estimate = self.price(config, layout)
                if bool(fits(self.problem, estimate.peak_bytes)):
                    found = True
                    yield _Candidate(config, layout, estimate, result)
                else:
                    over = max(over, float(estimate.peak_bytes) - memory_limit_bytes(self.problem))
            if found or not over:
                return
            less += over

    def answers(self, posed: PartitionProblem, result: SolveResult[Partition]) -> list[Partition]:
        """The kernel's answer; with several chunks on a stage also what balances stages without a larger chunk than
        the kernel's or the even deal's."""
        found = [] if result.value is None else [result.value]
        if posed.vp > 1:
            sizes = [chunk.embedding + chunk.layers + chunk.mtp + chunk.head for chunk in self.own.layout.flat]
            cuts = tuple(accumulate(sizes, initial=0))
            modes = posed.leading_modes(cuts) if posed.leading is not None else (0,) * posed.n
            even = Partition(cuts, modes)
            starts = [*found, even] if not posed.problems_of(even) else found
            cap = int(posed.chunk_times(even).max())
            found += [balance_stages(posed, v, max(cap, int(posed.chunk_times(v).max()))) for v in starts]
        return list(dict.fromkeys(found))

    def read(self, value: Partition, rules: StageRules) -> tuple[ParallelConfig, StageLayout]:
        """Layout and configuration of an answer."""
        model, config = self.problem.model, self.config
        layers = range(1, model.n_layers + 1)
        if rules.choice is Choice.PLAN:
            flags = [recompute_of_plan(config) == FULL] * model.n_layers
        else:
            flags = [value.modes[i] == 1 for i in layers]
        sizes = [end - start for start, end in pairwise(value.cuts)]
        layout = layout_of(sizes, config.pp, model.n_layers, model.mtp_layers, flags)
        if rules.choice is Choice.LEADING:
            config = self.with_recompute(rules, all(flags))
        return replace(config, layer_split=int(LayerSplit.LAYOUT)), layout

    def with_recompute(self, rules: StageRules, whole: bool) -> ParallelConfig:
        """The configuration that recomputes so many layers at the head of each chunk, or all."""
        if not rules.leading:
            return replace(self.config, recompute=int(self.config.recompute & ~Recompute.FULL), recompute_layers=0)
        return replace(self.config, recompute_layers=0 if whole else rules.leading * self.config.vp)

    def answer(self, chosen: _Candidate, even: _Candidate, reason: str, free: float = 0.0) -> RefinedStages:
        """What is handed back."""
        simulated = None if chosen is even or not self.span_s(even.layout) else self.simulated_gain(chosen, even)
        return RefinedStages(
            changed=chosen is not self.own,
            config=chosen.config,
            layout=chosen.layout,
            estimate=chosen.estimate,
            before=self.own.estimate,
            before_fits=self.own_fits,
            even=even.estimate,
            even_layout=even.layout,
            solve=chosen.solve,
            simulated_gain=simulated,
            per_layer_step_s=free,
            reason=reason,
        )


def _deal_words(best: _Candidate, even: _Candidate, fits_evenly: bool) -> str:
    layers = best.layout.stage_layers
    words = f"stages of {min(layers)} to {max(layers)} layers (first {layers[0]}, last {layers[-1]}) "
    if not fits_evenly:
        return words + "fit memory where even ones do not"
    return words + f"save {1.0 - best.step_s / even.step_s:.1%} of the step"


def _recompute_words(own: _Candidate, chosen: _Candidate) -> str:
    before, after = sum(own.layout.recompute), sum(chosen.layout.recompute)
    return f"; {after} instead of {before} layers recompute" if before != after else ""


def _free_words(best: _Candidate, free: float) -> str:
    if not free or free > best.step_s * (1.0 - LEAST_GAIN):
        return ""
    return f"; recompute chosen layer by layer would save a further {1.0 - free / best.step_s:.1%}"


def refined_plan(problem: PlanningProblem, plan: Plan, refined: RefinedStages) -> Plan:
    """The plan with its new layout and what it costs; its rank, ties and front mark stay, its reason comes last."""
    if not refined.changed:
        return replace(plan, reasons=(*plan.reasons, refined.reason))
    priced = make_plan(with_precision(problem, plan.precision), refined.config, refined.estimate, 0, rank=plan.rank)
    return replace(
        priced,
        stage_layers=refined.layout.stage_layers,
        # even stages with another number of recomputed layers need no words beyond the configuration
        stage_layout=refined.layout if refined.solve else None,
        tied_with=plan.tied_with,
        pareto=plan.pareto,
        reasons=(*plan.reasons, refined.reason),
    )
