"""The backtest's table for people (at most 100 columns), for machines (JSON) and for ``docs/accuracy.md``."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .scores import Score, ScoreTable


@dataclass(frozen=True, slots=True)
class Column:
    """One column: heading, attribute of ``Score``, how its value is written."""

    heading: str
    attribute: str
    kind: str = "percent"
    meaning: str = ""


TIME_COLUMNS = (
    Column("rows", "rows", "count", "rows of the table"),
    Column("pred", "predicted", "count", "rows predicted"),
    Column("cover", "coverage", "percent", "predicted share of the rows that state enough"),
    Column("MAPE", "mape", "percent", "mean absolute relative error of tokens/s per GPU"),
    Column("median", "median", "percent", "median of the absolute error"),
    Column("p90", "p90", "percent", "90th percentile of the absolute error"),
    Column("bias", "bias", "signed", "median signed error, positive: predicted too fast"),
    Column("Spear", "spearman", "ratio", "rank correlation over the set"),
    Column("in90", "interval_coverage", "percent", "measured values inside the 90% interval"),
    Column("grp", "choice_groups", "count", "groups of one model, GPUs and batch with three or more plans"),
    Column("best", "best_picked", "percent", "groups whose best plan was picked"),
    Column("regret", "regret", "percent", "mean loss of the picked plan"),
)
MEMORY_COLUMNS = (
    Column("rows", "memory_rows", "count", "rows with a measured peak and a known way of counting"),
    Column("MAPE", "memory_mape", "percent", "mean absolute relative error of peak memory"),
    Column("under", "memory_under", "percent", "rows under-predicted by more than 5%"),
    Column("OOM", "oom_rows", "count", "rows that ran out of memory"),
    Column("recall", "oom_recall", "percent", "of these, called infeasible"),
    Column("precis", "oom_precision", "percent", "of those called infeasible, truly so"),
    Column("alarms", "false_alarms", "percent", "rows that ran, called infeasible"),
)


def cell(score: Score, column: Column) -> str:
    """Text of one cell, ``-`` where nothing could be scored."""
    value = getattr(score, column.attribute)
    if isinstance(value, float) and math.isnan(value):
        return "-"
    if column.kind == "count":
        return str(int(value)) if value else "-"
    if column.kind == "ratio":
        return f"{value:.2f}"
    return f"{100 * value:+.1f}" if column.kind == "signed" else f"{100 * value:.1f}"


def _short(name: str, width: int) -> str:
    return name if len(name) <= width else name[: width - 1] + "~"


def _text_table(table: ScoreTable, columns: Sequence[Column], heading: str, width: int, wanted: str) -> list[str]:
    rows = [(n, s) for n, s in table.sets.items() if getattr(s, wanted)]
    if not rows:
        return []
    widths = [max(len(c.heading), *(len(cell(s, c)) for _, s in rows)) for c in columns]
    first = min(max(len(heading), *(len(n) for n, _ in rows)), width - sum(w + 1 for w in widths))
    lines = [heading.ljust(first) + "".join(" " + c.heading.rjust(w) for c, w in zip(columns, widths, strict=True))]
    for name, score in rows:
        cells = "".join(" " + cell(score, c).rjust(w) for c, w in zip(columns, widths, strict=True))
        lines.append(_short(name, first).ljust(first) + cells)
    return lines


def text_report(table: ScoreTable, *, width: int = 100) -> str:
    """Throughput and memory tables in at most ``width`` columns; percentages without their sign."""
    lines = _text_table(table, TIME_COLUMNS, "tokens/s per GPU, %", width, "rows")
    lines += ["", *_text_table(table, MEMORY_COLUMNS, "peak memory, %", width, "memory_rows")]
    if table.skipped:
        lines += ["", "skipped:"]
        for reason, count in sorted(table.skipped.items(), key=lambda item: -item[1]):
            lines.append(_short(f"{count:5d}  {reason}", width))
    if table.duplicates:
        lines.append(f"{table.duplicates} duplicate listings left out of the scores")
    return "\n".join(lines) + "\n"


def json_report(table: ScoreTable, extra: dict[str, Any] | None = None) -> str:
    """The same as JSON, ``null`` where nothing could be scored."""
    return json.dumps({"kind": "meshwright.backtest/v1", **table.to_dict(), **(extra or {})}, indent=1) + "\n"


def markdown_table(table: ScoreTable, columns: Sequence[Column], heading: str, wanted: str = "rows") -> str:
    """One Markdown table of the sets that have a value in ``wanted``."""
    lines = ["| " + " | ".join([heading, *(c.heading for c in columns)]) + " |"]
    lines.append("|" + "---|" + "---:|" * len(columns))
    for name, score in table.sets.items():
        if getattr(score, wanted):
            lines.append("| " + " | ".join([name, *(cell(score, c) for c in columns)]) + " |")
    return "\n".join(lines) + "\n"


def markdown_report(table: ScoreTable) -> str:
    """Both tables and the meaning of their columns, for ``docs/accuracy.md``."""
    parts = [markdown_table(table, TIME_COLUMNS, "tokens/s per GPU (%)")]
    parts.append(markdown_table(table, MEMORY_COLUMNS, "peak memory (%)", "memory_rows"))
    parts.append("\n".join(f"- **{c.heading}**: {c.meaning}" for c in (*TIME_COLUMNS, *MEMORY_COLUMNS)) + "\n")
    if table.skipped:
        lines = [f"- {count} rows: {reason}" for reason, count in sorted(table.skipped.items(), key=lambda i: -i[1])]
        parts.append("Skipped:\n\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)
