"""``meshwright explain``: say why a plan stands where it stands, or why another does not."""

from __future__ import annotations

from typing import Annotated

import typer

from . import options as o
from .output import print_json


def explain(
    plan_file: o.PlanFileArg,
    rank: o.RankOpt = 1,
    why_not: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE,..", help="Why is there no such plan before this one? tp=8,pp=4. Repeats."),
    ] = None,
    as_json: o.JsonOpt = False,
) -> None:
    """Say why a plan stands where it stands: its parts, what limits it, and what the others lack."""
    from .anatomy import plan_anatomy, wrap
    from .parse_config import parse_config_values
    from .plan_file import pick, read_plan_set

    plans = read_plan_set(plan_file)
    plan = pick(plans, rank)
    if why_not:
        from ..planner.explain import why_not as ask

        answer = ask(plans, plan, parse_config_values(why_not, "--why-not"))
        if as_json:
            print_json({"rank": plan.rank, "why_not": list(answer)})
        else:
            print("\n".join(line for sentence in answer for line in wrap(sentence, indent=2)))
        return
    from ..planner.explain import explain as ask_reasons

    reasons = ask_reasons(plans, plan)
    if as_json:
        print_json({"rank": plan.rank, "reasons": list(reasons)})
    else:
        print(plan_anatomy(plans, plan))
