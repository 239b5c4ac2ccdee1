"""Writing fitted coefficients into software profiles, with their error and the hashes of the rows that they saw."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import yaml

from ...costmodels.load_software import load_era, read_era, seen_rows_path
from ...hardware_profiles.errors import InvalidProblemError
from .backtest import backtest
from .calibrate import CalibrationData, EraFit, Floats, calibrate
from .held_out import error_of, held_out_steps
from .runs import row_sha256

_MARK = "# -- fitted; written by calibration, do not edit below --"


def rows_digest(hashes: Sequence[str]) -> str:
    """One hash over the sorted row hashes."""
    return hashlib.sha256("\n".join(sorted(hashes)).encode()).hexdigest()


def save_fits(
    data: CalibrationData, fits: Sequence[EraFit], left_out: Floats, folder: Path | None = None
) -> list[Path]:
    """Write each fit into its era's profile (below a mark; what a person wrote above it stays as it is).

    Args:
        left_out: step seconds of every row predicted without its group; its error becomes the profile's.
        folder: where to write instead of beside the shipped profiles.

    Raises:
        InvalidProblemError: a file cannot be written.
    """
    return [_save(data, fit, error_of(data, left_out, fit.era), folder) for fit in fits]


def calibrate_tables(
    paths: Sequence[str | Path],
    folder: Path | None = None,
    *,
    eras: Sequence[str] | None = None,
    report: Callable[[str], None] | None = None,
) -> list[Path]:
    """Fit every era on some tables of measured runs and write the profiles: the whole calibration in one call.

    The rows are priced with the coefficients that the profiles hold, which decides what fills unstated cells only.
    """
    data, fits = calibrate(backtest(paths), eras, report=report)
    return save_fits(data, fits, held_out_steps(data, fits, "group"), folder)


def _save(data: CalibrationData, fit: EraFit, error_out: float, folder: Path | None) -> Path:
    shipped = load_era(fit.era).path
    target = (folder or shipped.parent) / shipped.name
    mine = data.usable & (data.era == fit.era)
    hashes = sorted({row_sha256(data.results[i].run.cells) for i in np.flatnonzero(mine)})
    block = {
        "coefficients": fit.coefficients,
        "fit": {
            "source": "measured runs: " + ", ".join(sorted(set(data.source[mine]))),
            "n_rows": fit.n_rows,
            "n_groups": fit.n_groups,
            "mape": round(error_out, 4),
            "mape_in_sample": round(fit.error_in, 4),
            "rows_sha256": rows_digest(hashes),
        },
    }
    text = shipped.read_text(encoding="utf-8").split(_MARK)[0].rstrip() + "\n"
    text += f"{_MARK}\n{yaml.safe_dump(block, sort_keys=False, width=110)}"
    beside = seen_rows_path(target)
    try:
        beside.parent.mkdir(parents=True, exist_ok=True)
        for path, content in ((beside, json.dumps(hashes, indent=0) + "\n"), (target, text)):
            part = path.with_name(f".{path.name}.part")
            part.write_text(content, encoding="utf-8")
            part.replace(path)
    except OSError as error:
        raise InvalidProblemError(f"cannot write {target}: {error.strerror or error}.") from None
    read_era(target)  # what was written must be readable
    return target
