"""Fitting the few software coefficients of each framework era on measured runs.

Robust (soft-L1) least squares on log(predicted / measured step time) with a weak prior to the physical default;
coefficients stay inside the bounds of ``costmodels.software.COEFFICIENTS``. An era is fitted on all its rows
together, whatever their source or model; rows of one group (source x model x GPU type x scale) share a weight, so
that no table drowns the others. Rows whose layout or recompute had to be searched for weigh half.

The cost model is linearised (log step time by coefficients) a few times on the way to the optimum; leaving rows
out then needs no further call of it, so that every group can be a fold of its own (``held_out.py``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...costmodels.software import COEFFICIENTS
from ...hardware_profiles.errors import InvalidProblemError, MissingDependencyError
from .backtest import BacktestResult, RowResult
from .pricing import PricedRows, software_with
from .scores import is_duplicate, is_inconsistent, measured

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
#: coefficients that memory alone depends on; a fit to step times does not see them.
MEMORY_COEFFICIENTS = ("allocator_slack", "context_bytes")
TIME_COEFFICIENTS = tuple(name for name in COEFFICIENTS if name not in MEMORY_COEFFICIENTS)
#: errors of log(step time) beyond this count linearly.
ROBUST_SCALE = 0.05
#: a quarter of its bounds away from the default, a coefficient costs as much as this many rows off by ROBUST_SCALE.
PRIOR_ROWS = 2.0
#: an era with fewer usable rows keeps the defaults.
MIN_ROWS = 4
_MAX_ITERATIONS = 6
_STEP = 0.02
_FLOORS = ("launch_s", "layer_s")
_SCAN = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(slots=True)
class CalibrationData:
    """Rows that can be fitted, as arrays beside ``PricedRows``."""

    priced: PricedRows
    results: list[RowResult]
    measured_step_s: Floats
    usable: Mask
    era: NDArray[Any]
    group: NDArray[Any]
    source: NDArray[Any]
    weight: Floats


def group_name(row: RowResult) -> str:
    """Fold of a row: source x model x GPU type x scale (GPU count)."""
    p = row.problem
    if p is None:
        return row.run.source
    shape = f"{p.model.n_layers}x{p.model.hidden}"
    return f"{row.run.source}|{p.model.family}-{shape}|{p.cluster.gpu.name}|{p.n_gpus}"


def calibration_data(result: BacktestResult) -> CalibrationData:
    """Collect what a fit needs from a backtest (priced once; every evaluation only changes coefficients)."""
    if result.priced is None:
        raise InvalidProblemError("calibration needs a backtest that priced its rows.")
    by_problem = {id(r.problem): r for r in result.rows if r.problem is not None}
    rows = [by_problem.get(id(p)) or RowResult(p.run, "skipped", problem=p) for p in result.priced.rows]
    step = np.array([_step_s(row) for row in rows])
    usable = np.isfinite(step) & np.array([_is_evidence(row) for row in rows], dtype=bool)
    groups = np.array([group_name(row) for row in rows], dtype=object)
    weight = np.zeros(len(rows))
    for name in set(groups[usable]):
        mine = usable & (groups == name)
        weight[mine] = mine.sum() ** -0.25
    searched = np.array([bool({"layout", "recompute"} & set(r.problem.assumed)) for r in rows if r.problem])
    weight = np.where(searched, 0.5 * weight, weight)
    eras = np.array([p.software.name for p in result.priced.rows], dtype=object)
    sources = np.array([row.run.source for row in rows], dtype=object)
    return CalibrationData(result.priced, rows, step, usable, eras, groups, sources, weight)


def _step_s(row: RowResult) -> float:
    p, tps = row.problem, measured(row, "tps_gpu_effective")
    return p.workload.global_batch * p.workload.seq_len / tps / p.n_gpus if p is not None else math.nan


def _is_evidence(row: RowResult) -> bool:
    """Priced, not contradictory, not another method, not on a machine that had to be guessed."""
    p = row.problem
    if row.status == "skipped" or p is None or is_duplicate(row) or is_inconsistent(row):
        return False
    return not {"method", "hardware"} & set(p.assumed) and row.run.text("outcome") in ("", "ok")


def _least_squares() -> Any:
    try:
        from scipy.optimize import least_squares
    except ImportError:
        raise MissingDependencyError(
            'calibrating needs scipy; install it with: pip install "meshwright[backtest]"'
        ) from None
    return least_squares


@dataclass(slots=True)
class Linear:
    """log(step seconds) of some rows around ``u`` (coefficients as shares of their bounds)."""

    names: tuple[str, ...]
    u: Floats
    log_step: Floats
    jacobian: Floats


class EraModel:
    """One era's rows as a function of its coefficients ``u`` in [0, 1] (shares of their bounds)."""

    def __init__(self, data: CalibrationData, era: str, rows: Mask, names: Sequence[str]) -> None:
        self.data, self.era = data, era
        self.rows = rows & (data.era == era)
        self.names = tuple(names)
        bounds = np.array([COEFFICIENTS[name][:3] for name in self.names])
        self.low, self.span = bounds[:, 1], bounds[:, 2] - bounds[:, 1]
        self.default = (bounds[:, 0] - self.low) / self.span

    def coefficients(self, u: Floats) -> dict[str, float]:
        """Named values, six significant digits."""
        values = self.low + self.span * np.clip(u, 0.0, 1.0)
        return {name: float(f"{v:.6g}") if v > 1e-9 else 0.0 for name, v in zip(self.names, values, strict=True)}

    def log_step(self, u: Floats) -> Floats:
        """log(step seconds) of the era's rows."""
        values = dict(zip(self.names, (self.low + self.span * u).tolist(), strict=True))
        step_s = self.data.priced.reprice(software_with({self.era: values}), self.rows)
        return np.asarray(np.log(step_s[self.rows]))

    def linearised(self, u: Floats) -> Linear:
        """First-order expansion at ``u`` by one-sided differences that stay inside the bounds."""
        base = self.log_step(u)
        columns = []
        for k in range(len(u)):
            shift = -_STEP if u[k] > 0.5 else _STEP
            moved = u.copy()
            moved[k] += shift
            columns.append((self.log_step(moved) - base) / shift)
        return Linear(self.names, u.copy(), base, np.array(columns).T.reshape(len(base), len(u)))

    def cost(self, log_step: Floats, u: Floats, keep: Mask | None = None) -> float:
        """Robust cost (soft L1 in units of ``ROBUST_SCALE``) with the prior."""
        r = self.residuals(log_step, u, keep)
        return float(np.sum(2.0 * (np.sqrt(1.0 + (r / ROBUST_SCALE) ** 2) - 1.0)))

    def residuals(self, log_step: Floats, u: Floats, keep: Mask | None = None) -> Floats:
        """Weighted errors of the rows kept, then the pulls of the prior."""
        data, weight, real = self.data, self.data.weight[self.rows], self.data.measured_step_s[self.rows]
        good = data.usable[self.rows] & (keep if keep is not None else True)
        scale = 1.0 / math.sqrt(float(np.mean(weight[good] ** 2)))
        error = weight[good] * scale * (log_step[good] - np.log(real[good]))
        return np.concatenate([error, math.sqrt(PRIOR_ROWS) * ROBUST_SCALE * (u - self.default) / 0.25])

    def scanned(self, u: Floats, best: float) -> tuple[Floats, float]:
        """The floors, each tried at a few values: where a floor does not bind yet, the cost has no slope in it."""
        for k in (self.names.index(name) for name in _FLOORS if name in self.names):
            for value in _SCAN:
                tried = u.copy()
                tried[k] = value
                cost = self.cost(self.log_step(tried), tried)
                if cost < best:
                    u, best = tried, cost
        return u, best

    def solve(self, linear: Linear, keep: Mask | None = None, reach: float = 1.0) -> Floats:
        """Minimum of the robust cost of the linearised rows, at most ``reach`` away from ``linear.u``."""
        low = np.maximum(linear.u - reach, 0.0)
        high = np.minimum(linear.u + reach, 1.0)
        start = np.clip(linear.u, low + 1e-6, high - 1e-6)

        def errors(u: Floats) -> Floats:
            return self.residuals(linear.log_step + linear.jacobian @ (u - linear.u), u, keep)

        found = _least_squares()(errors, start, bounds=(low, high), loss="soft_l1", f_scale=ROBUST_SCALE)
        return np.asarray(found.x)


@dataclass(slots=True)
class EraFit:
    """Fit of one era.

    Attributes:
        coefficients: by name, only those that move these rows.
        model, linear: for refits without some rows; rows: mask over all priced rows.
        error_in: mean absolute relative error of step time on the rows fitted.
    """

    era: str
    coefficients: dict[str, float]
    model: EraModel
    linear: Linear
    n_rows: int
    n_groups: int
    error_in: float


def active_coefficients(data: CalibrationData, era: str, rows: Mask, names: Sequence[str]) -> list[str]:
    """Coefficients that move a usable row of the era by at least a thousandth between their bounds."""
    mine = rows & (data.era == era) & data.usable
    out = []
    for name in names:
        _, low, high, _ = COEFFICIENTS[name]
        ends = [np.log(data.priced.reprice(software_with({era: {name: v}}), mine)[mine]) for v in (low, high)]
        if np.max(np.abs(ends[0] - ends[1]), initial=0.0) > 1e-3:
            out.append(name)
    return out


def fit_era(
    data: CalibrationData, era: str, names: Sequence[str] = TIME_COEFFICIENTS, rows: Mask | None = None
) -> EraFit | None:
    """Fit one era on its usable rows; ``None`` where there are fewer than ``MIN_ROWS``."""
    rows = np.ones(len(data.era), dtype=bool) if rows is None else rows
    mine = rows & (data.era == era) & data.usable
    if mine.sum() < MIN_ROWS:
        return None
    model = EraModel(data, era, rows & data.usable, active_coefficients(data, era, rows, names))
    reach, start = 0.5, model.default.copy()
    u, best = model.scanned(start, model.cost(model.log_step(start), start))
    linear = model.linearised(u)
    for _ in range(_MAX_ITERATIONS):
        proposal = model.solve(linear, reach=reach)
        cost = model.cost(model.log_step(proposal), proposal)
        if cost >= best - 1e-3 * abs(best):
            if cost < best:
                linear, best = model.linearised(proposal), cost
            reach /= 3.0
            if reach < 0.05:
                break
            continue
        linear, best = model.linearised(proposal), cost
    error = np.abs(data.measured_step_s[model.rows] / np.exp(linear.log_step) - 1.0)
    return EraFit(
        era=era,
        coefficients=model.coefficients(linear.u),
        model=model,
        linear=linear,
        n_rows=int(mine.sum()),
        n_groups=len(set(data.group[mine])),
        error_in=float(np.mean(error)),
    )


def calibrate(
    result: BacktestResult,
    eras: Sequence[str] | None = None,
    names: Sequence[str] = TIME_COEFFICIENTS,
    *,
    report: Callable[[str], None] | None = None,
) -> tuple[CalibrationData, list[EraFit]]:
    """Fit every era that has enough usable rows."""
    data = calibration_data(result)
    fits = []
    for era in eras or sorted(set(data.era[data.usable])):
        fit = fit_era(data, era, names)
        if fit is not None:
            fits.append(fit)
            if report:
                report(f"{era}: {fit.n_rows} rows in {fit.n_groups} groups, error {fit.error_in:.3f}")
    return data, fits
