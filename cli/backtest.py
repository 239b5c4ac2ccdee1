"""``meshwright backtest``: predict published runs and score the predictions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options as o


def backtest(
    files: Annotated[list[Path], typer.Argument(metavar="RUNS.CSV...", help="Tables of measured runs.")],
    rows: Annotated[Path | None, typer.Option(metavar="FILE", help="Write one prediction per row here, as CSV.")] = None,
    held_out: Annotated[str | None, typer.Option(metavar="group|source", help="Refit without each fold.")] = None,
    as_json: o.JsonOpt = False,
    force: o.ForceOpt = False,
) -> None:
    """Predict every run of the tables from its stated configuration, and score the predictions."""
    raise NotImplementedError
