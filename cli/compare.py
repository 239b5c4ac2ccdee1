"""``meshwright compare``: put two plans side by side, part by part."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from . import options as o
from .output import print_json

PlanName = Annotated[str, typer.Argument(metavar="PLAN.JSON[:RANK]", help="A plan of a plan.json; rank 1 by default.")]


def compare(first: PlanName, second: PlanName, as_json: o.JsonOpt = False) -> None:
    """Put two plans side by side, part by part; they may come from different files."""
    from ..planner.compare import compare as put_beside
    from .anatomy import comparison_text
    from .plan_file import parse_plan_name, pick, read_plan_set

    names = [parse_plan_name(text) for text in (first, second)]
    a, b = (pick(read_plan_set(path), rank, text) for text, (path, rank) in zip((first, second), names, strict=True))
    result = put_beside(a, b)
    if as_json:
        print_json(asdict(result))
    else:
        same_file = names[0][0] == names[1][0]
        labels = [f"rank {rank}" if same_file else str(path)[-20:] + f":{rank}" for path, rank in names]
        print(comparison_text(labels[0], labels[1], result))
