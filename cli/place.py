"""``meshwright place``: put a plan's ranks on the hosts whose links suit them."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from . import options as o
from .output import check_writable, note, print_json


class PlacementSolver(StrEnum):
    """What searches."""

    ANNEALING = "annealing"
    CPSAT = "cpsat"
    HIGHS = "highs"
    CBC = "cbc"


class PlacementObjective(StrEnum):
    """What is minimised."""

    CRITICAL = "critical"
    SUM = "sum"


def place(
    plan_file: o.PlanFileArg,
    links: Annotated[
        Path, typer.Option(metavar="FILE", help="Links: CSV, YAML, mpiGraph output, or a folder of nccl-tests logs.")
    ],
    rank: o.RankOpt = 1,
    solver: Annotated[PlacementSolver, typer.Option(help="What searches.")] = PlacementSolver.ANNEALING,
    objective: Annotated[
        PlacementObjective, typer.Option(help="Seconds on the critical path, or link-seconds in all.")
    ] = PlacementObjective.CRITICAL,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Seed of the search.")] = 0,
    work: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Limit of work (moves priced); default: by size.")
    ] = None,
    time_limit: Annotated[
        float | None, typer.Option(min=0.001, metavar="SECONDS", help="Limit of wall time; not reproducible.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="FOLDER", help="Write host files, rank file and mesh here.")
    ] = None,
    cores_per_gpu: Annotated[int, typer.Option(min=1, metavar="N", help="Cores a rank is bound to (rankfile).")] = 1,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Picture of the links before and after (png, svg, pdf).")
    ] = None,
    force: o.ForceOpt = False,
    as_json: o.JsonOpt = False,
) -> None:
    """Choose which host runs which ranks on unequal links, and say what that buys against the order of racks."""
    from ..hardware_profiles.link_readers import read_links
    from ..planner.emitters.base import write_bundle
    from ..planner.place import place as find
    from ..planner.solvers.result import Limits
    from .place_text import placement_files, placement_text
    from .plan_file import pick, read_plan_set

    if plot is not None:
        check_writable(plot, force=force, flag="--plot")
    matrix = read_links(links)
    plans = read_plan_set(plan_file)
    plan = pick(plans, rank)
    limits = Limits(work=work, time_s=time_limit)
    found = find(plans.problem, plan, matrix, limits, seed, solver=solver.value, objective=objective.value)
    bundle = placement_files(plans, plan, found, cores_per_gpu)
    if plot is not None:
        from .place_plot import save_picture

        save_picture(matrix, found, plot)
    paths = write_bundle(bundle, out, force=force) if out is not None else ()
    if as_json:
        files = [str(p) for p in (*paths, *([plot] if plot else []))]
        print_json({"plan_rank": plan.rank, **found.report(), "files": files})
        return
    print(placement_text(plans, plan, matrix, found))
    if paths:
        print("\n".join(map(str, paths)))
        note(f"next, in {out}: {bundle.command} TRAINING_SCRIPT")
