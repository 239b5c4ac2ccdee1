"""``meshwright check``: predict an existing Megatron-LM launch, and name better neighbours."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from . import options as o
from .output import print_json, progress

#: Where the script does not say what it runs on and the user does not either; said in the answer.
ASSUMED_CLUSTER = "dgx-h100"


def check(
    script: Annotated[Path, typer.Argument(metavar="RUN.SH", help="A Megatron-LM launch script (Slurm too).")],
    cluster: Annotated[
        str | None, typer.Option(metavar="NAME", help=f"Where it runs; {ASSUMED_CLUSTER} is assumed otherwise.")
    ] = None,
    nodes: Annotated[int | None, typer.Option(min=1, metavar="N", help="Hosts; default: what the script says.")] = None,
    gpus: o.GpusOpt = None,
    software: o.SoftwareOpt = None,
    max_memory: o.MaxMemoryOpt = None,
    as_json: o.JsonOpt = False,
) -> None:
    """Predict an existing Megatron-LM launch: its speed, whether it fits, and which neighbours are better.

    The script is read, not run. What could not be read or had to be assumed is said.
    """
    from ..hardware_profiles.errors import InvalidProblemError, NoFeasiblePlanError
    from ..planner.explain import explain
    from ..planner.launch_reader import read_megatron_launch
    from ..planner.search import estimate_plan
    from ..planner.search import plan as search
    from .check_text import check_facts, check_text
    from .request import problem_of_launch

    if nodes is not None and gpus is not None:
        raise InvalidProblemError("--nodes and --gpus both size the cluster; give one of them.")
    launch = read_megatron_launch(script, env={"NNODES": str(nodes)} if nodes is not None else None)
    notes = list(launch.notes)
    if cluster is None:
        notes.insert(0, f"the script does not say on which GPUs it runs: {ASSUMED_CLUSTER} is assumed, see --cluster.")
    problem, config = problem_of_launch(
        launch, cluster or ASSUMED_CLUSTER, nodes=nodes, gpus=gpus, software=software, max_memory=max_memory
    )
    answer = estimate_plan(problem, config, launch.stage_layout)
    neighbours = [n for n in explain(answer, 1).neighbours if n.fits and n.step_change < 0.0]
    neighbours.sort(key=lambda n: n.step_change)
    try:
        with progress("pricing every plan"):
            best = search(problem).plans[0]
    except NoFeasiblePlanError as error:
        best = None
        notes.append(str(error))
    if as_json:
        print_json(check_facts(answer, notes, [asdict(n) for n in neighbours], best))
    else:
        print(check_text(answer, notes, [n.sentence for n in neighbours], best))
