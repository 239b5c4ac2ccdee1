"""``meshwright stages``: cut a measured model into pipeline stages."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Annotated, Any

import typer

from ..costmodels.layer_profile import LayerProfile
from ..hardware_profiles.errors import InvalidProblemError, NoFeasiblePlanError
from ..planner.layer_profiles.read import read_profile
from . import options as o
from .output import WIDTH, print_json
from .parse import parse_memory
from .table import render

UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}


def stages(
    profile: Annotated[Path, typer.Argument(metavar="PROFILE", help="CSV, YAML, Piper's JSON, or Metis' folder.")],
    memory: Annotated[str, typer.Option(metavar="SIZE", help="Memory of a device: 40GiB.")],
    micro_batches: Annotated[int, typer.Option(min=1, metavar="M", help="Micro-batches of a batch.")],
    pp: Annotated[int | None, typer.Option(min=1, metavar="P", help="So many stages, for the shortest step.")] = None,
    devices: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Or: stages with tp and dp of their own, on N devices.")
    ] = None,
    bandwidth: Annotated[
        str | None, typer.Option(metavar="SIZE", help="With --devices: bytes per second of a device, 25GB.")
    ] = None,
    tp: Annotated[int | None, typer.Option(min=1, help="With --pp: tensor-parallel degree to take; default 1.")] = None,
    micro_batch_size: Annotated[int, typer.Option(min=1, metavar="B", help="Samples of a micro-batch.")] = 1,
    device: Annotated[str | None, typer.Option(metavar="NAME", help="Device, where the profile has several.")] = None,
    memory_profile: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Galvatron's memory file; PROFILE is its computation file.")
    ] = None,
    layers: Annotated[int | None, typer.Option(min=1, metavar="N", help="With --memory-profile: layers.")] = None,
    seq_len: Annotated[int | None, typer.Option(min=1, metavar="S", help="With --memory-profile.")] = None,
    time_unit: Annotated[str, typer.Option(metavar="UNIT", help="Of a Piper file: s, ms or us.")] = "s",
    solver: Annotated[str | None, typer.Option(metavar="NAME", help="Own kernel by default, or highs, cbc ...")] = None,
    json_output: o.JsonOpt = False,
) -> None:
    """Cut a profiled model into pipeline stages, with a proof of how good the cut is.

    --pp P: P stages of equal devices, least time of a step.
    --devices N: Piper's problem, each stage with tensor and data parallelism of its own, least load.
    """
    if time_unit not in UNITS:
        raise InvalidProblemError(f"--time-unit: '{time_unit}' must be one of {', '.join(UNITS)}.")
    if (pp is None) == (devices is None):
        raise InvalidProblemError("Give either --pp (a number of stages) or --devices (stages of their own degrees).")
    if pp is not None and bandwidth is not None:
        raise InvalidProblemError("--bandwidth goes with --devices; with --pp traffic between stages is left out.")
    if devices is not None and tp is not None:
        raise InvalidProblemError("--tp goes with --pp; with --devices every stage chooses its own.")
    found = read_profile(profile, memory=memory_profile, layers=layers, seq=seq_len, seconds_per_unit=UNITS[time_unit])
    room = parse_memory(memory, "--memory", device_bytes=0.0)
    name = _device(found, device)
    if pp is not None:
        facts = _pipeline(found, (name, tp or 1, micro_batch_size), pp, micro_batches, room, solver)
    else:
        assert devices is not None
        if bandwidth is None:
            raise InvalidProblemError(
                "--devices needs --bandwidth, bytes per second from a device to the outside: 25GB."
            )
        rate = parse_memory(bandwidth, "--bandwidth", device_bytes=0.0)
        facts = _chain(found, (name, micro_batch_size), devices, micro_batches, (room, rate), solver)
    facts["assumptions"] = list(found.assumptions)
    print_json(facts) if json_output else print(_text(facts))


def _device(profile: LayerProfile, device: str | None) -> str:
    names = sorted({d for d, _, _ in profile.settings})
    if device is None and len(names) == 1:
        return names[0]
    if device is None or device not in names:
        raise InvalidProblemError(
            f"--device: the profile has {', '.join(names) or 'no setting of all layers'}; name one."
        )
    return device


def _pipeline(
    profile: LayerProfile, setting: tuple[str, int, int], pp: int, micro_batches: int, room: float, solver: str | None
) -> dict[str, Any]:
    from ..planner.label import gigabytes
    from ..planner.profiled_partition import cut, least_memory_bytes
    from ..planner.solvers.result import Termination

    answer = cut(profile, setting, pp, micro_batches, room, solver=solver or "dp")
    if not answer.stages and answer.found.termination == Termination.INFEASIBLE:
        least = least_memory_bytes(profile, setting, pp, micro_batches)
        raise NoFeasiblePlanError(
            f"No cut into {pp} stages fits {gigabytes(room)}; one fits {gigabytes(least)}: give more --memory or --pp."
        )
    if not answer.stages:
        raise NoFeasiblePlanError(
            f"{answer.found.solver} found no cut into {pp} stages ({answer.found.proof}); choose another --solver."
        )
    rows = [
        _row(profile, s.layers, setting[1], 1, s.variants, (s.load_s, s.in_flight, s.memory_bytes))
        for s in answer.stages
    ]
    return _facts("step_s", answer.step_s, answer.bound_s, answer.found, rows)


def _chain(
    profile: LayerProfile,
    kind: tuple[str, int],
    devices: int,
    micro_batches: int,
    limits: tuple[float, float],
    solver: str | None,
) -> dict[str, Any]:
    from ..planner.solvers.base import choose
    from ..planner.solvers.chain_linear import solvers
    from ..planner.solvers.chain_problem import ChainProblem, price

    problem = ChainProblem(
        profile=profile,
        devices=devices,
        memory_bytes=limits[0],
        bandwidth_bytes_per_s=limits[1],
        micro_batches=micro_batches,
        device=kind[0],
        micro_batch_size=kind[1],
    )
    found = choose(solvers(), solver or "downsets").solve(problem)
    if found.value is None:
        raise NoFeasiblePlanError(f"No chain of stages fits on {devices} devices; {found.proof}. Give more --memory.")
    rows = []
    for stage, cost in zip(found.value, price(problem, found.value), strict=True):
        variants = tuple(
            problem.runs[stage.tp][n][v].variant for n, v in zip(stage.layers, stage.variants, strict=True)
        )
        sums = (cost.load_s, cost.in_flight, cost.memory_bytes)
        rows.append(_row(profile, stage.layers, stage.tp, stage.dp, variants, sums))
    return _facts("largest_load_s", found.objective, found.bound, found, rows)


def _row(
    profile: LayerProfile,
    layers: tuple[int, ...],
    tp: int,
    dp: int,
    variants: tuple[str, ...],
    sums: tuple[float, int, float],
) -> dict[str, Any]:
    load_s, in_flight, memory_bytes = sums
    return {
        "layers": [profile.layers[i].name for i in layers],
        "positions": list(layers),
        "tp": tp,
        "dp": dp,
        "variants": list(variants),
        "load_s": load_s,
        "in_flight": in_flight,
        "memory_bytes": memory_bytes,
    }


def _facts(what: str, value: float, bound: float, found: Any, rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "kind": "stages",
        "objective": what,
        what: value,
        "bound_s": bound,
        "solver": found.report(),
        "stages": rows,
    }


def _text(facts: dict[str, Any]) -> str:
    header = ["stage", "layers", "tp", "dp", "variants", "load ms", "in flight", "GiB"]
    rows = []
    for number, stage in enumerate(facts["stages"], start=1):
        at = stage["positions"]
        span = f"{at[0]}-{at[-1]}" if at == list(range(at[0], at[-1] + 1)) and len(at) > 1 else ",".join(map(str, at))
        kinds = sorted(set(stage["variants"]))
        counts = ", ".join(f"{stage['variants'].count(kind)} {kind}" for kind in kinds)
        cells = [str(number), span, str(stage["tp"]), str(stage["dp"]), counts, f"{1e3 * stage['load_s']:.4g}"]
        rows.append([*cells, str(stage["in_flight"]), f"{stage['memory_bytes'] / 2**30:.2f}"])
    what = facts["objective"]
    words = {"step_s": "step", "largest_load_s": "largest load per micro-batch"}[what]
    lines = [render(header, rows, left=(1, 4)), ""]
    lines.append(
        f"{words}: {facts[what]:.6g} s, no less than {facts['bound_s']:.6g} s; {facts['solver']['termination']}"
    )
    for sentence in facts["assumptions"]:
        lines += textwrap.wrap(f"taken as given: {sentence}", WIDTH, subsequent_indent="  ")
    return "\n".join(lines)
