"""What to say when nothing is left: which rule or how much memory, the nearest miss, and what would make it fit.

Each remedy named has been tried: the changed request was enumerated and its memory priced.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from ..hardware_profiles.errors import InvalidProblemError, NoFeasiblePlanError
from ..hardware_profiles.types import Cluster
from .anatomy import single_plan
from .label import config_label, gigabytes
from .plan import Plan, SearchReport
from .problem import PlanningProblem
from .rank import Scored, fits, peak_bytes
from .space import enumerate_space

#: Node counts tried are this many doublings of the cluster.
_DOUBLINGS = 7
_REMEDIES_NAMED = 3


def no_legal_plan(problem: PlanningProblem, search: SearchReport) -> InvalidProblemError:
    """No configuration obeys the rules, pins and excludes."""
    pins = ", ".join(f"{n}={'|'.join(map(str, v))}" for n, v in problem.pins.items())
    what = f"with {pins} " if pins else ""
    return InvalidProblemError(
        f"No configuration {what}obeys the rules of {problem.framework} on {problem.cluster.n_gpus} GPUs with a global "
        f"batch of {problem.workload.global_batch}: {removals(search)}; change the batch, the nodes or the pins."
    )


def removals(search: SearchReport) -> str:
    """``of 98,512 candidates were removed: 9,516 by batch, 120 by layers, 88,876 by memory``."""
    counts = {**search.removed, "memory": search.removed_by_memory}
    parts = ", ".join(f"{count:,} by {name}" for name, count in counts.items() if count)
    return f"of {search.enumerated:,} candidates were removed: {parts or 'none'}"


def no_fitting_plan(problem: PlanningProblem, pools: list[Scored], search: SearchReport) -> NoFeasiblePlanError:
    """Nothing fits the device: the nearest miss and the remedies that were seen to work."""
    miss = nearest_miss(pools)
    peak, limit = miss.metrics["peak_bytes"], problem.memory_limit_bytes
    parts = sorted(miss.memory_bytes.items(), key=lambda x: (-x[1], x[0]))[:3]
    largest = ", ".join(f"{n.removesuffix('_bytes')} {gigabytes(v)}" for n, v in parts)
    if peak > limit:
        over = f"{gigabytes(peak - limit)} over the limit of {gigabytes(limit)}"
    else:
        over = f"fits {gigabytes(limit)} with a probability of {miss.metrics['p_fit']:.2f} only"
    remedies = _worded(list(_limited(remedies_that_work(problem), _REMEDIES_NAMED)))
    return NoFeasiblePlanError(
        f"No plan fits {problem.cluster.gpu.name}: {removals(search)}; the "
        f"nearest miss is {config_label(miss.config)} with a peak of {gigabytes(peak)} ({largest}), {over}; {remedies}."
    )


def nearest_miss(pools: list[Scored]) -> Plan:
    """The candidate with the least peak memory."""
    pool = min((p for p in pools if len(p.table)), key=lambda p: float(p.peak_bytes.min()))
    row = int(np.argmin(pool.peak_bytes))
    return single_plan(pool.problem, pool.table.row(row))


def something_fits(problem: PlanningProblem) -> bool:
    """Whether any candidate fits (memory only)."""
    table = enumerate_space(problem).table
    return bool(len(table)) and bool(np.any(fits(problem, peak_bytes(problem, table))))


def remedies_that_work(problem: PlanningProblem) -> Iterator[str]:
    """Changes under which something fits, cheapest first."""
    if problem.max_memory_bytes > 0 and something_fits(replace(problem, max_memory_bytes=0.0)):
        yield "lifting the memory cap"
    if (problem.pins or problem.excludes) and something_fits(replace(problem, pins={}, excludes=())):
        yield "dropping the pins and excludes"
    if "offload" not in problem.allow and something_fits(replace(problem, allow=(*problem.allow, "offload"))):
        yield "optimizer offload (--allow offload)"
    for optimizer in ("adam_bf16", "adam_8bit"):
        lighter = replace(problem, workload=replace(problem.workload, optimizer=optimizer))
        if problem.workload.optimizer == "adam_fp32" and something_fits(lighter):
            yield f"optimizer states of kind {optimizer}"
            break
    nodes = problem.cluster.nodes
    for _ in range(_DOUBLINGS):
        nodes *= 2
        if problem.cluster.max_nodes and nodes > problem.cluster.max_nodes:
            break
        if something_fits(replace(problem, cluster=resized(problem.cluster, nodes))):
            yield f"{nodes} nodes instead of {problem.cluster.nodes}"
            break
    if something_fits(replace(problem, fit_confidence=0.5, max_memory_bytes=problem.max_memory_bytes)):
        yield "accepting even odds of fitting (fit_confidence 0.5)"


def resized(cluster: Cluster, nodes: int) -> Cluster:
    """The same cluster with another number of nodes.

    Inner domains are kept, except that a smaller cluster cuts them; the last tier holds the whole cluster. A cluster
    that fills its inner domain only in part (four trays of an NVL72 rack) is taken at the part's size.

    Raises:
        InvalidProblemError: more nodes than the cluster may have.
    """
    if cluster.max_nodes and nodes > cluster.max_nodes:
        raise InvalidProblemError(f"{cluster.name} has at most {cluster.max_nodes} nodes; {nodes} were asked for.")
    n_gpus = nodes * cluster.gpus_per_node
    inner = tuple(replace(t, domain_gpus=min(t.domain_gpus, n_gpus)) for t in cluster.tiers[:-1])
    return replace(cluster, nodes=nodes, tiers=(*inner, replace(cluster.tiers[-1], domain_gpus=n_gpus)))


def _limited(items: Iterator[str], n: int) -> Iterator[str]:
    for _, item in zip(range(n), items, strict=False):
        yield item


def _worded(remedies: list[str]) -> str:
    if not remedies:
        most = 2**_DOUBLINGS
        return f"nothing that was tried makes it fit (offload, smaller optimizer states, up to {most} times the nodes)"
    return "it would fit with " + " or ".join(remedies)
