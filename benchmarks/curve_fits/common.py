"""Shared parts of the curve fits: bounded robust least squares, cross-validation by group, hashes, output form."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from meshwright.hardware_profiles.load import GPU_DIR
from meshwright.hardware_profiles.types import Curve, Fit, Gpu, Provenance

Array = NDArray[np.float64]
Coefficients = dict[str, float]
#: Measured table name -> shipped GPU.
DEVICES = {
    "a100_sxm": "a100-sxm-80gb",
    "h100_sxm": "h100-sxm-80gb",
    "h200_sxm": "h200-sxm-141gb",
    "b200_sxm": "b200-sxm-180gb",
    "b300_sxm": "b300-sxm-288gb",
    "gb200": "gb200-186gb",
    "gb300": "gb300-288gb",
    "l40s": "l40s-48gb",
    "rtx_pro_6000_server": "rtx-pro-6000-blackwell-96gb",
}


@dataclass(frozen=True)
class Rows:
    """Measured seconds with what predicts them.

    Attributes:
        predict: coefficients -> seconds of every row.
        seconds: measured; weight: of each row; group: shape group, left out together in cross-validation.
        lines: text of each row, hashed into the profile; classes: name -> mask, for the printed error table.
    """

    predict: Callable[[Coefficients], Array]
    seconds: Array
    weight: Array
    group: NDArray[Any]
    lines: list[str]
    classes: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)


def curve(coefficients: Mapping[str, float]) -> Curve:
    return Curve(coefficients=dict(coefficients), provenance=Provenance.FITTED, fit=Fit(source="fit in progress"))


def bare_gpu(name: str) -> Gpu:
    """The datasheet part of a shipped GPU, without curves (they are what is being fitted)."""
    raw = yaml.safe_load((GPU_DIR / f"{name}.yaml").read_text())
    return Gpu(
        name=name,
        vendor=raw["vendor"],
        architecture=raw["architecture"],
        peak_flops={k: v["value"] * 1e12 for k, v in raw["peak_tflops"].items()},
        memory_bytes=raw["memory_gib"]["value"] * 2.0**30,
        hbm_bytes_per_s=raw["hbm_gbytes_per_s"]["value"] * 1e9,
        host_bytes_per_s=raw["host_gbytes_per_s"]["value"] * 1e9,
        sm_count=int(raw["sm_count"]["value"]),
        power_w=raw["power_w"]["value"],
        gemm={},
        attention={},
        memory_bound=curve({"efficiency": 0.8, "floor_s": 2.5e-6}),
        collectives={},
    )


def solve(
    rows: Rows, bounds: Mapping[str, tuple[float, float, float]], keep: NDArray[np.bool_] | None = None
) -> Coefficients:
    """Coefficients within ``(low, start, high)`` that minimise the soft-L1 loss of the log ratio."""
    from scipy.optimize import least_squares

    names = list(bounds)
    low, start, high = (np.array([bounds[n][i] for n in names]) for i in range(3))
    span = high - low  # zero for a fixed coefficient
    mask = np.ones(len(rows.seconds), bool) if keep is None else keep
    root = np.sqrt(rows.weight[mask])

    def residual(unit: Array) -> Array:
        predicted = rows.predict(dict(zip(names, (low + unit * span).tolist(), strict=True)))
        out: Array = root * np.log(predicted[mask] / rows.seconds[mask])
        return out

    first = np.clip((start - low) / np.where(span > 0, span, 1.0), 1e-6, 1 - 1e-6)
    found = least_squares(residual, first, bounds=(0.0, 1.0), loss="soft_l1", f_scale=0.1, diff_step=1e-3, max_nfev=80)
    return dict(zip(names, (low + found.x * span).tolist(), strict=True))


def left_out_error(rows: Rows, bounds: Mapping[str, tuple[float, float, float]], folds: int = 4) -> Array:
    """Relative error of each row, predicted by a fit that saw no row of its group's fold."""
    names, index = np.unique(rows.group, return_inverse=True)
    fold = np.random.default_rng(0).permutation(len(names))[index] % folds
    error = np.zeros(len(rows.seconds))
    for k in range(min(folds, len(names))):
        out = fold == k
        if out.any() and not out.all():
            error[out] = (rows.predict(solve(rows, bounds, ~out)) / rows.seconds - 1.0)[out]
    return error


def sha256(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def text_rows(frame: Any, columns: list[str]) -> list[str]:
    return [",".join(str(v) for v in row) for row in frame[columns].itertuples(index=False)]


def entry(
    coefficients: Mapping[str, float],
    source: str,
    *,
    rows: Rows | None = None,
    mape: float = 0.0,
    provenance: str = "fitted",
    borrowed_from: str = "",
) -> dict[str, Any]:
    """One curve in the form of the curve files, six significant digits."""
    fit: dict[str, Any] = {"source": source, "n_rows": len(rows.seconds) if rows else 0, "mape": round(float(mape), 4)}
    fit["rows_sha256"] = sha256(rows.lines) if rows else ""
    fit["borrowed_from"] = borrowed_from
    numbers = {k: 0.0 if abs(v) < 1e-12 else float(f"{v:.6g}") for k, v in coefficients.items()}
    return {"coefficients": numbers, "provenance": provenance, "fit": fit}


def borrow(
    lent: Mapping[str, Any], lender: str, why: str = "", changes: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """The same curve for another device: no rows of its own, a datasheet value, the lender named."""
    source = lent["fit"]["source"] + (f"; {why}" if why else "")
    numbers = {**lent["coefficients"], **(changes or {})}
    return entry(numbers, source, mape=lent["fit"]["mape"], provenance="datasheet", borrowed_from=lender)


def report(title: str, rows: Rows, error: Array) -> None:
    """Print MAPE and bias of out-of-group errors by class of rows."""
    parts = [f"all {np.abs(error).mean():.3f} ({error.mean():+.3f}) n={len(error)}"]
    for name, mask in rows.classes.items():
        if mask.any():
            parts.append(f"{name} {np.abs(error[mask]).mean():.3f} ({error[mask].mean():+.3f})")
    print(f"{title:44s} " + " | ".join(parts))


def read(data: Path, name: str) -> Any:
    import pandas as pd

    return pd.read_csv(data / name)
