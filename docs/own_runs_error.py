"""How much a few runs of one's own help: the figures of docs/calibrate.md, on published tables.

A source's runs on one kind of GPU stand for a user. Coefficients fitted without the whole source are the prior, one,
three or six of its runs are fitted as `meshwright calibrate` fits a user's, and the rest of its runs are predicted:

    python docs/own_runs_error.py RUNS.csv... [--prior 0.5 2 8]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from meshwright.costmodels.software import COEFFICIENTS
from meshwright.planner.validate.backtest import backtest
from meshwright.planner.validate.calibrate import TIME_COEFFICIENTS, Level, fit_all, fit_level, own_prior_rows
from meshwright.planner.validate.evidence import NEVER_FITTED, CalibrationData, Floats, calibration_data
from meshwright.planner.validate.held_out import without

RUNS = (1, 3, 6)
DRAWS = 2
LEAST_ROWS = 6


def users(data: CalibrationData, fits: dict[str, Level]) -> Iterator[tuple[str, Floats, dict[str, float]]]:
    """Era, row numbers and prior of every source and kind of GPU with enough runs of an era."""
    gpus = np.array([row.cluster.gpu.name for row in data.priced.rows], dtype=object)
    for era, level in fits.items():
        mine = data.usable & (data.era == era)
        for source in sorted(set(data.source[mine])):
            known = without(level, data.source == source, relinearise=True)
            prior = {name: known.get(name, COEFFICIENTS[name][0]) for name in TIME_COEFFICIENTS}
            for gpu in sorted(set(gpus[mine & (data.source == source)])):
                rows = np.flatnonzero(mine & (data.source == source) & (gpus == gpu))
                if len(rows) >= LEAST_ROWS:
                    yield era, rows, prior


def log_errors(data: CalibrationData, values: dict[str, float], rows: Floats) -> Floats:
    """|log(predicted / measured step time)| of some rows."""
    wanted = np.isin(np.arange(len(data.era)), rows)
    sets = np.array([[values[name] for name in TIME_COEFFICIENTS]])
    steps = data.priced.reprice_many(TIME_COEFFICIENTS, sets, wanted)[0]
    return np.abs(np.log(steps[rows] / data.measured_step_s[rows]))


def main() -> None:
    """Print one line for each number of runs and weight of the prior."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tables", nargs="+", type=Path)
    parser.add_argument("--prior", nargs="+", type=float, help="rows of the prior; default: as for a user's own runs")
    wanted = parser.parse_args()
    result = backtest(wanted.tables)
    fits = {fit.era: fit.level for fit in fit_all(calibration_data(result, NEVER_FITTED)).fits if fit.own}
    data = calibration_data(result, NEVER_FITTED, by_layout=True)
    data.weight[:] = 1.0
    random = np.random.default_rng(0)
    found: dict[tuple[int, float], list[tuple[float, float]]] = {}
    for era, rows, prior in users(data, fits):
        for count in RUNS * DRAWS:
            seen = random.choice(rows, min(count, len(rows) - 2), replace=False)
            rest = np.setdiff1d(rows, seen)
            before = float(np.mean(log_errors(data, prior, rest)))
            for weight in wanted.prior or [own_prior_rows(len(seen))]:
                mask = np.isin(np.arange(len(data.era)), seen)
                level = fit_level(data, era, mask, TIME_COEFFICIENTS, prior, weight)
                after = float(np.mean(log_errors(data, level.values(), rest)))
                found.setdefault((count, weight), []).append((before, after))
    for (count, weight), pairs in sorted(found.items()):
        before, after = np.array(pairs).T
        shown = f"{before.mean():.1%} before, {after.mean():.1%} after, nearer in {np.mean(after < before):.0%}"
        worst = f"at worst {np.max(after - before):.1%} further away"
        print(f"{count} runs, prior of {weight:g} rows, {len(pairs)} draws: {shown}, {worst}")


if __name__ == "__main__":
    main()
