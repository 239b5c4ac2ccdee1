"""``meshwright plan --nodes 1..64``: the best plan of every size, with days and dollars of the whole run."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from typing import Any

from ..hardware_profiles.load import load_cluster
from ..hardware_profiles.types import Cluster
from ..planner.label import config_label
from ..planner.plan import PlanSet
from ..planner.search import plan as search
from ..planner.sizing import Sizing, SizingPoint, sizing
from .output import WIDTH, note, print_json, progress
from .request import Request, build_problem
from .table import percent, render

MOST_SIZES = 64


def sizes_of(span: tuple[int, int]) -> list[int]:
    """Every size of a short range; of a long one the ends and the powers of two between them."""
    low, high = span
    if high - low < MOST_SIZES:
        return list(range(low, high + 1))
    powers = (2**i for i in range(high.bit_length()))
    return sorted({low, high, *(p for p in powers if low < p < high)})


def size_run(request: Request, span: tuple[int, int], *, as_json: bool) -> Sizing:
    """Plan every size, print the answer, and return it."""
    started = time.perf_counter()
    sizes = sizes_of(span)
    if len(sizes) < span[1] - span[0] + 1:
        note(f"--nodes {span[0]}..{span[1]} is long: only its ends and the powers of two between them are planned")
    problem = build_problem(request, nodes=sizes[0])
    with progress("planning sizes") as report:

        def cluster_at(nodes: int) -> Cluster:
            report(sizes.index(nodes), len(sizes))
            return load_cluster(request.cluster, nodes=nodes)

        answer = sizing(problem, sizes, cluster_at=cluster_at)
    line = f"{len(sizes)} sizes; {sum(p.search.enumerated for p in answer.points):,} candidates"
    line += f"; {time.perf_counter() - started:.2f} s"
    if as_json:
        print_json(sizing_facts(answer))
        note(line)
    else:
        print(sizing_table(answer))
        print(line)
    return answer


def plans_of_best(request: Request, answer: Sizing) -> PlanSet:
    """The ranked plans of the preferred size."""
    nodes = answer.points[answer.best].nodes
    return search(replace(answer.problem, cluster=load_cluster(request.cluster, nodes=nodes)))


def sizing_table(answer: Sizing) -> str:
    """One row for every size; the preferred one is marked."""
    with_days, with_price = answer.problem.tokens > 0, answer.problem.price_per_gpu_hour > 0
    header = ["nodes", "GPUs", "plan", "step s", "tokens/s", "MFU", "scaling"]
    header += ["days"] * with_days + ["dollars"] * (with_days and with_price) + ["$/M tokens"] * with_price
    rows = []
    for i, p in enumerate(answer.points):
        mark = "*" if i == answer.best else " "
        if p.plan is None:
            rows.append([f"{p.nodes}{mark}", str(p.gpus), "-", *[""] * (len(header) - 3)])
            continue
        cells = [f"{p.nodes}{mark}", str(p.gpus), config_label(p.plan.config), f"{p.plan.metrics['step_s']:.3g}"]
        cells += [f"{p.tokens_per_s:,.0f}", percent(p.plan.metrics["mfu"]), percent(p.efficiency)]
        cells += [f"{p.days:,.1f}"] * with_days + [f"{p.dollars:,.0f}"] * (with_days and with_price)
        rows.append(cells + [f"{p.dollars_per_million_tokens:.4f}"] * with_price)
    what = {"cost": "cheapest", "memory": "least memory"}.get(answer.problem.objective, "fastest")
    legend = f"* {what}; scaling is tokens/s of a GPU against the smallest size that works"
    lines = render(header, rows, left=(2,)).splitlines()
    for i, p in enumerate(answer.points):
        if p.plan is None:  # the reason takes the place of the figures
            lines[i + 1] = f"{lines[i + 1].rstrip('- ')}  {p.reason}"[:WIDTH]
    return "\n".join([*lines, legend])


def sizing_facts(answer: Sizing) -> dict[str, Any]:
    """The same as plain data."""
    best = answer.points[answer.best]
    return {"kind": "sizing", "best_nodes": best.nodes, "points": [_facts(p) for p in answer.points]}


def _facts(point: SizingPoint) -> dict[str, Any]:
    facts = asdict(point)
    facts.pop("search")
    plan = facts.pop("plan")
    return facts | ({"config": plan["config"], "metrics": plan["metrics"]} if plan else {})
