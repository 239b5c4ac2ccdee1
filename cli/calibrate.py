"""``meshwright calibrate``: fit the coefficients of framework releases on measured runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import options as o
from .output import note, print_json, progress

if TYPE_CHECKING:
    from ..planner.validate.save_fit import Calibrated


def calibrate(
    files: Annotated[list[Path], typer.Argument(metavar="RUNS.CSV...", help="Tables of measured runs.")],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="FOLDER", help="Write the fitted release profiles here.")
    ] = None,
    eras: Annotated[list[str] | None, typer.Option(metavar="NAME,..", help="Fit only these releases. Repeats.")] = None,
    leave_out: Annotated[
        list[str] | None,
        typer.Option(metavar="SOURCE", help="Never fit runs of this source. Repeats. Default: paper-2205.05198."),
    ] = None,
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="Start from physical defaults, as the shipped profiles are made.")
    ] = False,
    borrow: Annotated[
        bool,
        typer.Option("--borrow", help="With --from-scratch: releases with too few runs take the fit to all runs."),
    ] = False,
    as_json: o.JsonOpt = False,
    force: o.ForceOpt = False,
) -> None:
    """Fit the coefficients of every framework release that has enough runs in the tables, and say how well.

    The errors are those on groups, and on whole sources, of runs left out of the fit. A profile written to a folder is
    used with --software FOLDER/NAME.yaml; the shipped ones stay as they are. Without --from-scratch the shipped
    coefficients are the starting point and few runs move them little.
    """
    from ..hardware_profiles.errors import InvalidProblemError
    from ..planner.validate.evidence import NEVER_FITTED
    from ..planner.validate.save_fit import calibrate_tables, save_fits

    if out is not None and out.exists() and (not out.is_dir() or (any(out.iterdir()) and not force)):
        raise InvalidProblemError(
            f"--out: {out} is not an empty folder; give another one, or --force to write into it."
        )
    wanted = [name.strip() for text in eras or () for name in text.split(",")]
    with progress("predicting and fitting") as report:
        found = calibrate_tables(
            files,
            eras=wanted or None,
            leave_out=NEVER_FITTED if leave_out is None else leave_out,
            from_scratch=from_scratch,
            borrow=borrow,
            report=report,
        )
    if not found.calibration.fits:
        raise InvalidProblemError("no release has enough runs in these tables (four that could be predicted).")
    if as_json:
        print_json(_facts(found))
    else:
        print(_table(found))
    if out is not None:
        for path in save_fits(found, out):
            note(f"wrote {path}")


def _facts(found: Calibrated) -> list[dict[str, object]]:
    return [
        {
            "software": fit.era,
            "rows": fit.n_rows,
            "groups": fit.n_groups,
            "own_fit": fit.own,
            "error_in": _known(fit.error_in),
            "error_group_left_out": _known(found.error_left_out(fit)),
            "error_source_left_out": _known(found.error_left_out(fit, "source")),
            "half_width": found.half_width(fit),
            "at_bound": list(fit.at_bound),
            "coefficients": fit.coefficients,
        }
        for fit in found.calibration.fits
    ]


def _known(value: float) -> float | None:
    return value if value == value else None


def _table(found: Calibrated) -> str:
    from .table import percent, render

    def share(value: float) -> str:
        return percent(value) if value == value else "-"

    rows = [
        [
            f.era,
            str(f.n_rows),
            str(f.n_groups),
            share(f.error_in),
            share(found.error_left_out(f)),
            share(found.error_left_out(f, "source")),
            percent(found.half_width(f)) if f.own else "-",
        ]
        for f in found.calibration.fits
    ]
    header = ["release", "rows", "groups", "fitted", "group left out", "source left out", "90% within"]
    lines = [render(header, rows, left=(0,))]
    for f in found.calibration.fits:
        if f.at_bound and f.own:
            lines.append(f"{f.era} at a bound: {', '.join(f.at_bound)}")
    return "\n".join(lines)
