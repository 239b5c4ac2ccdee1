"""``meshwright backtest``: predict published runs and score the predictions."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from . import options as o
from .output import check_writable, note, progress, write_text


class Fold(StrEnum):
    """What is left out together when the coefficients are refitted."""

    GROUP = "group"
    SOURCE = "source"


def backtest(
    files: Annotated[list[Path], typer.Argument(metavar="RUNS.CSV...", help="Tables of measured runs.")],
    rows: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a prediction for every row, as CSV.")] = None,
    held_out: Annotated[Fold | None, typer.Option(help="Refit the coefficients without each fold (slow).")] = None,
    as_json: o.JsonOpt = False,
    force: o.ForceOpt = False,
) -> None:
    """Predict every run of the tables from its stated configuration, and score the predictions.

    A row's result is never looked at to predict it. Cells that a source leaves empty are assumed, and the row says so.
    """
    if rows is not None:
        check_writable(rows, force=force, flag="--rows")
    from ..planner.validate.backtest import backtest as predict
    from ..planner.validate.backtest import rows_csv
    from ..planner.validate.report import json_report, text_report
    from ..planner.validate.scores import score_rows

    with progress("predicting runs"):
        result = predict(files)
    if held_out is not None:
        from ..planner.validate.calibrate import calibrate
        from ..planner.validate.evidence import NEVER_FITTED
        from ..planner.validate.held_out import predict_held_out

        with progress(f"refitting without each {held_out.value}") as report:
            fits = calibrate(result, leave_out=NEVER_FITTED, report=report)
            result = predict_held_out(result, fits, held_out.value)
    if rows is not None:
        write_text(rows, rows_csv(result), force=force, flag="--rows")
        note(f"wrote {rows}")
        if not as_json:
            return
    table = score_rows(result.rows)
    print(json_report(table) if as_json else text_report(table), end="")
