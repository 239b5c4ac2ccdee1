"""``meshwright export``: write the launch files of a plan."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import options as o
from .output import note, print_json

if TYPE_CHECKING:
    from ..planner.emitters import LaunchBundle, LaunchOptions


class Wrap(StrEnum):
    """Who starts the processes."""

    TORCHRUN = "torchrun"
    SLURM = "slurm"
    KUBERNETES = "kubernetes"
    SKYPILOT = "skypilot"


def export(
    plan_file: Annotated[
        Path | None, typer.Argument(metavar="PLAN.JSON", help="A file that `meshwright plan -o` wrote.")
    ] = None,
    rank: o.RankOpt = 1,
    to: Annotated[str | None, typer.Option("--to", metavar="NAME", help="Framework; default: the plan's own.")] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", metavar="FOLDER", help="Folder to write into.")] = None,
    wrap: Annotated[Wrap, typer.Option(help="What starts the processes.")] = Wrap.TORCHRUN,
    data_path: Annotated[str, typer.Option(metavar="PATH", help="Training data; default: synthetic.")] = "",
    tokenizer: Annotated[str, typer.Option(metavar="NAME", help="Tokenizer, passed through.")] = "",
    train_iters: Annotated[int, typer.Option(min=1, metavar="N", help="Steps to run.")] = 50,
    partition: Annotated[str, typer.Option(metavar="NAME", help="Slurm partition.")] = "",
    account: Annotated[str, typer.Option(metavar="NAME", help="Slurm account.")] = "",
    time_limit: Annotated[str, typer.Option(metavar="HH:MM:SS", help="Slurm time limit.")] = "",
    container: Annotated[str, typer.Option(metavar="IMAGE", help="Container image of the job.")] = "",
    megatron_dir: Annotated[str, typer.Option(metavar="FOLDER", help="Megatron-LM checkout.")] = "Megatron-LM",
    train_script: Annotated[str, typer.Option(metavar="FILE", help="Your training script (DeepSpeed, FSDP).")] = "",
    show_list: Annotated[bool, typer.Option("--list", help="List the frameworks, and stop.")] = False,
    as_json: o.JsonOpt = False,
    force: o.ForceOpt = False,
) -> None:
    """Write the launch files of a plan: synthetic data unless --data-path says otherwise."""
    from ..hardware_profiles.errors import InvalidProblemError
    from ..planner import emitters

    if show_list:
        _list(as_json)
        return
    if plan_file is None:
        raise InvalidProblemError("export needs a plan.json; `meshwright plan ... -o plan.json` writes one.")
    options = emitters.LaunchOptions(
        wrap=wrap.value,
        data_path=data_path,
        tokenizer=tokenizer,
        train_iters=train_iters,
        partition=partition,
        account=account,
        time_limit=time_limit,
        container_image=container,
        megatron_dir=megatron_dir,
        train_script=train_script,
    )
    bundle = _bundle(plan_file, rank, to, options)
    if out is not None:
        paths = emitters.write_bundle(bundle, out, force=force)
        if as_json:
            print_json({"files": [str(p) for p in paths], "command": bundle.command})
        else:
            print("\n".join(map(str, paths)))
            note(f"next, in {out}: {bundle.command}")
    elif as_json:
        print_json({"files": dict(bundle.files), "command": bundle.command})
    else:
        print("\n".join(f"==> {name} <==\n{text}" for name, text in bundle.files.items()))
        note("nothing was written; --out FOLDER writes these files")


def _bundle(plan_file: Path, rank: int, to: str | None, options: LaunchOptions) -> LaunchBundle:
    """Files of one plan, of either kind of document."""
    from ..planner import emitters
    from ..planner.mixed.plan import MixedPlanSet
    from .plan_file import pick, pick_mixed, read_any

    plans = read_any(plan_file)
    if isinstance(plans, MixedPlanSet):
        return emitters.get_mixed(to or "megatron-lm")(plans, pick_mixed(plans, rank), options)
    framework = plans.problem.framework
    emitter = emitters.get(to or (plans.problem.software.framework if framework == "any" else framework))
    return emitter.emit(plans, pick(plans, rank), options)


def _list(as_json: bool) -> None:
    from ..planner import emitters
    from .table import render

    found = emitters.targets()
    if as_json:
        print_json(
            [{"name": t.name, "versions": t.versions, "plans": list(t.plans), "proof": str(t.proof)} for t in found]
        )
    else:
        rows = [[t.name, t.versions, ", ".join(t.plans), str(t.proof)] for t in found]
        print(render(["name", "releases", "writes plans on", "proof"], rows, left=(0, 1, 2, 3)))
