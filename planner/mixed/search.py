"""From a request on a mixed cluster to ranked plans: pipelines across pools, replicas in each pool, one pool alone."""

from __future__ import annotations

import math
from dataclasses import replace

from ...hardware_profiles.errors import InvalidProblemError, MeshwrightError, NoFeasiblePlanError
from ..plan import Plan
from ..problem import PlanningProblem
from ..search import plan as plan_alone
from ..solvers.result import TO_COMPLETION, Limits
from .answer import mixed_provenance, one_pool_plan, pipeline_plan, replica_plan, with_reasons
from .costs import MixedCosts, price_pools
from .nearest import nearest_pipeline
from .pipelines import Pipelines, best_pipelines
from .plan import MixedPlan, MixedPlanSet, MixedSearch
from .price import Pricer
from .problem import MixedProblem
from .replicas import ReplicaPlan, ReplicaSearch
from .space import enumerate_choices

#: A more general plan is named only if it saves at least this share of the step.
WORTH_NAMING = 0.005


def plan_mixed(problem: MixedProblem, limits: Limits = TO_COMPLETION) -> MixedPlanSet:
    """Every good way to train the model on the pools, ranked; the best plan of each pool alone is among the candidates.

    Args:
        limits: ``work`` counts splits of layers that are solved; what it leaves open is said in ``search``.

    Raises:
        InvalidProblemError: no configuration obeys the rules on any pool.
        NoFeasiblePlanError: nothing fits on the pools, together or alone.
    """
    single, refusals = _singles(problem)
    costs = price_pools(problem)
    found = _Search(problem, costs, limits)
    candidates = [*found.plans, *single]
    if not candidates:
        raise _nothing_fits(problem, costs, found, refusals)
    ranked = sorted(candidates, key=lambda p: (p.metrics["step_s"], p.shape, p.pools))[: problem.top]
    plans = tuple(replace(p, rank=i + 1) for i, p in enumerate(ranked))
    general = _general(problem, plans[0]) if problem.framework != "any" else None
    report = MixedSearch(
        enumerated=found.pipelines.enumerated + found.replicas.enumerated,
        priced=found.pipelines.solved + found.replicas.solved,
        feasible=found.pipelines.feasible,
        optimality=found.optimality,
        bound_s=min(found.pipelines.bound_s, plans[0].metrics["step_s"]),
        notes=(*found.notes, *refusals),
    )
    return MixedPlanSet(
        problem=problem,
        plans=with_reasons(plans, single, found.pipelines.feasible),
        single=tuple(sorted(single, key=lambda p: (p.metrics["step_s"], p.pools))),
        search=report,
        general=general,
        provenance=mixed_provenance(problem),
    )


class _Search:
    """Both shapes of plan that use several pools."""

    def __init__(self, problem: MixedProblem, costs: MixedCosts, limits: Limits, k: int | None = None) -> None:
        k = problem.top if k is None else k
        self.pricer = Pricer(costs)
        choices, narrowed = enumerate_choices(costs)
        self.choices = choices
        self.pipelines: Pipelines = best_pipelines(self.pricer, choices, k, limits)
        self.replicas = ReplicaSearch(costs)
        kth = self.pipelines.best[k - 1].step_s if len(self.pipelines.best) >= k else math.inf
        copies: list[ReplicaPlan] = self.replicas.best(k, kth)
        proof = "optimal over the enumerated pipelines" if self.pipelines.exact else "best when the search was stopped"
        self.plans: list[MixedPlan] = [pipeline_plan(self.pricer, f, proof) for f in self.pipelines.best]
        self.plans += [replica_plan(self.replicas, f) for f in copies]
        self.notes = (f"the space was narrowed: {narrowed}",) if narrowed else ()

    @property
    def optimality(self) -> str:
        """What is proven, and what is not."""
        if not self.pipelines.exact:
            return "pipelines across pools: the search was stopped; replicas and single pools: best of those priced"
        return "pipelines across pools: optimal over the enumerated space; replicas: best of those priced"


def _singles(problem: MixedProblem) -> tuple[list[MixedPlan], tuple[str, ...]]:
    """The best plan of each pool alone, on all of its nodes or on the largest power of two of them."""
    found, refusals = [], []
    for i, pool in enumerate(problem.cluster.pools):
        best: tuple[float, PlanningProblem, Plan] | None = None
        why: MeshwrightError | None = None
        for nodes in dict.fromkeys((pool.nodes, 1 << (pool.nodes.bit_length() - 1))):
            alone = problem.alone(i, nodes)
            try:
                fastest = plan_alone(alone, cutoff_s=best[0] if best else math.inf).plans[0]
            except (NoFeasiblePlanError, InvalidProblemError) as error:
                why = why or error
                continue
            if best is None or fastest.metrics["step_s"] < best[0]:
                best = (fastest.metrics["step_s"], alone, fastest)
        if best is not None:
            found.append(one_pool_plan(problem, i, best[1], best[2]))
        elif why is not None:
            refusals.append(f"pool {pool.name} alone: {why}")
    return found, tuple(refusals)


def _general(problem: MixedProblem, best: MixedPlan) -> MixedPlan | None:
    """The best plan without the framework's restrictions, where it is worth naming."""
    free = problem.general
    found = _Search(free, price_pools(free), TO_COMPLETION, k=1).plans
    if not found:
        return None
    fastest = min(found, key=lambda p: (p.metrics["step_s"], p.shape, p.pools))
    saved = 1.0 - fastest.metrics["step_s"] / best.metrics["step_s"]
    return replace(fastest, rank=1) if saved >= WORTH_NAMING else None


def _nothing_fits(
    problem: MixedProblem, costs: MixedCosts, found: _Search, refusals: tuple[str, ...]
) -> MeshwrightError:
    if not len(found.choices) and found.replicas.enumerated == 0:
        said = " ".join(refusals)
        return InvalidProblemError(
            f"No configuration obeys the rules on {problem.cluster.name} with a global batch of "
            f"{problem.workload.global_batch}: change the batch, the nodes or the pins. {said}".strip()
        )
    if not found.pipelines.exact:
        return NoFeasiblePlanError(
            f"The search on {problem.cluster.name} was stopped before it found a plan that fits."
        )
    near = nearest_pipeline(found.pricer, found.choices)
    gpus = problem.cluster.n_gpus
    return NoFeasiblePlanError(
        f"No plan fits the {gpus} GPUs of {problem.cluster.name}: "
        f"{near or 'no pipeline across its pools is possible'}; more nodes, a smaller optimizer state (--optimizer) "
        "or lifting a memory cap would help."
    )


def speed_up(plans: MixedPlanSet) -> float:
    """How much faster the first plan is than the best pool alone (infinite where none can do it)."""
    if not plans.single:
        return math.inf
    return plans.single[0].metrics["step_s"] / plans.plans[0].metrics["step_s"]
