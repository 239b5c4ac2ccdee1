"""One request over a range of cluster sizes: days, dollars and how well each size is used."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from ..hardware_profiles.errors import InvalidProblemError, NoFeasiblePlanError
from ..hardware_profiles.types import Cluster
from .anatomy import single_plan
from .infeasible import resized
from .pins import check_pins
from .plan import Plan, SearchReport
from .problem import PlanningProblem
from .rank import best_rows
from .search import explore


@dataclass(frozen=True, slots=True, kw_only=True)
class SizingPoint:
    """The best plan on one number of nodes.

    Attributes:
        plan: None where none fits or obeys the rules; then ``reason`` says why.
        tokens_per_s: of the whole cluster; days, dollars: of the whole run (0 if tokens or price are unknown);
        dollars_per_million_tokens: 0 without a price;
        efficiency: tokens per second and GPU relative to the smallest size that works.
    """

    nodes: int
    gpus: int
    plan: Plan | None
    search: SearchReport
    reason: str = ""
    tokens_per_s: float = 0.0
    days: float = 0.0
    dollars: float = 0.0
    dollars_per_million_tokens: float = 0.0
    efficiency: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizing:
    """All sizes in ascending order; ``best`` is the index of the one that the objective prefers."""

    problem: PlanningProblem
    points: tuple[SizingPoint, ...]
    best: int


def sizing(
    problem: PlanningProblem, nodes: Iterable[int], *, cluster_at: Callable[[int], Cluster] | None = None
) -> Sizing:
    """Plan every size.

    Args:
        nodes: node counts; cluster_at: gives the cluster of a size (default: the problem's, resized).

    Returns:
        the points; the best is the cheapest for ``cost`` (needs a price), the one with least peak memory for
        ``memory``, else the fastest; the smaller size wins a tie.

    Raises:
        InvalidProblemError: no node count, one below 1, or the objective is cost and there is no price.
        NoFeasiblePlanError: no size works.
    """
    sizes = sorted(set(nodes))
    if not sizes or sizes[0] < 1:
        raise InvalidProblemError("Sizing needs node counts of at least 1, as in 1..64.")
    if problem.objective == "cost" and problem.price_per_gpu_hour <= 0:
        raise InvalidProblemError("The objective cost needs a price per GPU hour; give --price.")
    make = cluster_at or (lambda n: resized(problem.cluster, n))
    points = [_point(replace(problem, cluster=make(n))) for n in sizes]
    working = [p for p in points if p.plan is not None]
    if not working:
        raise NoFeasiblePlanError(
            f"No size from {sizes[0]} to {sizes[-1]} nodes works; at {sizes[-1]} nodes: {points[-1].reason} Try more "
            "nodes."
        )
    base = working[0].tokens_per_s / working[0].gpus
    points = [replace(p, efficiency=p.tokens_per_s / p.gpus / base) for p in points]
    best = min(range(len(points)), key=lambda i: _preference(problem.objective, points[i]))
    return Sizing(problem=problem, points=tuple(points), best=best)


def _preference(objective: str, p: SizingPoint) -> tuple[float, int]:
    if p.plan is None:
        return (float("inf"), p.nodes)
    if objective == "cost":
        return (p.dollars_per_million_tokens, p.nodes)
    if objective == "memory":
        return (p.plan.metrics["peak_bytes"], p.nodes)
    return (-p.tokens_per_s, p.nodes)


def _point(problem: PlanningProblem) -> SizingPoint:
    nodes, gpus = problem.cluster.nodes, problem.cluster.n_gpus
    try:
        check_pins(problem)
    except InvalidProblemError as error:
        return SizingPoint(nodes=nodes, gpus=gpus, plan=None, search=SearchReport(enumerated=0), reason=str(error))
    pools, search = explore(problem)
    if search.feasible == 0:
        legal = sum(len(p.table) for p in pools)
        why = "nothing fits the memory." if legal else "no configuration obeys the rules."
        return SizingPoint(nodes=nodes, gpus=gpus, plan=None, search=search, reason=why)
    ((pool, row),) = best_rows(pools, problem.objective, 1)
    plan = single_plan(pools[pool].problem, pools[pool].table.row(row))
    return SizingPoint(
        nodes=nodes,
        gpus=gpus,
        plan=plan,
        search=search,
        tokens_per_s=plan.metrics["tokens_per_s_per_gpu"] * gpus,
        days=plan.metrics.get("days", 0.0),
        dollars=plan.metrics.get("dollars", 0.0),
        dollars_per_million_tokens=plan.metrics.get("dollars_per_million_tokens", 0.0),
    )
