"""Tables of measured runs: reading them strictly, with physical line numbers, and hashing their rows.

A table is a CSV with the columns of ``REQUIRED`` (others are optional, unknown ones are ignored). A file that
cannot be read or lacks a column is the user's to mend (one sentence); a bad row only costs that row.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...hardware_profiles.errors import InvalidProblemError

#: without these no row of the table can be predicted.
REQUIRED: tuple[str, ...] = ("gpu", "n_gpus", "n_layers", "hidden", "seq_len", "global_batch_sequences")
#: what a table of one's own runs must have; the cluster and the model may be named beside it.
REQUIRED_OWN: tuple[str, ...] = ("n_gpus", "seq_len", "global_batch_sequences")
#: what identifies a run and its result; notes and addresses may be reworded without making it another run.
IDENTITY: tuple[str, ...] = (
    "source_id", "framework", "task", "outcome", "gpu", "n_gpus", "model_name", "n_layers", "hidden", "n_heads",
    "n_kv_heads", "ffn_hidden", "vocab", "n_experts", "top_k", "seq_len", "global_batch_sequences", "micro_batch",
    "tp", "sp", "pp", "vp", "cp", "ep", "dp", "zero_stage_or_fsdp", "recompute", "precision", "step_time_s",
    "peak_memory_gb", "tps_gpu_effective",
)  # fmt: skip


class BadCellError(ValueError):
    """A cell that should hold a number does not; the message names the column and the text."""


@dataclass(frozen=True, slots=True)
class Run:
    """One row of a table.

    Attributes:
        file: path as the user gave it; line: physical line of the row's first character (the header is 1; 0: the
            row was read from a log).
        cells: stripped text by column; a column that the table lacks reads as empty.
        broken: why the row cannot be read at all, empty if it can.
    """

    file: str
    line: int
    cells: Mapping[str, str]
    broken: str = ""

    def text(self, column: str) -> str:
        """Text of a cell, empty if the cell or the column is absent."""
        return self.cells.get(column, "")

    def number(self, column: str) -> float | None:
        """A positive finite number, ``None`` for an empty cell.

        Raises:
            BadCellError: the cell holds something else.
        """
        raw = self.text(column)
        if not raw:
            return None
        try:
            value = float(raw)
        except ValueError:
            raise BadCellError(f"{column} is {raw[:40]!r}, not a number") from None
        if not 0.0 < value < 1e18:
            raise BadCellError(f"{column} is {raw[:40]!r}, not a positive number")
        return value

    def integer(self, column: str) -> int | None:
        """A positive whole number, ``None`` for an empty cell.

        Raises:
            BadCellError: the cell holds something else.
        """
        value = self.number(column)
        if value is None:
            return None
        if value != int(value):
            raise BadCellError(f"{column} is {self.text(column)!r}, not a whole number")
        return int(value)

    @property
    def place(self) -> str:
        """File and line for messages; a log has no line."""
        return f"{self.file}, line {self.line}" if self.line else self.file

    @property
    def source(self) -> str:
        """Source id of the row, or the file's name."""
        return self.text("source_id") or Path(self.file).stem


def read_runs(path: str | Path, required: Sequence[str] = REQUIRED) -> list[Run]:
    """Rows of one table in file order.

    Args:
        required: columns without which the table is refused.

    Raises:
        InvalidProblemError: the file is missing, is not UTF-8 CSV, is empty or lacks a required column.
    """
    shown = str(path)
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as handle:
            return _parse(handle, shown, required)
    except UnicodeDecodeError:
        raise InvalidProblemError(f"{shown} is not UTF-8 text; save the table as CSV in UTF-8.") from None
    except OSError as error:
        raise InvalidProblemError(f"{shown} cannot be read: {error.strerror or error}.") from None


def _parse(lines: Iterable[str], shown: str, required: Sequence[str]) -> list[Run]:
    reader = csv.reader(lines, strict=True)
    runs: list[Run] = []
    header: list[str] | None = None
    line = 1
    while True:
        try:
            record = next(reader, None)
        except csv.Error as error:
            raise InvalidProblemError(f"{shown}, line {line}: {error}; check the quotes of this row.") from None
        if record is None:
            break
        if header is None:
            header = _checked_header(record, shown, required)
        elif any(cell.strip() for cell in record):
            runs.append(_run(record, header, shown, line))
        line = reader.line_num + 1
    if header is None:
        raise InvalidProblemError(f"{shown} is empty; a table of runs starts with a header line.")
    return runs


def _checked_header(record: Sequence[str], shown: str, required: Sequence[str]) -> list[str]:
    header = [name.strip() for name in record]
    missing = [name for name in required if name not in header]
    if missing:
        raise InvalidProblemError(f"{shown} lacks the column {', '.join(missing)}; docs/backtest.md lists the columns.")
    twice = sorted({name for name in header if name and header.count(name) > 1})
    if twice:
        raise InvalidProblemError(f"{shown} has the column {twice[0]!r} twice; keep one.")
    return header


def _run(record: Sequence[str], header: Sequence[str], shown: str, line: int) -> Run:
    cells = {name: cell.strip() for name, cell in zip(header, record, strict=False) if name}
    broken = ""
    if len(record) != len(header):
        broken = f"the row has {len(record)} cells, the header {len(header)}"
    return Run(shown, line, cells, broken)


def row_sha256(cells: Mapping[str, str]) -> str:
    """Hash that says whether two rows are the same run with the same result (first 16 hex digits of SHA-256).

    Taken over ``column=text`` of the non-empty ``IDENTITY`` columns; numbers are written canonically, so that
    ``8`` and ``8.0`` agree.
    """
    parts = [f"{name}={_canonical(cells[name])}" for name in IDENTITY if cells.get(name)]
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:16]


def _canonical(text: str) -> str:
    try:
        return format(float(text), ".9g")
    except ValueError:
        return text.strip().lower()
