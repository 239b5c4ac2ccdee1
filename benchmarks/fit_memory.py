"""Fit what the memory ledger has no formula for, and tell how well it does on groups of runs that were left out.

``python benchmarks/fit_memory.py TABLES... [--write]`` prints the coefficients of every era that has measured peaks and
their errors as fitted and left out by group (source x model x GPU type x scale). ``--write`` puts them into the
``memory:`` line of the profiles (eras without measured peaks that have such a line take the fit to all eras), and
errors, row counts and hashes of the rows into planner/validate/memory_fit.yaml.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import yaml

from meshwright.costmodels.load_software import list_software, load_era
from meshwright.costmodels.software import COEFFICIENTS
from meshwright.planner.validate.backtest import backtest
from meshwright.planner.validate.evidence import rows_digest
from meshwright.planner.validate.memory_fit import (
    PARENT_ROWS,
    PRIOR_ROWS,
    QUANTILE,
    MemoryFits,
    fit_memory,
    fitted_names,
    mean_error,
    memory_data,
    under_share,
)

REPORT = Path(__file__).resolve().parents[1] / "planner" / "validate" / "memory_fit.yaml"
_LINE = re.compile(r"^memory: \{(.*)\}$", re.MULTILINE)
_HEAD = """\
# How the coefficients of the memory ledger without a formula were fitted: by era, errors of peak memory as fitted and
# with the run's group (source x model x GPU type x scale) left out. Written by `benchmarks/fit_memory.py --write`.
"""


def number(value: float) -> str:
    """Text that YAML 1.1 reads as a number."""
    if value < 1e6:
        return f"{value:.3g}"
    digits, _, power = f"{value:.2e}".partition("e+")
    return f"{digits}e+{int(power)}"


def changed(text: str, values: dict[str, float]) -> str:
    """A profile with some entries of its ``memory:`` line replaced or added."""
    found = _LINE.search(text)
    if found is None:
        raise SystemExit("this profile has no memory: line in braces")
    cells = dict(part.split(": ", 1) for part in found.group(1).split(", "))
    cells |= {name: number(value) for name, value in values.items()}
    line = "memory: {" + ", ".join(f"{name}: {value}" for name, value in cells.items()) + "}"
    return text[: found.start()] + line + text[found.end() :]


def report(fits: MemoryFits) -> dict[str, Any]:
    """What memory_fit.yaml holds."""
    usable = fits.data.usable
    return {
        "quantile": QUANTILE,
        "pull_to_defaults_rows": PRIOR_ROWS,
        "pull_to_all_eras_rows": PARENT_ROWS,
        "bounds": {name: list(COEFFICIENTS[name][1:3]) for name in fits.pooled},
        "all_eras": fits.pooled,
        "rows": int(usable.sum()),
        "mape": round(mean_error(fits.error[usable]), 4),
        "under": round(under_share(fits.error[usable]), 4),
        "mape_left_out": round(mean_error(fits.error_left_out[usable]), 4),
        "under_left_out": round(under_share(fits.error_left_out[usable]), 4),
        "eras": {
            fit.era: {
                "values": fit.values,
                "rows": fit.n_rows,
                "groups": fit.n_groups,
                "mape": round(fit.error, 4),
                "under": round(fit.under, 4),
                "mape_left_out": round(fit.error_left_out, 4),
                "under_left_out": round(fit.under_left_out, 4),
                "rows_sha256": rows_digest(fit.hashes),
            }
            for fit in fits.fits
        },
    }


def write(fits: MemoryFits) -> None:
    """Profiles that describe their memory, and the report."""
    own = {fit.era: fit.values for fit in fits.fits}
    for name in list_software():
        era = load_era(name)
        text = era.path.read_text(encoding="utf-8")
        if _LINE.search(text):
            pooled = {key: fits.pooled[key] for key in fitted_names(era.software)}
            era.path.write_text(changed(text, own.get(name, pooled)), encoding="utf-8")
    REPORT.write_text(_HEAD + yaml.safe_dump(report(fits), sort_keys=False, width=110), encoding="utf-8")


def main() -> None:
    """Fit, print, and write where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tables", nargs="+", help="CSV files of measured runs")
    parser.add_argument("--write", action="store_true", help="write profiles and planner/validate/memory_fit.yaml")
    asked = parser.parse_args()
    fits = fit_memory(memory_data(backtest(asked.tables)))
    print(yaml.safe_dump(report(fits), sort_keys=False, width=110))
    if asked.write:
        write(fits)


if __name__ == "__main__":
    main()
