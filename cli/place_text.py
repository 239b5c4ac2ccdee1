"""What ``meshwright place`` prints: the order, what it buys, how good it is, the worst links."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from ..hardware_profiles.link_matrix import LinkMatrix
from ..planner.emitters.base import LaunchBundle
from ..planner.emitters.placement_files import HostPlacement, mesh_of, placement_bundle
from ..planner.place import HIDDEN_SHARE, Order, PlacedPlan
from ..planner.plan import Plan, PlanSet
from .output import WIDTH
from .table import percent, render


def placement_files(plans: PlanSet, plan: Plan, found: PlacedPlan, cores_per_gpu: int) -> LaunchBundle:
    """Files of the placement that was found."""
    hosts = HostPlacement(
        hosts=found.placed.hosts,
        gpus_per_node=found.gpus_per_node,
        mesh=mesh_of(plan.config),
        gpu_order=found.gpu_order,
    )
    title = f"{plans.problem.model.name}, plan {plan.rank}: hosts in the order that meshwright place found."
    return placement_bundle(hosts, title=title, cores_per_gpu=cores_per_gpu)


def placement_text(plans: PlanSet, plan: Plan, links: LinkMatrix, found: PlacedPlan) -> str:
    """The whole answer as text of at most 100 columns."""
    blocks = [_title(plans, plan, links, found)]
    if found.equal:
        blocks.append(_equal(found))
    blocks += [_hosts(found), _table(found)]
    if not found.equal:
        blocks += [_verdict(found), _worst(found)]
    return "\n\n".join(block for block in blocks if block)


def _title(plans: PlanSet, plan: Plan, links: LinkMatrix, found: PlacedPlan) -> str:
    c = plan.config
    low, high = (rate / (found.gpus_per_node if links.per == "node" else 1) * 8e-9 for rate in links.spread)
    mesh = ", ".join(f"{k} {v}" for k, v in mesh_of(c).items()) + (f", ep {c.ep}" if c.ep > 1 else "")
    text = (
        f"{plans.problem.model.name}, plan {plan.rank} ({mesh}) on {len(found.placed.hosts)} of {len(links.nodes)} "
        f"nodes; links of {low:.4g} to {high:.4g} Gb/s per GPU ({links.source})"
    )
    return textwrap.fill(text, WIDTH)


def _equal(found: PlacedPlan) -> str:
    if not found.placed.by_dimension:
        return "No traffic of this plan leaves a node: the order of hosts does not matter."
    return "All links are equal: the order of hosts does not matter, and the given one is kept."


def _hosts(found: PlacedPlan) -> str:
    lines = [textwrap.fill(f"hosts, node rank 0 first: {' '.join(found.placed.hosts)}", WIDTH, subsequent_indent="  ")]
    if found.left_out:
        lines.append(textwrap.fill(f"left out: {' '.join(found.left_out)}", WIDTH, subsequent_indent="  "))
    return "\n".join(lines)


def _table(found: PlacedPlan) -> str:
    dimensions = list(found.placed.by_dimension)
    header = ["order", *(f"{d} s" for d in dimensions), "critical s", "link-seconds", "step s"]
    named: list[tuple[str, Order | None]] = [
        ("found", found.placed),
        ("by rack", found.racks),
        ("as given", found.given),
    ]
    rows = [
        [name, *(f"{x.by_dimension[d]:.4f}" for d in dimensions), f"{x.critical_s:.4f}", f"{x.sum_s:.3f}",
         f"{x.step_s:.4f}"]
        for name, x in named
        if x is not None
    ]  # fmt: skip
    what = "seconds of a step on links between nodes, on the critical path; the last column is the whole step"
    return render(header, rows, left=(0,)) + "\n" + what


def _verdict(found: PlacedPlan) -> str:
    base, best, r = found.baseline, found.placed, found.result
    name = "rack order" if found.racks else "the given order"
    saved = base.step_s - best.step_s
    if base.critical_s <= 0:
        hidden = (
            "All traffic between nodes hides behind compute, so no step is gained; it is kept on fast links anyway."
        )
        return textwrap.fill(hidden, WIDTH)
    what = "critical seconds" if found.objective == "critical" else "link-seconds"
    text = (
        f"Against {name}: {percent(found.gain)} less time on links, {saved:.4f} s or {percent(saved / base.step_s)} of "
        f"the predicted step. Minimised: {what} with hidden traffic at {HIDDEN_SHARE:.0%}, {r.objective:.4f} s; no "
        f"placement goes below {r.bound:.4f} s ({r.proof}; {r.solver}, {r.work:,} units of work, {r.seconds:.2f} s)."
    )
    return textwrap.fill(text, WIDTH)


def _worst(found: PlacedPlan) -> str:
    rows: list[Sequence[str]] = [
        [w.source, w.target, w.dimension, f"{w.bytes_per_s * 8e-9:.1f}", f"{w.seconds:.4f}"] for w in found.worst
    ]
    header = ["slowest links used", "to", "by", "Gb/s per GPU", "s"]
    return render(header, rows, left=(0, 1, 2)) if rows else ""
