"""``meshwright compare``: put two plans side by side, part by part."""

from __future__ import annotations

from typing import Annotated

import typer

from . import options as o
from .output import print_json

PlanName = Annotated[str, typer.Argument(metavar="PLAN.JSON[:RANK]", help="A plan of a plan.json; rank 1 by default.")]


def compare(first: PlanName, second: PlanName, as_json: o.JsonOpt = False) -> None:
    """Put two plans side by side, part by part."""
    from ..planner.compare import compare_plans
    from .anatomy import comparison
    from .plan_file import parse_plan_name, pick, read_plan_set

    chosen = []
    for text in (first, second):
        path, rank = parse_plan_name(text)
        plans = read_plan_set(path)
        chosen.append((plans, pick(plans, rank, text)))
    (set_a, a), (set_b, b) = chosen
    result = compare_plans(set_a, a, set_b, b)
    if as_json:
        print_json(result)
    else:
        print(comparison(first, second, result))
