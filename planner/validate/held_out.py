"""Predictions of runs by coefficients that never saw them: leave one group, or one source, out.

A group is source x model x GPU type x scale. For each fold both levels of the fit (all rows, era) are fitted
again on the other rows, on the cost model linearised at the full fit (and, for sources, twice more at the new
point); the left-out rows are then priced by the real cost model. Which candidate fills an unstated cell is not chosen
again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ...costmodels.software import COEFFICIENTS
from .backtest import BacktestResult, RowResult
from .calibrate import TIME_COEFFICIENTS, Calibration, Level, inherited
from .evidence import CalibrationData, Floats, Mask
from .spread import crossed_half_widths

#: how often a fit without a whole source, which may lie far from the fit to all rows, is linearised again.
_RELINEARISED = 2


def fold_masks(data: CalibrationData, era: str, by: str) -> list[Mask]:
    """Masks over all priced rows, one per fold of an era; ``by`` is ``group`` or ``source``."""
    keys = data.group if by == "group" else data.source
    mine = data.era == era
    return [mine & (keys == key) for key in dict.fromkeys(keys[mine])]


def predict_held_out(result: BacktestResult, calibration: Calibration, by: str) -> BacktestResult:
    """The backtest with every row predicted, and its interval found, without its fold."""
    steps = held_out_steps(calibration, by)
    return with_steps(result, calibration.data, steps, crossed_half_widths(calibration.data, steps, by))


def held_out_steps(calibration: Calibration, by: str) -> Floats:
    """Step seconds of every priced row, each predicted without its fold (defaults where an era was not fitted)."""
    data = calibration.data
    out = np.full(len(data.era), np.nan)
    fits = {fit.era: fit for fit in calibration.fits}
    for era in sorted(set(data.era)):
        fit = fits.get(era)
        sets: list[dict[str, float]] = []
        folds = fold_masks(data, era, by)
        for fold in folds:
            keys = data.source if by == "source" else data.group
            # a source may span several eras, and all levels see them all: the fold is the whole source
            away = np.isin(keys, list(set(keys[fold])))
            sets.append(without(fit.level, away, relinearise=by == "source") if fit is not None else {})
        names = TIME_COEFFICIENTS
        values = np.array([[s.get(n, COEFFICIENTS[n][0]) for n in names] for s in sets])
        steps = data.priced.reprice_many(names, values, data.era == era)
        for k, fold in enumerate(folds):
            out[fold] = steps[k][fold]
    return out


def without(level: Level, fold: Mask, *, relinearise: bool) -> dict[str, float]:
    """Coefficients of a level, and of those above it, fitted on the rows outside the fold.

    An era that keeps fewer than ``Level.least_rows`` rows takes what it would be shipped with: the physical defaults,
    or the level above where eras borrow.
    """
    above = level.above
    up = dict(level.fixed or {}) if above is None else inherited(without(above, fold, relinearise=False))
    keep = ~fold[level.model.rows]
    if int(keep.sum()) < level.least_rows:
        return up if above is None or level.borrow else {}
    prior = level.prior(up)
    u = level.model.solve(level.linear, prior, keep, reach=0.5)
    for _ in range(_RELINEARISED if relinearise else 0):
        u = level.model.solve(level.model.linearised(u), prior, keep, reach=0.25)
    return {**up, **level.model.coefficients(u)}


def with_steps(
    result: BacktestResult, data: CalibrationData, steps: Floats, half_width: Floats | None = None
) -> BacktestResult:
    """The backtest with other step times; every row counts as unseen.

    Args:
        steps: seconds by priced row.
        half_width: of the 90% interval of log(step time) by priced row; without it the interval scales along.
    """
    ratio, width = {}, {}
    for k, (problem, estimate) in enumerate(zip(data.priced.rows, data.priced.estimates, strict=True)):
        if estimate is not None and math.isfinite(steps[k]):
            ratio[id(problem)] = estimate.step_s / float(steps[k])
            if half_width is not None:
                width[id(problem)] = float(half_width[k])
    rows = [_scaled(row, ratio.get(id(row.problem), 1.0), width.get(id(row.problem))) for row in result.rows]
    return BacktestResult(rows, result.priced)


def _scaled(row: RowResult, factor: float, half_width: float | None) -> RowResult:
    tps = row.tokens_per_s_per_gpu * factor
    low, high = row.low * factor, row.high * factor
    if half_width is not None:
        low, high = tps * math.exp(-half_width), tps * math.exp(half_width)
    return replace(row, tokens_per_s_per_gpu=tps, low=low, high=high, seen=False)


def error_of(data: CalibrationData, steps: Floats, eras: Sequence[str]) -> float:
    """Mean absolute relative error of tokens per second over the usable rows of some eras."""
    mine = data.usable & np.isin(data.era, list(eras)) & np.isfinite(steps)
    return float(np.mean(np.abs(data.measured_step_s[mine] / steps[mine] - 1.0))) if mine.any() else math.nan
