"""``meshwright calibrate``: fit the coefficients of framework releases on measured runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options as o
from .output import note, print_json, progress


def calibrate(
    files: Annotated[list[Path], typer.Argument(metavar="RUNS.CSV...", help="Tables of measured runs.")],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="FOLDER", help="Write the fitted release profiles here.")
    ] = None,
    as_json: o.JsonOpt = False,
    force: o.ForceOpt = False,
) -> None:
    """Fit the coefficients of every framework release that has enough runs in the tables, and say how well.

    The error is that on groups of runs left out of the fit. A profile written to a folder is used with
    --software FOLDER/NAME.yaml; the shipped ones stay as they are.
    """
    from ..hardware_profiles.errors import InvalidProblemError
    from ..planner.validate.backtest import backtest
    from ..planner.validate.calibrate import calibrate as fit_all
    from ..planner.validate.held_out import error_of, held_out_steps
    from ..planner.validate.save_fit import save_fits
    from .table import percent, render

    if out is not None and out.exists() and (not out.is_dir() or (any(out.iterdir()) and not force)):
        raise InvalidProblemError(
            f"--out: {out} is not an empty folder; give another one, or --force to write into it."
        )
    with progress("predicting and fitting"):
        data, fits = fit_all(backtest(files))
        left_out = held_out_steps(data, fits, "group")
    errors = {fit.era: error_of(data, left_out, fit.era) for fit in fits}
    if as_json:
        facts = [
            {"software": f.era, "rows": f.n_rows, "groups": f.n_groups, "error_in": f.error_in,
             "error_left_out": errors[f.era], "coefficients": f.coefficients}
            for f in fits
        ]  # fmt: skip
        print_json(facts)
    else:
        rows = [
            [f.era, str(f.n_rows), str(f.n_groups), percent(f.error_in), percent(errors[f.era])]
            for f in fits
        ]  # fmt: skip
        print(render(["release", "rows", "groups", "error of the fit", "error on groups left out"], rows, left=(0,)))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        for path in save_fits(data, fits, left_out, out):
            note(f"wrote {path}")
