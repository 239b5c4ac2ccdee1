"""Fitting the few software coefficients of each framework era on measured runs.

Robust (soft-L1) least squares on log(predicted / measured step time); coefficients stay inside the bounds of
``costmodels.software.COEFFICIENTS``, and each one that moves the rows is fitted. Rows of one group (source x model x
GPU type x scale) share a weight, so that no table drowns the others; rows whose layout or recompute had to be searched
for weigh half.

Two levels hold few rows in place: one fit to all rows is pulled to the physical defaults, and the fit of each era to
that. (A level of families between them, by framework or by kind of kernels, predicted left-out sources no better.) An
era with too few rows of its own keeps the physical defaults, or takes the fit to all rows where that is asked for.

The cost model is linearised (log step time by coefficients) on the way to each optimum; leaving rows out then needs no
further call of it, so that every group can be a fold of its own (``held_out.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...costmodels.load_software import load_era
from ...costmodels.software import COEFFICIENTS, MEMORY_COEFFICIENTS
from .backtest import BacktestResult
from .evidence import CalibrationData, Floats, Mask, calibration_data
from .pricing import software_with
from .row_model import Linear, Prior, RowModel

#: Weight of the physical defaults, and of the level above (see ``Prior.rows``).
PRIOR_ROWS = 8.0
PARENT_ROWS = 1.0
#: Weight of the shipped coefficients where a user's own runs are fitted (docs/own_runs_error.py is how it was chosen).
#: It is shared by the groups, for what one layout says alone may be a trait of that layout, and never falls below two.
OWN_PRIOR_ROWS = 8.0
OWN_LEAST_PRIOR_ROWS = 2.0
#: an era with fewer usable rows has no fit of its own, unless the shipped coefficients hold what the rows do not say.
MIN_ROWS = 4
#: shares of the bounds at which a coefficient is tried that has no slope at its start (a floor that does not bind).
_SCAN = (0.05, 0.25, 0.5, 0.75, 0.95)
_MAX_ITERATIONS = 8
_CONVERGED = 2e-3
_LEAST_REACH = 0.03
#: log step time that a coefficient must move between its bounds to be fitted at all.
_MOVES = 1e-3
_AT_BOUND = 1e-3

TIME_COEFFICIENTS = tuple(name for name in COEFFICIENTS if name not in MEMORY_COEFFICIENTS)

#: coefficients of which the rows of one release say nothing about another: an era is pulled to their default instead.
NOT_INHERITED = frozenset({"tp_wait_s"})

Report = Callable[[int, int], None]


def inherited(values: Mapping[str, float]) -> dict[str, float]:
    """What an era takes from the fit to all rows."""
    return {name: value for name, value in values.items() if name not in NOT_INHERITED}


@dataclass(slots=True)
class Level:
    """A fit to all rows or to an era, and the level above it.

    Attributes:
        fixed: what the prior is where no level is above.
        borrow: where too few rows are kept, the level above stands in; otherwise the defaults do.
        least_rows: fewer rows than this are too few.
    """

    name: str
    model: RowModel
    prior_rows: float
    linear: Linear
    above: Level | None = None
    fixed: Mapping[str, float] | None = None
    borrow: bool = False
    least_rows: int = MIN_ROWS

    def prior(self, above: Mapping[str, float]) -> Prior:
        """Pulled to what the level above found; its first value where nothing is above."""
        return Prior(self.model.shares(above), self.prior_rows)

    def values(self, u: Floats | None = None) -> dict[str, float]:
        """Coefficients of this level, those that it does not move from above."""
        up = inherited(self.above.values()) if self.above is not None else dict(self.fixed or {})
        return {**up, **self.model.coefficients(self.linear.u if u is None else u)}


@dataclass(slots=True)
class EraFit:
    """Fit of one era.

    Attributes:
        coefficients: by name, of the era's own rows or of all rows (``own`` is false).
        level: what the coefficients come from, for refits without some rows.
        error_in: mean absolute relative error of step time on the rows fitted.
        at_bound: coefficients that the rows would push out of their physical bounds.
    """

    era: str
    coefficients: dict[str, float]
    level: Level
    own: bool
    n_rows: int
    n_groups: int
    error_in: float
    at_bound: tuple[str, ...]


@dataclass(slots=True)
class Calibration:
    """All fits on some data."""

    data: CalibrationData
    fits: list[EraFit]


def moving_coefficients(data: CalibrationData, names: Sequence[str]) -> dict[str, Mask]:
    """For each coefficient the usable rows whose log step time it moves between its bounds."""
    default = np.array([COEFFICIENTS[name][0] for name in names])
    sets = []
    for k, name in enumerate(names):
        for bound in COEFFICIENTS[name][1:3]:
            sets.append(np.where(np.arange(len(names)) == k, bound, default))
    logs = np.log(data.priced.reprice_many(names, np.array(sets), data.usable))
    change = np.abs(logs[1::2] - logs[::2])
    return {name: data.usable & (np.nan_to_num(change[k]) > _MOVES) for k, name in enumerate(names)}


def own_prior_rows(n_groups: int) -> float:
    """Rows that the shipped coefficients count for against so many groups of a user's own runs."""
    return max(OWN_PRIOR_ROWS / max(n_groups, 1), OWN_LEAST_PRIOR_ROWS)


def fit_level(
    data: CalibrationData,
    name: str,
    rows: Mask,
    names: Sequence[str],
    above: Level | Mapping[str, float],
    top_rows: float = PRIOR_ROWS,
) -> Level:
    """Gauss-Newton with a trust region on the rows' robust cost; ``top_rows`` is the weight of a prior of values."""
    top = not isinstance(above, Level)
    start = dict(above) if not isinstance(above, Level) else inherited(above.values())
    model = RowModel(data, rows, names)
    prior = Prior(model.shares(start), top_rows if top else PARENT_ROWS)
    linear = model.linearised(_scanned(model, prior))
    best, reach = model.cost(linear.log_step, linear.u, prior), 0.5
    for _ in range(_MAX_ITERATIONS):
        proposal = model.linearised(model.solve(linear, prior, reach=reach))
        cost = model.cost(proposal.log_step, proposal.u, prior)
        gain = best - cost
        if gain > 0:
            linear, best = proposal, cost
            if gain < _CONVERGED * best:
                break
        else:
            reach /= 4.0
            if reach < _LEAST_REACH:
                break
    parent = None if not isinstance(above, Level) else above
    return Level(name, model, prior.rows, linear, parent, start if top else None)


def _scanned(model: RowModel, prior: Prior) -> Floats:
    """The prior's mean, with coefficients that have no slope there moved to the best of a few values."""
    u = prior.u.copy()
    flat = np.abs(model.linearised(u).jacobian).max(axis=0, initial=0.0) < 10 * _MOVES
    for k in np.flatnonzero(flat):
        tried = np.tile(u, (len(_SCAN) + 1, 1))
        tried[1:, k] = _SCAN
        logs = model.log_steps(tried)
        u = tried[int(np.argmin([model.cost(log, t, prior) for log, t in zip(logs, tried, strict=True)]))]
    return u


def calibrate(
    result: BacktestResult,
    eras: Sequence[str] | None = None,
    names: Sequence[str] = TIME_COEFFICIENTS,
    *,
    leave_out: Sequence[str] = (),
    borrow: bool = False,
    from_shipped: bool = False,
    report: Report = lambda done, total: None,
) -> Calibration:
    """Fit every era that has enough usable rows: ``MIN_ROWS``, or one where the shipped coefficients are the prior.

    Args:
        eras: fit only these; all rows still carry the level above.
        names: coefficients to fit; those that move no row stay out.
        leave_out: sources that no fit may see.
        borrow: eras with too few rows take the fit to all rows.
        from_shipped: pull each era to the coefficients that its profile holds, without the level above: for a few
            runs of one's own.
        report: called with levels done and their number.
    """
    data = calibration_data(result, leave_out)
    return fit_all(data, eras, names, borrow=borrow, from_shipped=from_shipped, report=report)


def fit_all(
    data: CalibrationData,
    eras: Sequence[str] | None = None,
    names: Sequence[str] = TIME_COEFFICIENTS,
    *,
    borrow: bool = False,
    from_shipped: bool = False,
    report: Report = lambda done, total: None,
) -> Calibration:
    """``calibrate`` on data already collected."""
    if not data.usable.any():
        return Calibration(data, [])
    moving = {} if from_shipped else moving_coefficients(data, names)
    wanted = sorted(set(data.era)) if eras is None else [era for era in eras if (data.era == era).any()]
    total = len(wanted) + (not from_shipped)

    least = 1 if from_shipped else MIN_ROWS

    def level(name: str, rows: Mask, above: Level | Mapping[str, float]) -> Level:
        # what moves nothing from the defaults may do so from the shipped values: then all are kept
        kept = list(names) if from_shipped else [n for n in names if (moving[n] & rows).any()]
        weight = own_prior_rows(len(set(data.group[rows]))) if from_shipped else PRIOR_ROWS
        found = fit_level(data, name, rows, kept, above, weight)
        found.borrow, found.least_rows = borrow, least
        return found

    common = None if from_shipped else level("all", data.usable, {})
    fits = []
    for done, era in enumerate(wanted):
        report(done + (not from_shipped), total)
        mine = data.usable & (data.era == era)
        above = _shipped(era) if common is None else common
        if mine.sum() >= least:
            fits.append(_era_fit(data, era, mine, level(era, mine, above), own=True))
        elif borrow and common is not None:
            fits.append(_era_fit(data, era, mine, common, own=False))
    report(total, total)
    data.waiting_share = data.priced.waiting_shares(software_with({fit.era: fit.coefficients for fit in fits}))
    return Calibration(data, fits)


def _shipped(era: str) -> dict[str, float]:
    values = load_era(era).software.coefficients
    return {name: values[name] for name in TIME_COEFFICIENTS if name in values}


def _era_fit(data: CalibrationData, era: str, mine: Mask, level: Level, *, own: bool) -> EraFit:
    u = level.linear.u
    edge = (u < _AT_BOUND) | (u > 1.0 - _AT_BOUND)
    if level.above is None and level.fixed:  # a value that was shipped at its bound says nothing of these rows
        edge &= np.abs(u - level.model.shares(level.fixed)) > _AT_BOUND
    among = mine[level.model.rows]
    error = np.abs(np.exp(level.model.log_measured - level.linear.log_step) - 1.0)[among]
    return EraFit(
        era=era,
        coefficients=level.values(),
        level=level,
        own=own,
        n_rows=int(mine.sum()),
        n_groups=len(set(data.group[mine])),
        error_in=float(np.mean(error)) if len(error) else float("nan"),
        at_bound=tuple(name for name, there in zip(level.model.names, edge, strict=True) if there),
    )
