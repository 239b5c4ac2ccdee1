"""Predictions of runs by coefficients that never saw them: leave one group, or one source, out.

A group is source x model x GPU type x scale. For each fold the era's coefficients are fitted again on its other
rows, on the cost model linearised at the full fit (and, for sources, once more at the new point); the left-out rows
are then priced by the real cost model. Which candidate fills an unstated cell is not chosen again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ...costmodels.software import COEFFICIENTS
from .backtest import BacktestResult, RowResult
from .calibrate import MIN_ROWS, TIME_COEFFICIENTS, CalibrationData, EraFit, Floats, Mask
from .pricing import software_with


def fold_masks(data: CalibrationData, era: str, by: str) -> list[Mask]:
    """Masks over all priced rows, one per fold of an era; ``by`` is ``group`` or ``source``."""
    keys = data.group if by == "group" else data.source
    mine = data.era == era
    return [mine & (keys == key) for key in dict.fromkeys(keys[mine])]


def held_out_steps(data: CalibrationData, fits: Sequence[EraFit], by: str) -> Floats:
    """Step seconds of every priced row, each predicted without its fold.

    Rows of eras that were not fitted, and folds that leave fewer than ``MIN_ROWS`` rows, take the defaults.
    """
    out = data.priced.reprice(software_with({era: _defaults() for era in set(data.era)}))
    for fit in fits:
        for fold in fold_masks(data, fit.era, by):
            coefficients = without(data, fit, fold, relinearise=by == "source")
            if coefficients:
                step = data.priced.reprice(software_with({fit.era: coefficients}), fold)
                out[fold] = step[fold]
    return out


def without(data: CalibrationData, fit: EraFit, fold: Mask, *, relinearise: bool) -> dict[str, float]:
    """Coefficients fitted on the era's rows outside the fold (empty if too few remain)."""
    model = fit.model
    keep = ~fold[model.rows]
    if int((keep & data.usable[model.rows]).sum()) < MIN_ROWS:
        return {}
    u = model.solve(fit.linear, keep, reach=0.5)
    if relinearise:
        u = model.solve(model.linearised(u), keep, reach=0.25)
    return {**_defaults(), **model.coefficients(u)}


def _defaults() -> dict[str, float]:
    return {name: COEFFICIENTS[name][0] for name in TIME_COEFFICIENTS}


def with_steps(result: BacktestResult, data: CalibrationData, steps: Floats) -> BacktestResult:
    """The backtest with other step times: throughput and its interval scale along; every row counts as unseen."""
    ratio = {}
    for problem, estimate, step in zip(data.priced.rows, data.priced.estimates, steps, strict=True):
        if estimate is not None and math.isfinite(step):
            ratio[id(problem)] = estimate.step_s / float(step)
    return BacktestResult([_scaled(row, ratio.get(id(row.problem), 1.0)) for row in result.rows], result.priced)


def _scaled(row: RowResult, factor: float) -> RowResult:
    return replace(
        row,
        tokens_per_s_per_gpu=row.tokens_per_s_per_gpu * factor,
        low=row.low * factor,
        high=row.high * factor,
        seen=False,
    )


def error_of(data: CalibrationData, steps: Floats, era: str) -> float:
    """Mean absolute relative error of step time over an era's usable rows."""
    mine = data.usable & (data.era == era) & np.isfinite(steps)
    return float(np.mean(np.abs(data.measured_step_s[mine] / steps[mine] - 1.0))) if mine.any() else math.nan
