"""The answer of ``meshwright check`` as text and as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ..planner.compare import compare
from ..planner.plan import Plan, PlanSet
from .anatomy import plan_anatomy, wrap


def verdict(p_fit: float) -> str:
    """Whether it fits, in words, from the probability that it does."""
    words = ((0.95, "it fits"), (0.5, "it probably fits"), (0.05, "it probably runs out of memory"))
    return next((text for least, text in words if p_fit >= least), "it runs out of memory")


def check_text(answer: PlanSet, notes: Sequence[str], neighbours: Sequence[str], best: Plan | None) -> str:
    """The launch in full, whether it fits, and what would be faster."""
    plan = answer.plans[0]
    lines = [plan_anatomy(answer, plan), "", f"memory: {verdict(plan.metrics['p_fit'])}"]
    lines += ["", "faster with one value changed:" if neighbours else "no single change makes it faster and fits"]
    lines += [line for text in neighbours for line in wrap(f"- {text}", indent=2)]
    if best is not None and best.config != plan.config:
        lines += ["", *wrap(f"best of all plans: {compare(plan, best).sentence}", indent=2)]
    elif best is not None:
        lines += ["", "no other plan is better"]
    if notes:
        lines += ["", "notes:", *(line for text in notes for line in wrap(f"- {text}", indent=2))]
    return "\n".join(lines)


def check_facts(
    answer: PlanSet, notes: Sequence[str], neighbours: Sequence[dict[str, Any]], best: Plan | None
) -> dict[str, Any]:
    """The same as plain data."""
    plan = answer.plans[0]
    return {
        "kind": "check",
        "verdict": verdict(plan.metrics["p_fit"]),
        "plan": asdict(plan),
        "neighbours": list(neighbours),
        "best": asdict(best) if best is not None else None,
        "notes": list(notes),
    }
