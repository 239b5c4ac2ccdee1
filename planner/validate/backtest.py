"""Backtest: every measured run of some tables predicted from its stated configuration.

``backtest(paths)`` never looks at a row's result to predict it; ``scores.py`` compares afterwards, and
``write_rows`` writes one line per row in input order.
"""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ...costmodels.interval import Z90
from ...costmodels.load_software import seen_rows
from ...costmodels.parallel import ParallelConfig
from ...costmodels.training import estimate
from ...hardware_profiles.errors import InvalidProblemError
from .assumptions import extra_sigma
from .pricing import Estimator, PricedRows, RowEstimate, price
from .row_problem import RowProblem, RowSkippedError, row_problem
from .runs import Run, read_runs, row_sha256
from .site import Site

COLUMNS = (
    "file", "line", "status", "predicted_tokens_per_s_per_gpu", "low", "high", "predicted_peak_memory_gb",
    "memory_low_gb", "memory_high_gb", "fits", "p_fit", "seen", "reason",
)  # fmt: skip
_FITS_FROM = 0.5


@dataclass(slots=True)
class RowResult:
    """Prediction of one row.

    Attributes:
        status: ``ok`` (priced as stated), ``assumed`` or ``skipped``; reason: assumptions, or why it was skipped.
        low, high, memory_low_gb, memory_high_gb: 90% bounds. Memory is in 10^9 bytes and counted as the source
            counts it; ``fits`` and ``p_fit`` are about the whole device.
        seen: the software's coefficients were fitted on this very row.
    """

    run: Run
    status: str
    reason: str = ""
    tokens_per_s_per_gpu: float = math.nan
    low: float = math.nan
    high: float = math.nan
    peak_memory_gb: float = math.nan
    memory_low_gb: float = math.nan
    memory_high_gb: float = math.nan
    fits: bool | None = None
    p_fit: float = math.nan
    seen: bool = False
    config: ParallelConfig | None = None
    problem: RowProblem | None = None


@dataclass(slots=True)
class BacktestResult:
    """All rows in input order, and what is needed to price them again."""

    rows: list[RowResult]
    priced: PricedRows | None = None

    @property
    def predicted(self) -> list[RowResult]:
        """Rows with a prediction, in input order."""
        return [row for row in self.rows if row.status != "skipped"]


def backtest(paths: Sequence[str | Path], *, estimator: Estimator = estimate) -> BacktestResult:
    """Predict every row of the tables.

    Raises:
        InvalidProblemError: no table given, or one that cannot be read.
    """
    if not paths:
        raise InvalidProblemError("backtest needs at least one table of runs (CSV).")
    runs = [run for path in paths for run in read_runs(path)]
    return predict_runs(runs, estimator=estimator)


def predict_runs(runs: Sequence[Run], *, estimator: Estimator = estimate, site: Site | None = None) -> BacktestResult:
    """Predict rows already read, in their order; ``site`` says where a user's own runs were made."""
    results: list[RowResult | None] = [None] * len(runs)
    problems: list[RowProblem] = []
    places: list[int] = []
    for i, run in enumerate(runs):
        try:
            problems.append(row_problem(run, site))
            places.append(i)
        except RowSkippedError as skipped:
            results[i] = RowResult(run, "skipped", str(skipped))
    priced = price(problems, estimator)
    for k, i in enumerate(places):
        results[i] = _result(problems[k], priced.estimates[k], priced.failures.get(k, ""))
    return BacktestResult([r for r in results if r is not None], priced)


def _result(row: RowProblem, found: RowEstimate | None, failure: str) -> RowResult:
    if found is None or not math.isfinite(found.step_s):
        return RowResult(row.run, "skipped", failure or "the cost model gave no finite time")
    tps = found.tokens_per_s_per_gpu
    time_low, time_high = widened(found.step_s, found.step_low_s, found.step_high_s, extra_sigma(row))
    memory_sigma = _memory_sigma(row)
    low, high = widened(found.peak_bytes, found.peak_low_bytes, found.peak_high_bytes, memory_sigma)
    ratio = found.counted_bytes / found.peak_bytes
    reasons = [sentence for kind in sorted(row.assumed) for sentence in row.assumed[kind]]
    return RowResult(
        row.run,
        "assumed" if reasons else "ok",
        "; ".join(reasons),
        tokens_per_s_per_gpu=tps,
        low=tps * found.step_s / time_high,
        high=tps * found.step_s / time_low,
        peak_memory_gb=found.counted_bytes / 1e9,
        memory_low_gb=low * ratio / 1e9,
        memory_high_gb=high * ratio / 1e9,
        fits=found.p_fit >= _FITS_FROM,
        p_fit=found.p_fit,
        seen=row_sha256(row.run.cells) in seen_rows(row.era),
        config=found.config,
        problem=row,
    )


def _memory_sigma(row: RowProblem) -> float:
    """What assumptions add to log(peak): the setting of recompute, layout and micro-batch decides activations."""
    wide = {"recompute", "layout", "micro_batch", "method", "hardware"}
    return 0.15 if wide & set(row.assumed) else (0.03 if row.assumed else 0.0)


def widened(value: float, low: float, high: float, extra: float) -> tuple[float, float]:
    """Bounds of a 90% interval after an independent spread ``extra`` of log(value) is added to it."""
    below, above = math.log(value / low), math.log(high / value)
    add = Z90 * extra
    return value * math.exp(-math.hypot(below, add)), value * math.exp(math.hypot(above, add))


def rows_csv(result: BacktestResult) -> str:
    """The rows as CSV text, exactly ``COLUMNS`` in input order; floats with six significant digits."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for r in result.rows:
        writer.writerow(
            [
                r.run.file,
                r.run.line,
                r.status,
                *(_text(v) for v in (r.tokens_per_s_per_gpu, r.low, r.high)),
                *(_text(v) for v in (r.peak_memory_gb, r.memory_low_gb, r.memory_high_gb)),
                "" if r.fits is None else str(r.fits).lower(),
                _text(r.p_fit),
                str(r.seen).lower(),
                r.reason,
            ]
        )
    return out.getvalue()


def _text(value: float) -> str:
    return "" if math.isnan(value) else format(value, ".6g")


def write_rows(result: BacktestResult, path: str | Path) -> None:
    """Write ``rows_csv`` to a file, whole or not at all.

    Raises:
        InvalidProblemError: the place cannot be written.
    """
    target = Path(path)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        part.write_text(rows_csv(result), encoding="utf-8", newline="")
        part.replace(target)
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise InvalidProblemError(f"cannot write {path}: {error.strerror or error}.") from None
