"""From a request to ranked plans: the table of contents of the planner."""

from __future__ import annotations

import math
from dataclasses import replace

from ..costmodels.parallel import ParallelConfig
from ..costmodels.rules import validate
from ..costmodels.stage_layout import StageLayout
from .anatomy import laid_out_plan, ranked_plans, single_plan
from .infeasible import no_fitting_plan, no_legal_plan
from .pins import check_pins
from .plan import Plan, PlanSet, SearchReport
from .problem import PlanningProblem
from .provenance import provenance
from .rank import Scored, best_rows, fits, front_rows, score, with_precision
from .refine import Refined, refine
from .space import Space, enumerate_space

EXHAUSTIVE = "optimal over the enumerated space (exhaustive)"


def plan(problem: PlanningProblem, *, time_limit_s: float | None = None, cutoff_s: float = math.inf) -> PlanSet:
    """Every good way to train the model, ranked; the listed plans refined as ``problem.refine`` says.

    Args:
        time_limit_s: wall seconds that refinement may take (the search itself always completes).
        cutoff_s: plans that could not take less than this with balanced stages are not refined.

    Raises:
        InvalidProblemError: pins that contradict a rule of the framework, or no configuration that obeys them all.
        NoFeasiblePlanError: nothing fits; the message names the nearest miss and what would make it fit.
    """
    check_pins(problem)
    pools, search = explore(problem)
    if not any(len(pool.table) for pool in pools):
        raise no_legal_plan(problem, search)
    if search.feasible == 0:
        raise no_fitting_plan(problem, pools, search)
    best = best_rows(pools, problem.objective, problem.top)
    plans, front = ranked_plans(problem, pools, best, front_rows(pools))
    refined = refine(problem, pools, plans, time_limit_s, cutoff_s)
    return PlanSet(
        problem=problem,
        plans=refined.plans,
        front=_renumbered(front, plans, refined.plans),
        search=replace(search, refined=refined.count, reproducible=not refined.cut, optimality=_optimality(refined)),
        provenance=provenance(problem),
    )


def _optimality(refined: Refined) -> str:
    if not refined.count:
        return EXHAUSTIVE
    return f"{EXHAUSTIVE}; stages of {refined.count} plans dealt anew" + (", cut by the time limit" * refined.cut)


def _renumbered(front: tuple[Plan, ...], before: tuple[Plan, ...], after: tuple[Plan, ...]) -> tuple[Plan, ...]:
    """The front keeps its prices with even stages; where its plans are listed it takes their new ranks."""
    if before == after:
        return front
    new = {(p.config, p.precision): p.rank for p in after}
    old = {(p.config, p.precision) for p in before}

    def rank(p: Plan) -> int:
        key = (p.config, p.precision)
        return new[key] if key in new else len(after) + 1 if key in old else max(p.rank, len(after) + 1)

    return tuple(replace(p, rank=rank(p)) for p in front)


def explore(problem: PlanningProblem) -> tuple[list[Scored], SearchReport]:
    """Enumerate and price the space in every precision that the request allows."""
    variants = [with_precision(problem, precision) for precision in problem.precisions]
    spaces = [enumerate_space(variant) for variant in variants]
    pools = [score(variant, space) for variant, space in zip(variants, spaces, strict=True)]
    return pools, _report(spaces, pools)


def estimate_plan(problem: PlanningProblem, config: ParallelConfig, layout: StageLayout | None = None) -> PlanSet:
    """One configuration, priced whether it fits or not.

    Args:
        layout: deal of the layers to stages, where it is not the one that ``config.layer_split`` means.

    Raises:
        InvalidProblemError: the configuration breaks a rule of the framework.
    """
    validate(problem.model, problem.workload, problem.cluster, problem.framework, config)
    only = single_plan(problem, config) if layout is None else laid_out_plan(problem, config, layout)
    ok = bool(fits(problem, only.metrics["peak_bytes"]))
    search = SearchReport(
        enumerated=1, removed_by_memory=int(not ok), feasible=int(ok), optimality="one configuration, nothing searched"
    )
    return PlanSet(problem=problem, plans=(only,), search=search, provenance=provenance(problem))


def _report(spaces: list[Space], pools: list[Scored]) -> SearchReport:
    """What became of every candidate: ``enumerated`` is the sum of all that follows it."""
    removed: dict[str, int] = {}
    for space in spaces:
        for name, count in space.removed.items():
            removed[name] = removed.get(name, 0) + count
    appended = sum(len(p.table) - len(s.table) for p, s in zip(pools, spaces, strict=True))
    feasible = sum(int(p.fits.sum()) for p in pools)
    return SearchReport(
        enumerated=sum(s.enumerated for s in spaces) + appended,
        removed=removed,
        removed_by_memory=sum(len(p.table) for p in pools) - feasible,
        feasible=feasible,
        optimality=EXHAUSTIVE,
    )
