"""Measured runs as evidence for a fit: which rows count, in which group they stand, and how much they weigh."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...hardware_profiles.errors import InvalidProblemError, did_you_mean
from .backtest import BacktestResult, RowResult
from .pricing import PricedRows
from .runs import row_sha256
from .scores import is_duplicate, is_inconsistent, measured

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
#: Sources that no fit sees unless a person asks for it: tests/published scores their printed step times.
NEVER_FITTED = ("paper-2205.05198",)


@dataclass(slots=True)
class CalibrationData:
    """Priced rows as arrays, one entry per row of ``priced.rows``.

    Attributes:
        usable: rows that may be fitted; weight: square root of how many rows each counts for.
        group: source x model x GPU type x scale.
        waiting_share: share of the step in which the device waits for hosts, with the fits' coefficients (0 before).
    """

    priced: PricedRows
    results: list[RowResult]
    measured_step_s: Floats
    usable: Mask
    era: NDArray[Any]
    group: NDArray[Any]
    source: NDArray[Any]
    weight: Floats
    waiting_share: Floats

    def hashes(self, rows: Mask) -> list[str]:
        """Sorted hashes of some rows."""
        return sorted({row_sha256(self.results[i].run.cells) for i in np.flatnonzero(rows)})


def rows_digest(hashes: Sequence[str]) -> str:
    """One hash over the sorted row hashes."""
    return hashlib.sha256("\n".join(sorted(hashes)).encode()).hexdigest()


def group_name(row: RowResult, *, by_layout: bool = False) -> str:
    """Fold of a row: source x model x GPU type x scale (GPU count); by layout whatever differs except batch and source,
    so that repetitions of a run, in logs of their own, stand together.
    """
    p = row.problem
    if p is None:
        return row.run.source
    shape = f"{p.model.n_layers}x{p.model.hidden}"
    what = f"{p.model.family}-{shape}|{p.cluster.gpu.name}|{p.n_gpus}"
    return f"{what}|{p.workload.seq_len}|{row.config}" if by_layout else f"{row.run.source}|{what}"


def calibration_data(
    result: BacktestResult, leave_out: Sequence[str] = (), *, by_layout: bool = False
) -> CalibrationData:
    """Collect what a fit needs from a backtest (priced once; every evaluation only changes coefficients).

    Args:
        leave_out: sources that no fit may see.
        by_layout: every layout is a group of its own, as few runs of one cluster need it: what one of them tells,
            another layout does not tell again.

    Raises:
        InvalidProblemError: nothing was priced, or a source to leave out is not in the tables.
    """
    priced, rows = priced_results(result)
    step = np.array([_step_s(row) for row in rows])
    sources = np.array([row.run.source for row in rows], dtype=object)
    usable = np.isfinite(step) & np.array([_is_evidence(row) for row in rows], dtype=bool)
    usable &= ~np.isin(sources, list(leave_out))
    groups = np.array([group_name(row, by_layout=by_layout) for row in rows], dtype=object)
    weight = group_weights(usable, groups, -0.25)  # residuals are squared: a group of n rows counts as sqrt(n)
    eras = np.array([p.software.name for p in priced.rows], dtype=object)
    _balance_sources(weight, usable, eras, sources, groups)
    return CalibrationData(
        priced=priced,
        results=rows,
        measured_step_s=step,
        usable=usable,
        era=eras,
        group=groups,
        source=sources,
        weight=half_if_searched(weight, priced),
        waiting_share=np.zeros(len(rows)),
    )


def priced_results(result: BacktestResult) -> tuple[PricedRows, list[RowResult]]:
    """What a backtest priced, and the result of each of its rows.

    Raises:
        InvalidProblemError: nothing was priced.
    """
    if result.priced is None:
        raise InvalidProblemError("a fit needs a backtest that priced its rows.")
    by_problem = {id(r.problem): r for r in result.rows if r.problem is not None}
    rows = [by_problem.get(id(p)) or RowResult(p.run, "skipped", problem=p) for p in result.priced.rows]
    return result.priced, rows


def group_weights(usable: Mask, groups: NDArray[Any], power: float) -> Floats:
    """For every usable row the size of its group to a power, zero for the others."""
    weight = np.zeros(len(usable))
    for name in set(groups[usable]):
        mine = usable & (groups == name)
        weight[mine] = mine.sum() ** power
    return weight


def half_if_searched(weight: Floats, priced: PricedRows) -> Floats:
    """Half the weight of rows whose layout or recomputation had to be searched for."""
    searched = np.array([bool({"layout", "recompute"} & set(p.assumed)) for p in priced.rows], dtype=bool)
    return np.where(searched, 0.5 * weight, weight)


def _balance_sources(weight: Floats, usable: Any, eras: Any, sources: Any, groups: Any) -> None:
    """Within an era, g groups of one source count as sqrt(g), so that no table speaks for all; what the era counts
    for in the fit to all rows stays as it was. Changes ``weight``."""
    for era in sorted(set(eras[usable])):
        mine = usable & (eras == era)
        before = float(np.sum(weight[mine] ** 2))
        for source in sorted(set(sources[mine])):
            rows = mine & (sources == source)
            weight[rows] *= len(set(groups[rows])) ** -0.25
        weight[mine] *= math.sqrt(before / float(np.sum(weight[mine] ** 2)))


def check_sources(result: BacktestResult, names: Sequence[str]) -> None:
    """Sources named by a person must be in the tables.

    Raises:
        InvalidProblemError: one is not.
    """
    known = sorted({row.run.source for row in result.rows})
    for name in names:
        if name not in known:
            raise InvalidProblemError(f"--leave-out: no source {name!r} in these tables.{did_you_mean(name, known)}")


def _step_s(row: RowResult) -> float:
    p, tps = row.problem, measured(row, "tps_gpu_effective")
    return p.workload.global_batch * p.workload.seq_len / tps / p.n_gpus if p is not None else math.nan


def _is_evidence(row: RowResult) -> bool:
    """Priced, not contradictory, not another method, not on a machine that had to be guessed."""
    p = row.problem
    if row.status == "skipped" or p is None or is_duplicate(row) or is_inconsistent(row):
        return False
    if p.method not in ("", "baseline"):  # priced, and kept apart: they check the model
        return False
    return not {"method", "hardware"} & set(p.assumed) and row.run.text("outcome") in ("", "ok")
