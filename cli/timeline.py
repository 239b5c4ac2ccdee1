"""``meshwright timeline``: simulate the pipeline of a ranked plan and draw it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options as o
from .output import print_json


def timeline(
    plan_file: o.PlanFileArg,
    rank: o.RankOpt = 1,
    schedule: Annotated[
        str | None, typer.Option(metavar="NAME", help="Such as gpipe, zb-h1, dualpipe or vocab-2; else its own.")
    ] = None,
    micro_batches: Annotated[int | None, typer.Option(min=1, metavar="N", help="Instead of the plan's own.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE.svg", help="Draw a picture: .svg, .png or .pdf.")
    ] = None,
    as_json: o.JsonOpt = False,
    force: o.ForceOpt = False,
) -> None:
    """Simulate the pipeline of a plan pass by pass: makespan, bubble and activations of every stage."""
    from ..planner.timeline import timeline as simulate_plan
    from .plan_file import pick, read_plan_set
    from .timeline_picture import check_picture, write_picture
    from .timeline_text import timeline_json, timeline_text

    plans = read_plan_set(plan_file)
    if out is not None:
        check_picture(out, force=force)
    result = simulate_plan(plans.problem, pick(plans, rank), schedule=schedule, n_micro=micro_batches)
    if out is not None:
        write_picture(result, out)
    if as_json:
        print_json(timeline_json(result))
        return
    print(timeline_text(result))
    if out is not None:
        print(f"\nwritten: {out}")
