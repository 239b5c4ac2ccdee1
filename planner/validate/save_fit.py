"""The whole calibration of some tables, and writing it: coefficients, errors, intervals and hashes of the rows seen."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ...costmodels.interval import era_half_width
from ...costmodels.load_software import load_era, read_era, seen_rows_path
from ...costmodels.residuals import RESIDUALS_PATH, read_residuals
from ...costmodels.software import MEMORY_COEFFICIENTS
from ...costmodels.training import estimate
from ...hardware_profiles.errors import InvalidProblemError
from .backtest import BacktestResult, backtest, predict_runs
from .calibrate import Calibration, EraFit, fit_all
from .evidence import NEVER_FITTED, Floats, calibration_data, check_sources, rows_digest
from .held_out import error_of, held_out_steps
from .runs import Run
from .site import Site
from .spread import (
    PRIOR,
    Spread,
    coverage_by,
    crossed_half_widths,
    evidence,
    fit_spread,
    regimes,
    unfitted_half_width,
)

#: groups from which residuals can say that an interval is too wide: nine of ten have to lie inside.
TELLING_GROUPS = 10
_MARK = "# -- fitted; written by calibration, do not edit below --"
_RESIDUALS_HEAD = """\
# Half-widths of 90% intervals of log(measured / predicted step time), by circumstance; they add in quadrature.
# What an era itself brings stands in its profile (fit.half_width). Written by `meshwright calibrate` from runs that
# were left out of the fit group by group; `unfitted` from runs whose whole source was left out. Circumstances that no
# run has keep a judged figure.
"""


@dataclass(slots=True)
class Calibrated:
    """Fits, and the step seconds of every row predicted without its group and without its source."""

    calibration: Calibration
    without_group: Floats
    without_source: Floats
    spread: Spread
    from_scratch: bool

    def error_before(self, fit: EraFit) -> float:
        """Mean absolute relative error over the era's rows with the coefficients that the release was shipped with."""
        data = self.calibration.data
        steps = np.array([np.nan if e is None else e.step_s for e in data.priced.estimates])
        return error_of(data, steps, [fit.era])

    def error_left_out(self, fit: EraFit, by: str = "group") -> float:
        """Mean absolute relative error over the era's rows, each left out with its group or source."""
        steps = self.without_group if by == "group" else self.without_source
        return error_of(self.calibration.data, steps, [fit.era])

    def half_width(self, fit: EraFit, *, across: bool = False) -> float:
        """The era's own part of the 90% interval within a node or across nodes; zero where it has too few rows of its
        own.

        Where runs of one kind are missing, those of the other stand in, if they are wider than all eras are. Where
        the shipped coefficients are the prior, fewer than ``TELLING_GROUPS`` groups cannot show that the shipped
        interval is too wide; they may only widen it.
        """
        if not fit.own:
            return 0.0
        known = self.spread.by_era
        other = max(known.get((fit.era, not across), 0.0), self.spread.pooled)
        found = known.get((fit.era, across), other)
        few = not self.from_scratch and fit.n_groups < TELLING_GROUPS
        return max(found, shipped_half_width(fit.era, across=across)) if few else found


def shipped_half_width(era: str, *, across: bool = False) -> float:
    """Half-width of the era as it was shipped; that of software never calibrated where it has no fit."""
    return float(era_half_width(load_era(era).software, across))


def calibrate_runs(
    runs: Sequence[Run],
    site: Site | None,
    *,
    eras: Sequence[str] | None = None,
    leave_out: Sequence[str] = (),
    report: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Calibrated, BacktestResult]:
    """Fit a user's own runs, the shipped coefficients being the prior.

    Args:
        runs: rows as read (and, with a site, ``placed``).

    Returns:
        The fits, and every row as it was predicted before them (with the reason where it could not be).

    Raises:
        InvalidProblemError: an unknown source or era.
    """
    for era in eras or ():
        load_era(era)
    result = predict_runs(runs, site=site)
    check_sources(result, [name for name in leave_out if name not in NEVER_FITTED])
    data = calibration_data(result, leave_out, by_layout=True)
    found = fit_all(data, eras, from_shipped=True, report=report)
    return calibrated(found, from_scratch=False), result


def calibrate_tables(
    paths: Sequence[str | Path],
    *,
    eras: Sequence[str] | None = None,
    leave_out: Sequence[str] = NEVER_FITTED,
    borrow: bool = False,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Calibrated:
    """Fit every era on some tables of measured runs, leave groups and sources out, and find the intervals.

    Everything starts from physical defaults, the choice of unstated cells too, so that the result depends on the
    tables alone.

    Args:
        borrow: releases with too few runs take the fit to all runs instead of the physical defaults.

    Raises:
        InvalidProblemError: no table, an unknown source or era.
    """
    for era in eras or ():
        load_era(era)
    result = backtest(paths, estimator=_never_fitted)
    check_sources(result, [name for name in leave_out if name not in NEVER_FITTED])
    data = calibration_data(result, leave_out)
    return calibrated(fit_all(data, eras, borrow=borrow, report=report))


def calibrated(calibration: Calibration, *, from_scratch: bool = True) -> Calibrated:
    """Predict every row without its group and without its source, and fit the intervals."""
    data = calibration.data
    by_group, by_source = held_out_steps(calibration, "group"), held_out_steps(calibration, "source")
    prior = PRIOR["era"]
    if not from_scratch and calibration.fits:
        prior = float(np.mean([shipped_half_width(fit.era) for fit in calibration.fits]))
    spread = fit_spread(data, by_group, evidence(data, by_group), prior_era=prior)
    return Calibrated(calibration, by_group, by_source, spread, from_scratch)


def _never_fitted(model: Any, workload: Any, config: Any, cluster: Any, software: Any) -> Any:
    """The estimate with the physical defaults of everything that a fit to step times can move."""
    kept = {name: software.coefficient(name) for name in MEMORY_COEFFICIENTS}
    return estimate(model, workload, config, cluster, replace(software, coefficients=kept))


def save_fits(found: Calibrated, folder: Path | None = None) -> list[Path]:
    """Write each fit into its era's profile (below a mark; what a person wrote above it stays as it is).

    With a fit from scratch of all eras the intervals by circumstance are written beside them.

    Args:
        folder: where to write instead of beside the shipped profiles.

    Raises:
        InvalidProblemError: a file cannot be written.
    """
    paths = [_save_era(found, fit, folder) for fit in found.calibration.fits]
    if found.from_scratch and paths:
        paths.append(_save_residuals(found, (folder or RESIDUALS_PATH.parent) / RESIDUALS_PATH.name))
    return paths


def _save_era(found: Calibrated, fit: EraFit, folder: Path | None) -> Path:
    era = load_era(fit.era)
    target = (folder or era.path.parent) / era.path.name
    hashes = _hashes(found, fit)
    _write({seen_rows_path(target): json.dumps(hashes, indent=0) + "\n", target: _profile(found, fit)})
    read_era(target)  # what was written must be readable
    return target


def only_profile(found: Calibrated) -> str:
    """Text of the one profile that was fitted, checked to be readable, for a file of the user's choice.

    Raises:
        InvalidProblemError: runs of several releases were fitted.
    """
    fits = found.calibration.fits
    if len(fits) != 1:
        names = ", ".join(fit.era for fit in fits)
        raise InvalidProblemError(
            f"these runs are of {len(fits)} releases ({names}), which one file cannot hold; name one with --eras, or "
            "give -o a folder."
        )
    text = _profile(found, fits[0])
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / "profile.yaml"
        draft.write_text(text, encoding="utf-8")
        read_era(draft)
    return text


def _hashes(found: Calibrated, fit: EraFit) -> list[str]:
    data = found.calibration.data
    return data.hashes(data.usable & (data.era == fit.era))


def _profile(found: Calibrated, fit: EraFit) -> str:
    """The era's profile with the fit below the mark."""
    era, data = load_era(fit.era), found.calibration.data
    mine = data.usable & (data.era == fit.era)
    hashes = _hashes(found, fit)
    sources = ", ".join(sorted(set(data.source[mine])))
    own = f"measured runs: {sources}" if fit.own else "runs of all releases; too few of its own"
    facts: dict[str, Any] = {"source": own, "n_rows": fit.n_rows, "n_groups": fit.n_groups}
    if fit.own:
        facts |= {
            "mape": round(found.error_left_out(fit), 4),
            "mape_source_left_out": round(found.error_left_out(fit, "source"), 4),
            "mape_in_sample": round(fit.error_in, 4),
            "half_width": round(found.half_width(fit), 4),
            "half_width_across": round(found.half_width(fit, across=True), 4),
            "residuals": regimes(found.calibration, found.without_group, [fit.era]),
        }
    facts |= {"at_bound": list(fit.at_bound), "rows_sha256": rows_digest(hashes)}
    block = {"coefficients": fit.coefficients, "fit": facts}
    head = _without_key(era.path.read_text(encoding="utf-8").split(_MARK)[0], "coefficients")
    return f"{head.rstrip()}\n{_MARK}\n{yaml.safe_dump(block, sort_keys=False, width=110)}"


def _without_key(text: str, key: str) -> str:
    """YAML text without one top-level key (its values stand in the block below the mark instead)."""
    return re.sub(rf"^{key}:.*\n(?:[ \t]+.*\n)*", "", text, flags=re.MULTILINE)


def _save_residuals(found: Calibrated, target: Path) -> Path:
    data, steps = found.calibration.data, found.without_group
    residuals = found.spread.residuals(unfitted_half_width(data, found.without_source))
    rows = evidence(data, steps)
    crossed = crossed_half_widths(data, steps, "group")
    whole = coverage_by(data, steps, crossed, np.full(len(data.era), "all"))
    block = {
        **{
            name: round(getattr(residuals, name), 4)
            for name in ("unfitted", "sparse", "borrowed", "per_doubling", "host_bound")
        },
        "assumed": {name: round(value, 4) for name, value in sorted(residuals.assumed.items())},
        "fit": {
            "source": "measured runs left out by group, intervals fitted on other groups",
            "n_rows": int(rows.sum()),
            "coverage": round(whole["all"][1], 4),
            "rows_sha256": rows_digest(data.hashes(rows)),
        },
    }
    _write({target: _RESIDUALS_HEAD + yaml.safe_dump(block, sort_keys=False, width=110)})
    read_residuals(target)
    return target


def _write(files: Mapping[Path, str]) -> None:
    """Each file whole or not at all."""
    for target, text in files.items():
        part = target.with_name(f".{target.name}.part")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(text, encoding="utf-8")
            part.replace(target)
        except OSError as error:
            raise InvalidProblemError(f"cannot write {target}: {error.strerror or error}.") from None
