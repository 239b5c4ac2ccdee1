"""``meshwright explain``: say why a plan stands where it stands, or why another does not."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from . import options as o
from .output import print_json


def explain(
    plan_file: o.PlanFileArg,
    rank: o.RankOpt = 1,
    why_not: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE,..", help="Why is there no better plan with these? tp=8,pp=4. Repeats."),
    ] = None,
    as_json: o.JsonOpt = False,
) -> None:
    """Say why a plan stands where it stands: its parts, what bounds it, what each neighbour would cost.

    --why-not repeats the search with these values pinned and says what became of it.
    """
    from ..planner.explain import explain as take_apart
    from ..planner.explain import why_not as ask
    from .anatomy import explanation_text, wrap
    from .parse_config import parse_config_values
    from .plan_file import pick, read_plan_set

    plans = read_plan_set(plan_file)
    plan = pick(plans, rank)
    wanted = [parse_config_values([text], "--why-not") for text in why_not or ()]
    explanation = take_apart(plans, rank)
    answers = [ask(plans, values) for values in wanted]
    if as_json:
        print_json({**asdict(explanation), "why_not": [asdict(a) for a in answers]})
        return
    print(explanation_text(plans, plan, explanation))
    for text, answer in zip(why_not or (), answers, strict=True):
        print()
        print("\n".join(wrap(f"why not {text}: {answer.sentence}", indent=2)))
