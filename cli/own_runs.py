"""What ``calibrate`` takes besides files: the cluster of the runs, and what their logs do not say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..costmodels.load_model import load_model
from ..costmodels.load_software import Era, load_era
from ..hardware_profiles.errors import InvalidProblemError
from ..hardware_profiles.names import is_yaml_path
from ..planner.validate.log_rows import LogOptions
from ..planner.validate.own_runs import OwnRuns, is_table, read_own_runs
from ..planner.validate.runs import read_runs
from .output import note
from .plan_file import parse_plan_name, pick, read_plan_set

if TYPE_CHECKING:
    from ..planner.validate.backtest import BacktestResult
    from ..planner.validate.runs import Run
    from ..planner.validate.site import Site


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnOptions:
    """Flags that describe a user's own runs, as typed."""

    cluster: str | None = None
    model: str | None = None
    plans: Sequence[str] = ()
    software: str | None = None
    seq_len: int | None = None
    gpus: int | None = None
    warm_up: int | None = None


def read_runs_of(files: Sequence[Path], options: OwnOptions) -> tuple[list[Run], Site | None]:
    """Rows of the files, placed on the cluster where one is named.

    Raises:
        InvalidProblemError: a log without a cluster, a flag that goes with one only, or anything wrong in a file.
    """
    if options.cluster is None:
        only_tables(files, options)
        return [run for path in files for run in read_runs(path)], None
    model = load_model(options.model) if options.model is not None else None
    shared = LogOptions(model=model, seq_len=options.seq_len, n_gpus=options.gpus, warm_up=options.warm_up)
    found: OwnRuns = read_own_runs(
        files, options.cluster, logs=_plans(options, shared), model=model, era=_era(options.software)
    )
    for sentence in found.notes:
        note(sentence)
    return found.runs, found.site


def only_tables(files: Sequence[Path], options: OwnOptions) -> None:
    """Without a cluster the files must be tables that describe their machine, and no flag may speak of one.

    Raises:
        InvalidProblemError: they are not, or one does.
    """
    given = {
        "--model": options.model, "--plan": options.plans, "--software": options.software, "--seq-len": options.seq_len,
        "--gpus": options.gpus, "--warmup": options.warm_up,
    }  # fmt: skip
    for flag, value in given.items():
        if value not in (None, ()):
            raise InvalidProblemError(f"{flag} goes with --cluster, on which your own runs were made.")
    for path in files:
        if not is_table(path):
            raise InvalidProblemError(f"{path} is no table (.csv) but a log; say on which cluster it ran: --cluster.")


def _plans(options: OwnOptions, shared: LogOptions) -> list[LogOptions]:
    from dataclasses import replace

    out = []
    for text in options.plans:
        path, rank = parse_plan_name(text)
        plans = read_plan_set(path)
        plan = pick(plans, rank, "--plan")
        if plan.stage_layout is not None:
            note(f"--plan {text}: a table of runs has no column for layers dealt one by one; even stages are priced.")
        out.append(replace(shared, plan=(plans, plan), plan_name=text))
    return out or [shared]


def _era(name: str | None) -> Era | None:
    if name is None:
        return None
    if is_yaml_path(name):
        raise InvalidProblemError(
            f"--software {name}: name a release that ships; its coefficients are where a calibration starts, so give "
            "all your runs at once."
        )
    return load_era(name)


def report_rows(result: BacktestResult, *, aloud: bool) -> str:
    """The first reason why a row was left out; ``aloud`` says all of them, and what was assumed, on stderr."""
    first = ""
    for row in result.rows:
        why = row.reason if row.status == "skipped" else ""
        if not why and not row.run.text("tps_gpu_effective"):
            why = "it states neither tps_gpu_effective nor step_time_s"
        if why:
            first = first or f"{row.run.place}: {why}"
            sentence = f"{row.run.place} is left out: {why}."
        else:
            sentence = f"{row.run.place} assumed: {row.reason}." if row.reason else ""
        if aloud and sentence:
            note(sentence)
    return first
