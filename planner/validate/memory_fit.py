"""Fitting what the memory ledger has no formula for: context, communicators and what the allocator loses.

Few coefficients of an era, inside the bounds of ``costmodels.software.COEFFICIENTS``, set so that a given share of the
measured peaks lies below the prediction (quantile regression on log(measured / predicted)): a peak that is too low
costs a run, one that is too high a little speed. Two levels as in ``calibrate.py``: all eras, pulled to the physical
defaults, and each era, pulled to that. Groups (source x model x GPU type x scale) of n rows count as sqrt(n), and rows
whose layout or recomputation had to be searched for half.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...costmodels.software import COEFFICIENTS, Software
from .backtest import BacktestResult, RowResult
from .evidence import Floats, Mask, group_name, group_weights, half_if_searched, priced_results
from .memory_counting import Counting, counting_of
from .pricing import Group, PricedRows, counted_peaks
from .row_model import scipy_optimize
from .runs import row_sha256
from .scores import UNDER_BY, is_duplicate, is_inconsistent, measured, set_name

#: What is fitted; each only where the era can have it (``fitted_names``).
NAMES = ("context_bytes", "communicator_bytes", "allocator_slack", "gradient_slack")
#: Share of measured peaks meant to lie below the prediction.
QUANTILE = 0.75
#: Pull to the physical defaults and to the fit of all eras, in rows: a coefficient a quarter of its bounds away costs
#: as much as that many rows that are 5% off.
PRIOR_ROWS = 2.0
PARENT_ROWS = 0.08
_SMOOTH = 0.005
_ROUNDS = 4
_STEP = 0.02
_DEFAULT, _LOW, _HIGH = (np.array([COEFFICIENTS[name][k] for name in NAMES]) for k in range(3))


def fitted_names(software: Software) -> tuple[str, ...]:
    """Coefficients that an era can have: none that its profile says is 0 (a static memory plan, FSDP2's), and
    fragmented gradients only where each is a tensor of its own that the step flattens and frees."""
    separate = software.coefficient("update_copy_bytes") > 0
    names = NAMES if separate else NAMES[:3]
    return tuple(name for name in names if software.coefficients.get(name) != 0.0)


@dataclass(slots=True)
class MemoryData:
    """Measured peaks as arrays, one entry per priced row.

    Attributes:
        log_measured: log(bytes), ``nan`` where there is none; usable: rows that may be fitted or scored.
    """

    priced: PricedRows
    results: list[RowResult]
    counting: list[Counting]
    log_measured: Floats
    usable: Mask
    era: NDArray[Any]
    group: NDArray[Any]
    weight: Floats

    def log_peaks(self, values: Floats, rows: Mask) -> Floats:
        """log(counted bytes) of the wanted rows under one set of coefficients."""
        out = np.full(len(self.usable), np.nan)
        for g in self.priced.groups:
            wanted = rows[g.rows]
            if wanted.any():
                peaks = _group_peaks(g, _with(g.software, values), [self.counting[i] for i in g.rows])
                out[g.rows] = np.log([peak[k] for k, peak in enumerate(peaks)])
        return out[rows]


def _group_peaks(g: Group, software: Software, counting: Sequence[Counting]) -> list[Floats]:
    return counted_peaks(g.model, g.workload, software, g.cluster, g.table, counting)


def _with(software: Software, values: Floats) -> Software:
    named = dict(zip(NAMES, values.tolist(), strict=True))
    own = {name: named[name] if name in fitted_names(software) else 0.0 for name in NAMES}
    return replace(software, coefficients={**software.coefficients, **own})


def memory_data(result: BacktestResult) -> MemoryData:
    """Measured peaks of a backtest whose way of counting is known.

    Raises:
        InvalidProblemError: nothing was priced.
    """
    priced, rows = priced_results(result)
    counting = [counting_of(row.run) for row in rows]
    units = np.array([how.unit_bytes for how in counting])
    peaks = np.array([measured(row, "peak_memory_gb") for row in rows]) * units
    usable = np.isfinite(peaks) & np.array([_is_evidence(r, h) for r, h in zip(rows, counting, strict=True)])
    groups = np.array([group_name(row) for row in rows], dtype=object)
    weight = group_weights(usable, groups, -0.5)  # a group of n rows counts as sqrt(n)
    return MemoryData(
        priced=priced,
        results=rows,
        counting=counting,
        log_measured=np.log(peaks, out=np.full(len(rows), np.nan), where=usable),
        usable=usable,
        era=np.array([p.era.software.name for p in priced.rows], dtype=object),
        group=groups,
        weight=half_if_searched(weight, priced),
    )


def _is_evidence(row: RowResult, how: Counting) -> bool:
    """As the memory score has it: priced, counted in a known way, listed once, pre-training by a known method."""
    fine = row.status != "skipped" and how.known and row.run.text("outcome") in ("", "ok")
    return fine and not is_duplicate(row) and "(" not in set_name(row)


@dataclass(slots=True)
class MemoryFit:
    """Coefficients of one era and how well they do.

    Attributes:
        values: by name, only those that the era can have; error, under: of the rows fitted, mean absolute relative
            error and share under-predicted by more than 5%; the same of rows left out group by group.
    """

    era: str
    values: dict[str, float]
    n_rows: int
    n_groups: int
    error: float
    under: float
    error_left_out: float
    under_left_out: float
    hashes: list[str]


@dataclass(slots=True)
class MemoryFits:
    """All fits, what other eras take, and the relative error of every usable row as fitted and left out by group."""

    data: MemoryData
    fits: list[MemoryFit]
    pooled: dict[str, float]
    error: Floats
    error_left_out: Floats


def fit_memory(data: MemoryData, quantile: float = QUANTILE) -> MemoryFits:
    """Fit all eras, and predict every row once more without its group (at both levels).

    Left-out fits use the ledger as linearised at the full fits; their predictions are the ledger's own.
    """
    error, left = (np.full(len(data.usable), np.nan) for _ in range(2))
    everything = data.usable & ~np.array([is_inconsistent(row) for row in data.results], dtype=bool)
    default = _Prior(_shares(_DEFAULT), PRIOR_ROWS)
    whole = _linear_fit(data, everything, default, quantile)
    parent = _Prior(whole.u, PARENT_ROWS)
    fits = {era: _linear_fit(data, everything & (data.era == era), parent, quantile) for era in _eras(data)}
    for era, fit in fits.items():
        mine = data.usable & (data.era == era)
        error[mine] = np.expm1(data.log_peaks(_values(fit.u), mine) - data.log_measured[mine])
    for group in sorted(set(data.group[data.usable])):
        away = data.usable & (data.group == group)
        above = _Prior(_solve(data, whole, default, quantile, ~away), PARENT_ROWS)
        for era in sorted(set(data.era[away])):
            mine = away & (data.era == era)
            u = _solve(data, fits[era], above, quantile, ~away)
            left[mine] = np.expm1(data.log_peaks(_values(u), mine) - data.log_measured[mine])
    found = [_fit_of(data, era, _values(fit.u), error, left) for era, fit in fits.items()]
    return MemoryFits(data, found, _named(_values(whole.u), NAMES), error, left)


def _eras(data: MemoryData) -> list[str]:
    return sorted(set(data.era[data.usable]))


def _fit_of(data: MemoryData, era: str, values: Floats, error: Floats, left: Floats) -> MemoryFit:
    mine = data.usable & (data.era == era)
    names = fitted_names(next(p.era.software for p, m in zip(data.priced.rows, mine, strict=True) if m))
    return MemoryFit(
        era=era,
        values=_named(values, names),
        n_rows=int(mine.sum()),
        n_groups=len(set(data.group[mine])),
        error=mean_error(error[mine]),
        under=under_share(error[mine]),
        error_left_out=mean_error(left[mine]),
        under_left_out=under_share(left[mine]),
        hashes=sorted({row_sha256(data.results[i].run.cells) for i in np.flatnonzero(mine)}),
    )


def _named(values: Floats, names: Sequence[str]) -> dict[str, float]:
    """Three significant digits: what rows can tell; never 0, which in a profile says that there can be none."""
    named = dict(zip(NAMES, values.tolist(), strict=True))
    return {name: max(float(f"{named[name]:.3g}"), 0.001) for name in names}


def mean_error(error: Floats) -> float:
    """Mean absolute relative error; ``nan`` of nothing."""
    return float(np.mean(np.abs(error))) if len(error) else math.nan


def under_share(error: Floats) -> float:
    """Share predicted too low by more than 5%; ``nan`` of nothing."""
    return float(np.mean(error < -UNDER_BY)) if len(error) else math.nan


def _shares(values: Floats) -> Floats:
    return np.asarray((values - _LOW) / (_HIGH - _LOW))


def _values(u: Floats) -> Floats:
    return np.asarray(_LOW + (_HIGH - _LOW) * u)


@dataclass(frozen=True, slots=True)
class _Prior:
    """Shares of the bounds that a fit is pulled to, and how strongly."""

    u: Floats
    rows: float

    def cost(self, u: Floats) -> tuple[float, Floats]:
        pull = self.rows * 0.05 / 0.25**2
        return pull * float(np.sum((u - self.u) ** 2)), 2.0 * pull * (u - self.u)


@dataclass(slots=True)
class _Linear:
    """The ledger near ``u``: log peaks of ``rows`` there, and their slope by coefficient."""

    rows: Mask
    u: Floats
    log_peak: Floats
    slope: Floats

    def at(self, u: Floats) -> Floats:
        return np.asarray(self.log_peak + self.slope @ (u - self.u))


def _linearised(data: MemoryData, rows: Mask, u: Floats) -> _Linear:
    """First-order expansion by one-sided differences that stay inside the bounds (the ledger is piecewise linear in
    these coefficients)."""
    peaks, shift = data.log_peaks(_values(u), rows), np.where(u > 0.5, -_STEP, _STEP)
    moved = [data.log_peaks(_values(u + shift * (np.arange(len(u)) == k)), rows) for k in range(len(u))]
    return _Linear(rows, u, peaks, (np.array(moved) - peaks).T / shift)


def _linear_fit(data: MemoryData, rows: Mask, prior: _Prior, quantile: float) -> _Linear:
    """The ledger linearised where the loss is lowest: the best of the points that a few rounds visit."""
    best = at = _linearised(data, rows, prior.u)
    for _ in range(_ROUNDS):
        at = _linearised(data, rows, _solve(data, at, prior, quantile))
        if _cost(data, at, at.u, prior, quantile)[0] < _cost(data, best, best.u, prior, quantile)[0]:
            best = at
    return best


def _cost(
    data: MemoryData, linear: _Linear, u: Floats, prior: _Prior, quantile: float, keep: Mask | None = None
) -> tuple[float, Floats]:
    """Smoothed quantile loss with the pull to ``prior``, and its gradient."""
    weight = data.weight[linear.rows] * (1.0 if keep is None else keep[linear.rows])
    residual = data.log_measured[linear.rows] - linear.at(u)
    loss = quantile * residual + _SMOOTH * np.logaddexp(0.0, -residual / _SMOOTH)
    steep = weight * (quantile - 1.0 / (1.0 + np.exp(np.clip(residual / _SMOOTH, -50.0, 50.0))))
    pulled, pull = prior.cost(u)
    return float(np.sum(weight * loss)) + pulled, np.asarray(pull - linear.slope.T @ steep)


def _solve(data: MemoryData, linear: _Linear, prior: _Prior, quantile: float, keep: Mask | None = None) -> Floats:
    """Minimum of the loss over the linearised rows that are kept."""
    found = scipy_optimize().minimize(
        lambda u: _cost(data, linear, u, prior, quantile, keep),
        linear.u,
        jac=True,
        method="L-BFGS-B",
        bounds=[(0.0, 1.0)] * len(linear.u),
    )
    return np.asarray(found.x)
