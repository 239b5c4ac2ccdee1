"""A simulated pipeline as a picture: one bar per pass, one line per stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..costmodels.schedules import PassKind, device_order
from ..hardware_profiles.errors import InvalidProblemError, MissingDependencyError
from ..planner.timeline import Timeline
from .output import check_writable

SUFFIXES = (".svg", ".png", ".pdf")
_COLOURS = {
    PassKind.FORWARD: ("#4477aa", "forward"),
    PassKind.BACKWARD: ("#66ccee", "backward"),
    PassKind.INPUT_GRADIENT: ("#66ccee", "input gradient"),
    PassKind.WEIGHT_GRADIENT: ("#228833", "weight gradient"),
    PassKind.OUTPUT_S: ("#ccbb44", "output S"),
    PassKind.OUTPUT_T: ("#ee6677", "output T"),
    PassKind.OUTPUT_HEAD: ("#ccbb44", "output head"),
    PassKind.INPUT_FORWARD: ("#aa3377", "embedding"),
    PassKind.INPUT_BACKWARD: ("#aa3377", "embedding"),
}


def check_picture(path: Path, *, force: bool) -> None:
    """Raise before the work if the picture could not be drawn or written."""
    if path.suffix not in SUFFIXES:
        raise InvalidProblemError(f"--out: {path} ends in none of {', '.join(SUFFIXES)}.")
    check_writable(path, force=force, flag="--out")
    _figure_class()


def write_picture(result: Timeline, path: Path) -> None:
    """Draw the passes of every stage; the same plan gives the same bytes of SVG."""
    import matplotlib

    run = result.simulation
    figure = _figure_class()(figsize=(12.0, 0.6 + 0.4 * run.schedule.n_devices), layout="constrained")
    axes = figure.add_subplot()
    for kind in sorted(run.schedule.kinds):
        colour, label = _COLOURS[kind]
        for d in range(run.schedule.n_devices):
            bars = [(start, end - start) for k, _, _, start, end in device_order(run, d) if k == kind]
            axes.broken_barh(
                bars, (d - 0.45, 0.9), facecolors=colour, edgecolor="white", linewidth=0.3, label=None if d else label
            )
    axes.set(xlabel="seconds", ylabel="stage", yticks=range(run.schedule.n_devices), xlim=(0.0, run.makespan_s))
    axes.invert_yaxis()
    axes.set_title(
        f"{result.schedule}, {result.n_micro} micro-batches, bubble {run.bubble_fraction:.1%}", fontsize="medium"
    )
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize="small", frameon=False)
    with matplotlib.rc_context({"svg.hashsalt": "meshwright"}):
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _figure_class() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingDependencyError(
            "A picture needs matplotlib: pip install 'meshwright[notebooks]'; without --out the chart is text."
        ) from None
    return Figure
