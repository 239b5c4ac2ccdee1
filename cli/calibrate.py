"""``meshwright calibrate``: fit the coefficients of framework releases on measured runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import options as o
from .fit_report import fit_facts, fit_table
from .output import check_writable, note, print_json, progress, write_text

if TYPE_CHECKING:
    from ..planner.validate.save_fit import Calibrated
    from .own_runs import OwnOptions


def calibrate(
    files: Annotated[
        list[Path], typer.Argument(metavar="RUNS...", help="Tables of measured runs (.csv), or training logs.")
    ],
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="FOLDER|FILE.yaml", help="Write the fitted release profiles here."),
    ] = None,
    cluster: Annotated[
        str | None, typer.Option(metavar="NAME", help="Where the runs were made: a shipped cluster, or a YAML file.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Model of the runs, where they do not say: a name or config.json."),
    ] = None,
    plan: Annotated[
        list[str] | None,
        typer.Option(metavar="PLAN.JSON[:RANK]", help="Plan that a log ran; one for all logs, or one each. Repeats."),
    ] = None,
    software: Annotated[
        str | None, typer.Option(metavar="NAME", help="Framework release of the runs; default: what they say.")
    ] = None,
    seq_len: Annotated[
        int | None, typer.Option(min=1, metavar="TOKENS", help="Tokens of a sequence, where a log does not say.")
    ] = None,
    gpus: Annotated[int | None, typer.Option(min=1, metavar="N", help="GPUs, where a log does not say.")] = None,
    warmup: Annotated[
        int | None, typer.Option(min=0, metavar="LINES", help="Lines of a log to leave out; default: until it settles.")
    ] = None,
    rows: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the runs as read, as one table (CSV).")
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
    """Fit the coefficients of the framework releases that the runs used, and say how well.

    Of runs of your own a few will do: the shipped coefficients are the starting point and hold what the runs do not
    tell. With --cluster the runs need not describe the machine, and may be training logs. The errors are those on
    groups, and on whole sources, of runs left out of the fit. A profile that was written is used with
    --software FILE.yaml; the shipped ones stay as they are.
    """
    _check_out(out, force=force, from_scratch=from_scratch)
    if rows is not None:
        check_writable(rows, force=force, flag="--rows")
    from ..planner.validate.evidence import NEVER_FITTED
    from ..planner.validate.save_fit import only_profile, save_fits
    from .own_runs import OwnOptions

    options = OwnOptions(
        cluster=cluster,
        model=model,
        plans=tuple(plan or ()),
        software=software,
        seq_len=seq_len,
        gpus=gpus,
        warm_up=warmup,
    )
    wanted = [name.strip() for text in eras or () for name in text.split(",")] or None
    away = NEVER_FITTED if leave_out is None else leave_out
    if from_scratch:
        found = _from_scratch(files, options, rows, wanted, away, borrow=borrow)
    else:
        found = _own(files, options, rows, wanted, away, force=force)
    text = only_profile(found) if out is not None and _is_file(out) else ""
    if as_json:
        print_json(fit_facts(found))
    else:
        print(fit_table(found))
    if out is not None and text:
        write_text(out, text, force=force, flag="--out")
        note(f"wrote {out}: use it with --software {out}")
    elif out is not None:
        for path in save_fits(found, out):
            note(f"wrote {path}")


def _is_file(out: Path) -> bool:
    return out.suffix.lower() in (".yaml", ".yml")


def _check_out(out: Path | None, *, force: bool, from_scratch: bool) -> None:
    """Raise before the work if the profiles could not be written afterwards."""
    from ..hardware_profiles.errors import InvalidProblemError

    if out is None:
        return
    if _is_file(out):
        if from_scratch:
            raise InvalidProblemError("--out: --from-scratch writes several files; name a folder.")
        check_writable(out, force=force, flag="--out")
    elif out.exists() and (not out.is_dir() or (any(out.iterdir()) and not force)):
        raise InvalidProblemError(
            f"--out: {out} is not an empty folder; give another one, or --force to write into it."
        )


def _from_scratch(
    files: list[Path],
    options: OwnOptions,
    rows: Path | None,
    eras: list[str] | None,
    away: Sequence[str],
    *,
    borrow: bool,
) -> Calibrated:
    """Every release of some tables from physical defaults."""
    from ..hardware_profiles.errors import InvalidProblemError
    from ..planner.validate.save_fit import calibrate_tables
    from .own_runs import only_tables

    if options.cluster is not None or rows is not None:
        flag = "--cluster" if options.cluster is not None else "--rows"
        raise InvalidProblemError(
            f"{flag} is for runs of your own, which --from-scratch is not; leave one of them out."
        )
    only_tables(files, options)
    with progress("predicting and fitting") as report:
        found = calibrate_tables(files, eras=eras, leave_out=away, borrow=borrow, report=report)
    if not found.calibration.fits:
        raise InvalidProblemError("no release has enough runs in these tables (four that could be predicted).")
    return found


def _own(
    files: list[Path],
    options: OwnOptions,
    rows: Path | None,
    eras: list[str] | None,
    away: Sequence[str],
    *,
    force: bool,
) -> Calibrated:
    """A user's own runs from the shipped coefficients."""
    from ..hardware_profiles.errors import InvalidProblemError
    from ..planner.validate.log_rows import runs_csv
    from ..planner.validate.save_fit import calibrate_runs
    from .own_runs import read_runs_of, report_rows

    runs, site = read_runs_of(files, options)
    if rows is not None:
        write_text(rows, runs_csv(runs), force=force, flag="--rows")
        note(f"wrote {rows}")
    with progress("predicting and fitting") as report:
        found, result = calibrate_runs(runs, site, eras=eras, leave_out=away, report=report)
    why = report_rows(result, aloud=site is not None)
    if not found.calibration.fits:
        raise InvalidProblemError(f"none of the runs can be fitted{f' ({why})' if why else ''}; see docs/calibrate.md.")
    return found
