"""Half-widths of 90% intervals, fitted on the residuals of left-out runs.

The half-width of a row's log step time is the root of the squares of what its circumstances bring: its era within a
node or across nodes, a sparse model, a borrowed device, doublings beyond 64 GPUs, waiting for hosts, each kind of
assumption. They are found by quantile regression
(pinball loss at 0.9 on the logarithm of the absolute residual), which asks that 90% of the rows lie inside and cares
little how far the others are. Where rows are few a figure is pulled to a prior: an era's to the pooled one, the others
to what ``residuals.yaml`` was first shipped with (judged).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...costmodels.interval import is_borrowed
from ...costmodels.residuals import SCALE_FROM_GPUS, Residuals, host_bound
from .calibrate import Calibration
from .evidence import CalibrationData, Floats, Mask
from .row_model import scipy_optimize

#: half-widths before any residual is seen, and below which none may fall (a circumstance never narrows).
PRIOR: dict[str, float] = {
    "era": 0.15, "sparse": 0.16, "borrowed": 0.20, "per_doubling": 0.01, "host_bound": 1.0,
    "contradicted": 0.02, "default": 0.05,
    "dimensions": 0.05,
    "hardware": 0.41, "layout": 0.33, "method": 0.33, "micro_batch": 0.10, "network": 0.13, "numerics": 0.07,
    "recompute": 0.16, "software": 0.16,
}  # fmt: skip
#: rows that a prior counts for.
PRIOR_ROWS = 10.0
#: share of its prior below which a figure is not believed, however small the residuals.
_LEAST = 0.1
FOLDS = 10
_LEVEL = 0.9
_SMOOTH = 0.02
#: curvature of the pinball loss of one normal residual: its density of log|r| at the 0.9 quantile.
_CURVATURE = 0.34
_TERMS = tuple(PRIOR)[1:]


@dataclass(slots=True)
class Spread:
    """Half-widths: pooled over eras, by era (within a node, across nodes), and by circumstance."""

    pooled: float
    by_era: Mapping[tuple[str, bool], float]
    terms: Mapping[str, float]

    def residuals(self, unfitted: float) -> Residuals:
        """As ``costmodels`` takes them."""
        plain = ("sparse", "borrowed", "per_doubling", "host_bound")
        assumed = {name: value for name, value in self.terms.items() if name not in plain}
        return Residuals(unfitted=unfitted, **{name: self.terms[name] for name in plain}, assumed=assumed)

    def half_widths(self, data: CalibrationData) -> Floats:
        """Of every priced row."""
        era = np.array([self.by_era.get(key, self.pooled) for key in _era_keys(data)])
        terms = circumstances(data) * np.array([self.terms[name] for name in _TERMS])
        return np.asarray(np.sqrt(era**2 + (terms**2).sum(axis=1)))


def _era_keys(data: CalibrationData) -> list[tuple[str, bool]]:
    """Era of every priced row, and whether it ran on more than one node."""
    rows = data.priced.rows
    return [(str(era), row.n_gpus > row.cluster.gpus_per_node) for era, row in zip(data.era, rows, strict=True)]


def circumstances(data: CalibrationData) -> Floats:
    """Shape (rows, terms): 1 where a circumstance holds, doublings beyond 64 GPUs for the scale."""
    out = np.zeros((len(data.era), len(_TERMS)))
    for i, row in enumerate(data.priced.rows):
        held: dict[str, float] = dict.fromkeys(row.assumed, 1.0)
        held["sparse"] = float(row.model.moe is not None)
        held["borrowed"] = float(is_borrowed(row.cluster, row.workload))
        held["host_bound"] = float(host_bound(data.waiting_share[i]))
        held["per_doubling"] = float(np.log2(max(row.n_gpus, SCALE_FROM_GPUS) / SCALE_FROM_GPUS))
        out[i] = [held.get(name, 0.0) for name in _TERMS]
    return out


def evidence(data: CalibrationData, steps: Floats) -> Mask:
    """Rows whose residual counts: usable ones with a prediction."""
    return data.usable & np.isfinite(steps)


def fit_spread(data: CalibrationData, steps: Floats, rows: Mask, *, prior_era: float = PRIOR["era"]) -> Spread:
    """Quantile regression on some rows; every row counts the same.

    Args:
        steps: step seconds, each predicted without its fold.
        prior_era: what the pooled half-width of eras is pulled to.
    """
    keys = [key for key, mine in zip(_era_keys(data), rows, strict=True) if mine]
    eras = sorted(set(keys))
    held = circumstances(data)[rows] ** 2
    size = np.log(np.maximum(np.abs(np.log(data.measured_step_s[rows] / steps[rows])), 1e-3))
    member = np.array([[key == era for era in eras] for key in keys], dtype=float)
    design = np.hstack([member.reshape(len(size), len(eras)), held])
    prior = np.log([prior_era, *(PRIOR[name] for name in _TERMS)])
    first = np.concatenate([prior[:1], np.full(len(eras), prior[0]), prior[1:]])
    pull = _CURVATURE * PRIOR_ROWS

    def loss(x: Floats) -> tuple[float, Floats]:
        squares = np.exp(2.0 * x[1:])
        variance = design @ squares
        z = size - 0.5 * np.log(variance)
        value = np.sum(_LEVEL * z + _SMOOTH * np.logaddexp(0.0, -z / _SMOOTH))
        slope = _LEVEL - 1.0 / (1.0 + np.exp(np.clip(z / _SMOOTH, -500, 500)))
        gradient = np.concatenate([[0.0], -(slope / variance) @ design * squares])
        off = np.concatenate([x[:1] - prior[:1], x[1 : 1 + len(eras)] - x[0], x[1 + len(eras) :] - prior[1:]])
        gradient += pull * off
        gradient[0] -= pull * off[1 : 1 + len(eras)].sum()
        return float(value + 0.5 * pull * np.sum(off**2)), gradient

    floor = np.concatenate([np.full(1 + len(eras), -4.0), prior[1:] + np.log(_LEAST)])
    found = scipy_optimize().minimize(loss, first, jac=True, method="L-BFGS-B", bounds=[(low, 1.0) for low in floor])
    values = np.exp(found.x)
    by_era = dict(zip(eras, values[1 : 1 + len(eras)].tolist(), strict=True))
    return Spread(float(values[0]), by_era, dict(zip(_TERMS, values[1 + len(eras) :].tolist(), strict=True)))


def crossed_half_widths(data: CalibrationData, steps: Floats, by: str) -> Floats:
    """Half-width of every row by a spread that saw neither it nor its fold (group folds are joined to ten)."""
    keys = data.source if by == "source" else data.group
    rows = evidence(data, steps)
    names = sorted(set(keys))
    number = {name: i if by == "source" else i % FOLDS for i, name in enumerate(names)}
    fold = np.array([number[key] for key in keys])
    out = np.full(len(keys), np.nan)
    for k in sorted(set(fold)):
        mine = fold == k
        out[mine] = fit_spread(data, steps, rows & ~mine).half_widths(data)[mine]
    return out


def unfitted_half_width(data: CalibrationData, steps: Floats) -> float:
    """0.9 quantile of the absolute log residual over rows whose whole source was left out, eras weighing the same."""
    rows = evidence(data, steps)
    size = np.abs(np.log(data.measured_step_s[rows] / steps[rows]))
    weight = np.array([1.0 / np.sum(data.era[rows] == era) for era in data.era[rows]])
    order = np.argsort(size)
    reached = np.cumsum(weight[order]) / weight.sum()
    return float(size[order][np.searchsorted(reached, _LEVEL)])


def coverage_by(data: CalibrationData, steps: Floats, half_widths: Floats, keys: Any) -> dict[str, tuple[int, float]]:
    """Key -> (rows, share of measured step times inside the interval)."""
    rows = evidence(data, steps)
    inside = np.abs(np.log(data.measured_step_s / steps)) <= half_widths
    mine = {str(key): rows & (keys == key) for key in set(keys[rows])}
    return {key: (int(mask.sum()), float(inside[mask].mean())) for key, mask in mine.items()}


def regimes(calibration: Calibration, steps: Floats, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Rows and 0.9 quantile of the absolute residual by regime, for the era files."""
    data = calibration.data
    rows = evidence(data, steps) & np.isin(data.era, list(names))
    size = np.abs(np.log(data.measured_step_s / steps))
    sparse = np.array([row.model.moe is not None for row in data.priced.rows])
    borrowed = np.array([is_borrowed(row.cluster, row.workload) for row in data.priced.rows])
    large = np.array([row.n_gpus > SCALE_FROM_GPUS for row in data.priced.rows])
    assumed = np.array([bool(row.assumed) for row in data.priced.rows])
    sets = {
        "dense": ~sparse, "sparse": sparse, "measured_device": ~borrowed, "borrowed_device": borrowed,
        "up_to_64_gpus": ~large, "beyond_64_gpus": large, "as_stated": ~assumed, "assumed": assumed,
    }  # fmt: skip
    return {
        name: {"rows": int((rows & mine).sum()), "q90": round(float(np.quantile(size[rows & mine], _LEVEL)), 4)}
        for name, mine in sets.items()
        if (rows & mine).any()
    }
