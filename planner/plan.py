"""The answer: ranked plans with their anatomy, as values and as ``plan.json`` (``meshwright.plan/v1``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..costmodels.parallel import ParallelConfig
from ..costmodels.stage_layout import StageLayout
from .problem import PlanningProblem

SCHEMA_VERSION = "meshwright.plan/v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refinement:
    """What an exact kernel did for one plan.

    Attributes:
        kind: ``stages``: layers dealt to stages one by one.
        before_s, after_s: step with the plain choice (even stages) and with the kernel's (the same where it is no
            better).
        simulated_gain: share of the pipeline's time that the choice saves in the event simulator, which sees passes
            wait for each other and no transfers; None where it was not simulated.
        solver: ``SolveResult.report`` of the kernel and its ``proof``, of the problem behind the choice (times taken as
            sums over layers); empty where nothing was solved.
        reason: one sentence.
    """

    kind: str
    before_s: float
    after_s: float
    simulated_gain: float | None = None
    solver: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One ranked configuration.

    Attributes:
        rank: 1 is best; tied_with: ranks whose difference is inside the noise.
        precision: of this plan (equals the workload's unless ``--allow`` let the search vary it).
        metrics: ``step_s``, ``step_low_s``, ``step_high_s``, ``tokens_per_s_per_gpu``, ``mfu``, ``hfu``,
            ``peak_bytes``, ``peak_low_bytes``, ``peak_high_bytes``, ``memory_share``, ``p_fit``,
            ``bubble_fraction``, ``exposed_comm_fraction``, ``fullest_stage``; with a price or token count also
            ``dollars_per_million_tokens``, ``days``, ``dollars``.
        time_s, memory_bytes: the named parts of ``TimeBreakdown`` and ``MemoryBreakdown``.
        stage_layers: layers on each pipeline stage (first to last).
        stage_layout: the deal of pieces to stages where it is not the rule of ``config.layer_split``; ``config`` then
            has ``LayerSplit.LAYOUT``.
        pareto: on the front of step time against peak memory.
        reasons: sentences that say why this plan stands here.
        refinements: what the kernels were asked for this plan, and what it bought.
    """

    rank: int
    config: ParallelConfig
    precision: str
    metrics: Mapping[str, float]
    time_s: Mapping[str, float]
    memory_bytes: Mapping[str, float]
    stage_layers: tuple[int, ...] = ()
    stage_layout: StageLayout | None = None
    tied_with: tuple[int, ...] = ()
    pareto: bool = False
    reasons: tuple[str, ...] = ()
    refinements: tuple[Refinement, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchReport:
    """How the ranking came about (no timings: the same input gives the same bytes).

    Attributes:
        enumerated: candidates generated; removed: how many each rule removed, in order of application;
        removed_by_memory: how many did not fit; feasible: how many were ranked.
        optimality: what is proven, e.g. ``optimal over the enumerated space (exhaustive)``.
        refined: plans that the kernels took further; reproducible: whether the same request gives the same bytes
            (a time limit that cut the refinement makes it false).
    """

    enumerated: int
    removed: Mapping[str, int] = field(default_factory=dict)
    removed_by_memory: int = 0
    feasible: int = 0
    optimality: str = ""
    refined: int = 0
    reproducible: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanSet:
    """Ranked plans of one problem; ``to_json`` lives in ``plan_json.py``.

    Attributes:
        plans: the best ``problem.top``; front: the front of step time against peak memory over all feasible
            candidates, fastest first, each with its rank in the whole ranking.
        provenance: versions and hashes of what the numbers come from.
    """

    problem: PlanningProblem
    plans: tuple[Plan, ...]
    search: SearchReport
    front: tuple[Plan, ...] = ()
    kind: str = "training"
    provenance: Mapping[str, str] = field(default_factory=dict)
