"""Placement of a plan on unequal links: which host runs which block of ranks, and what that buys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..costmodels.collectives import p2p_efficiency
from ..costmodels.link_traffic import PARTS, Flow, at_rate, count_slots, price_flows, slot_flows
from ..costmodels.parallel import ParallelConfig
from ..costmodels.training import estimate
from ..hardware_profiles.errors import InvalidProblemError
from ..hardware_profiles.link_matrix import LinkMatrix
from .plan import Plan
from .problem import PlanningProblem
from .rank import with_precision
from .solvers.base import choose
from .solvers.placement import PlacementProblem, solvers
from .solvers.result import Limits, SolveResult

#: What a second of hidden traffic counts in the search: enough to keep it on fast links where nothing else decides.
HIDDEN_SHARE = 0.01
#: Links named in a ``PlacedPlan`` as the worst ones used.
WORST = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One order of hosts and what it costs.

    Attributes:
        hosts: node of each slot; slot i runs ranks ``i * gpus_per_node`` and up.
        critical_s: seconds of a step spent on links between nodes along the critical path, by dimension in
            ``by_dimension``; sum_s: link-seconds (every edge counted, waited for or not).
        step_s: predicted step of the whole plan with this order.
    """

    hosts: tuple[str, ...]
    critical_s: float
    by_dimension: Mapping[str, float]
    sum_s: float
    step_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class UsedLink:
    """A link that a placement uses: bandwidth per GPU, and seconds of a step spent in that dimension's row on it."""

    dimension: str
    source: str
    target: str
    bytes_per_s: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedPlan:
    """A plan with hosts.

    Attributes:
        config, gpus_per_node: what is placed; placed: the order found.
        given: the nodes in the order of the links' file; racks: sorted by rack, None where no rack is known.
        objective: what was minimised, ``critical`` or ``sum``; result: how well it is proven (objective and bound in
            seconds, hidden traffic included at ``HIDDEN_SHARE``); equal: every link alike (or no traffic leaves a
            node), so that order does not matter.
        left_out: nodes that the plan does not need; worst: slowest links in use, slowest first.
        gpu_order: GPUs of a node in the order of its local ranks, where it is not 0, 1, 2, ...
    """

    config: ParallelConfig
    gpus_per_node: int
    placed: Order
    given: Order
    racks: Order | None
    objective: str
    result: SolveResult[tuple[int, ...]]
    equal: bool
    left_out: tuple[str, ...] = ()
    worst: tuple[UsedLink, ...] = ()
    gpu_order: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def baseline(self) -> Order:
        """Rack order where racks are known, else the given order."""
        return self.racks or self.given

    @property
    def gain(self) -> float:
        """Share of the baseline's critical seconds that the placement saves."""
        before = self.baseline.critical_s
        return (before - self.placed.critical_s) / before if before > 0 else 0.0

    def report(self) -> Mapping[str, Any]:
        """Plain data for JSON: all but the seconds that the solver took."""
        orders = {"placed": self.placed, "rack_order": self.racks, "given_order": self.given}
        return {
            "hosts": list(self.placed.hosts),
            "left_out": list(self.left_out),
            "gpus_per_node": self.gpus_per_node,
            "links_equal": self.equal,
            "optimised": self.objective,
            "orders": {name: _order_report(o) for name, o in orders.items() if o is not None},
            "gain_over_baseline": self.gain,
            "baseline": "rack_order" if self.racks else "given_order",
            "solver": {**self.result.report(), "gap": _finite(self.result.gap)},
            "worst_links": [
                {
                    "dimension": w.dimension,
                    "from": w.source,
                    "to": w.target,
                    "bytes_per_s_per_gpu": w.bytes_per_s,
                    "seconds": w.seconds,
                }
                for w in self.worst
            ],
        }


def place(
    problem: PlanningProblem,
    plan: Plan,
    links: LinkMatrix,
    limits: Limits | None = None,
    seed: int = 0,
    *,
    solver: str = "annealing",
    objective: str = "critical",
) -> PlacedPlan:
    """Choose a host for every block of ranks of a plan.

    Args:
        problem, plan: as ranked; links: at least as many nodes as the plan fills, the slow ones may stay unused.
        limits: None for the solver's default work; seed: of the search.
        solver: a key of ``planner.solvers.placement.solvers()``; objective: ``critical`` (slowest ring, slowest
            pipeline) or ``sum`` (link-seconds).

    Raises:
        InvalidProblemError: fewer nodes than the plan fills, partly filled nodes, or an unknown name.
        MissingDependencyError: the solver's package is absent.
    """
    chosen = choose(solvers(), solver)
    task = PlacementTask(problem, plan, links, objective)
    result = chosen.solve(task.problem, limits or Limits(), seed)
    if result.value is None:
        raise InvalidProblemError(
            f"Solver {solver} found no placement ({result.termination}); raise --work or --time-limit."
        )
    n = task.problem.n_slots
    racks = links.rack_order()[:n] if links.racks else None
    return PlacedPlan(
        config=plan.config,
        gpus_per_node=task.gpus_per_node,
        placed=task.order(result.value),
        given=task.order(range(n)),
        racks=task.order(racks) if racks else None,
        objective=objective,
        result=result,
        equal=links.equal or not len(task.problem.edges),
        left_out=tuple(name for i, name in enumerate(links.nodes) if i not in result.value),
        worst=task.worst(result.value),
        gpu_order={name: gpus for name, gpus in links.gpu_order.items() if links.index([name])[0] in result.value},
    )


class PlacementTask:
    """A plan's flows on a link matrix: the solver's problem, and the price of any order."""

    def __init__(self, problem: PlanningProblem, plan: Plan, links: LinkMatrix, objective: str = "critical") -> None:
        variant = with_precision(problem, plan.precision)
        cluster, self.gpus_per_node = variant.cluster, variant.cluster.gpus_per_node
        self.links = links
        slots = count_slots(plan.config, self.gpus_per_node)
        if slots > len(links.nodes):
            raise InvalidProblemError(
                f"The plan fills {slots} nodes, but {links.source or 'the links'} name {len(links.nodes)}; give the "
                "links of all of them."
            )
        for name, gpus in links.gpu_order.items():
            if sorted(gpus) != list(range(self.gpus_per_node)):
                raise InvalidProblemError(
                    f"{links.source}: gpu_order of {name} must name each of the {self.gpus_per_node} GPUs once."
                )
        achieved = p2p_efficiency(cluster) if links.measured else 1.0
        self.cost = links.seconds_per_byte(self.gpus_per_node) * achieved
        flows = slot_flows(plan.config, self.gpus_per_node, directed=not links.symmetric)
        self._fast = self._rates()[1]
        parts = (variant.model, variant.workload, plan.config, cluster, variant.software)
        self.flows = price_flows(flows, *parts, self._rates()) if flows else ()
        base = estimate(*parts[:3], at_rate(cluster, self._fast) if flows else cluster, variant.software)
        self._step_s = float(base.step_s)
        self._jitter = float(base.time.jitter_s / (base.step_s - base.time.jitter_s))
        self.problem = self._problem(slots, objective)

    def order(self, placement: Sequence[int]) -> Order:
        """Hosts and seconds of one placement."""
        p = np.array([list(placement)], np.int64)
        terms = self.problem.term_seconds(p)[0] * self._exposed_share
        exposed, _ = self._exposed(p)
        by = {d: 0.0 for d in PARTS if any(f.dimension == d for f in self.flows)}
        lost = 0.0
        for flow, seconds in zip(self._priced, terms, strict=True):
            by[flow.dimension] += float(seconds)
            lost += float(seconds) - flow.n_bytes / self._fast
        return Order(
            hosts=tuple(self.links.nodes[i] for i in p[0]),
            critical_s=float(terms.sum()),
            by_dimension=by,
            sum_s=float(exposed.sum()),
            step_s=self._step_s + lost * (1.0 + self._jitter),
        )

    def worst(self, placement: Sequence[int]) -> tuple[UsedLink, ...]:
        """The slowest links between nodes that the placement uses, each with its costliest flow."""
        used: dict[tuple[int, int], UsedLink] = {}
        if not len(self.problem.edges):
            return ()
        seconds, term = self._exposed(np.array([list(placement)], np.int64))
        rate = self.links.per_gpu(self.gpus_per_node)
        for (u, v), t, s in zip(self.problem.edges.tolist(), term, seconds, strict=True):
            i, j = placement[u], placement[v]
            if (i, j) not in used or s > used[i, j].seconds:
                used[i, j] = UsedLink(
                    dimension=self.problem.terms[t],
                    source=self.links.nodes[i],
                    target=self.links.nodes[j],
                    bytes_per_s=float(rate[i, j]),
                    seconds=float(s),
                )
        return tuple(sorted(used.values(), key=lambda w: (w.bytes_per_s, -w.seconds, w.source, w.target))[:WORST])

    @property
    def _exposed_share(self) -> NDArray[np.float64]:
        """(T,) of the search's seconds, those that a step waits for."""
        return np.array([f.n_bytes / _weight(f) for f in self._priced], float)

    def _exposed(self, placement: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """(E,) exposed seconds of each edge, and its term."""
        term = self.problem.term_of_row[self.problem.row_of_edge]
        return self.problem.edge_seconds(placement)[0] * self._exposed_share[term], term

    def _rates(self) -> tuple[float, float]:
        """Slowest and fastest link, nominal bytes/s per GPU."""
        off = self.cost[~np.eye(len(self.cost), dtype=bool)]
        return (1.0 / float(off.max()), 1.0 / float(off.min())) if len(off) else (1.0, 1.0)

    @property
    def _priced(self) -> tuple[Flow, ...]:
        return tuple(f for f in self.flows if _weight(f) > 0)

    def _problem(self, slots: int, objective: str) -> PlacementProblem:
        flows = self._priced
        rows: list[int] = []
        terms: list[int] = []
        edges: list[tuple[int, int]] = []
        n_bytes: list[float] = []
        for flow in flows:
            terms.append(len(rows))
            rows += [len(edges) + start for start in flow.row_starts]
            edges += flow.edges
            n_bytes += [_weight(flow) * share for share in flow.share]
        starts = [self.links.rack_order()[:slots]] if self.links.racks else []
        return PlacementProblem(
            n_slots=slots,
            cost=self.cost,
            edges=_ints(edges).reshape(-1, 2),
            n_bytes=np.array(n_bytes, float),
            row_starts=_ints(rows),
            term_starts=_ints(terms),
            terms=tuple(f.name for f in flows),
            objective=objective,
            starts=tuple(starts),
        )


def _weight(flow: Flow) -> float:
    """Bytes of a flow as the search counts them."""
    return flow.n_bytes + HIDDEN_SHARE * flow.hidden_bytes


def _ints(values: Any) -> NDArray[np.int64]:
    return np.array(values, np.int64)


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _order_report(order: Order) -> Mapping[str, Any]:
    return {
        "hosts": list(order.hosts),
        "critical_s": order.critical_s,
        "by_dimension_s": dict(order.by_dimension),
        "link_seconds": order.sum_s,
        "step_s": order.step_s,
    }
