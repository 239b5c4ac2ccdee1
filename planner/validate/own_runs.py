"""A user's own runs: tables and logs of one cluster, read into rows that one calibration takes together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ...costmodels.load_software import Era
from ...costmodels.model_spec import ModelSpec
from ...hardware_profiles.errors import InvalidProblemError
from ...hardware_profiles.load import list_gpus, resolve_gpu
from ...hardware_profiles.names import is_yaml_path
from .log_rows import LogOptions, row_of_log
from .runs import REQUIRED_OWN, Run, read_runs
from .site import ANY_FILE, Site, load_site, placed


@dataclass(slots=True)
class OwnRuns:
    """Rows in the order of the files, where they were run, and sentences about what the logs said."""

    runs: list[Run]
    site: Site
    notes: list[str]


def is_table(path: str | Path) -> bool:
    """A table of runs by its name, or by its first line; anything else is taken for a log."""
    if Path(path).suffix.lower() == ".csv":
        return True
    try:
        with Path(path).open(encoding="utf-8-sig", errors="replace") as file:
            header = file.readline(4096)
    except OSError as error:
        raise InvalidProblemError(f"{path} cannot be read: {error.strerror or error}.") from None
    return all(name in header.split(",") for name in REQUIRED_OWN)


def _with_clear_gpu(run: Run, site: Site) -> Run:
    """The row of a log without the driver's name of the GPU, where that could be several or the cluster's is its own
    kind; a clear name is kept, to be held against the cluster.
    """
    name = run.text("gpu")
    try:
        clear = not name or (resolve_gpu(name) in list_gpus() and site.base.gpu.name in list_gpus())
    except InvalidProblemError:
        clear = False
    return run if clear else replace(run, cells={**run.cells, "gpu": ""})


def read_own_runs(
    files: Sequence[Path],
    cluster: str,
    *,
    logs: Sequence[LogOptions],
    model: ModelSpec | None = None,
    era: Era | None = None,
) -> OwnRuns:
    """Read and place every run.

    Args:
        cluster: shipped name or YAML file, as ``meshwright plan --cluster`` takes it.
        logs: for each log among the files in their order; one serves for all.
        model: of every row that names no other; era: of every row.

    Raises:
        InvalidProblemError: a file cannot be read, a row contradicts the cluster, or the number of ``logs`` is another.
    """
    models = {} if model is None else {ANY_FILE: model}
    site = load_site(cluster, era=era)
    usual = site.base.n_gpus if is_yaml_path(cluster) else None
    tables = {path: is_table(path) for path in files}
    n_logs = sum(not table for table in tables.values())
    if len(logs) not in (1, n_logs):
        raise InvalidProblemError(
            f"--plan is given {len(logs)} times for {n_logs} logs; give one for all, or one for each in their order."
        )
    runs: list[Run] = []
    notes: list[str] = []
    number = 0
    for path, table in tables.items():
        if table:
            runs += read_runs(path, REQUIRED_OWN)
            continue
        options = logs[number if len(logs) > 1 else 0]
        row = row_of_log(path, replace(options, usual_gpus=usual))
        number += 1
        runs.append(row.run)
        row.run = _with_clear_gpu(row.run, site)
        notes += row.notes
        if row.model is not None:
            models[row.run.file] = row.model
    site = replace(site, models=models)
    return OwnRuns([placed(run, site) for run in runs], site, notes)
