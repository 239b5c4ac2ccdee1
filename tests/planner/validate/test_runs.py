"""Reading tables of runs: physical lines, quoting, and one sentence for a file that cannot be used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from meshwright.hardware_profiles.errors import InvalidProblemError
from meshwright.planner.validate.runs import BadCellError, Run, read_runs, row_sha256

HEADER = "gpu,n_gpus,n_layers,hidden,seq_len,global_batch_sequences,notes"


def table(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "t.csv"
    path.write_bytes(text.encode())
    return path


def test_lines_are_physical_with_quoted_breaks_and_blank_lines(tmp_path: Path) -> None:
    text = f'{HEADER}\nA100,8,1,2,3,4,"two\nlines, quoted"\n\nH100,8,1,2,3,4,x\n'
    runs = read_runs(table(tmp_path, text))
    assert [(r.line, r.text("gpu")) for r in runs] == [(2, "A100"), (5, "H100")]
    assert runs[0].text("notes") == "two\nlines, quoted"


def test_windows_line_ends_and_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"\xef\xbb\xbf" + f"{HEADER}\r\nA100,8,1,2,3,4,\r\n".encode())
    assert read_runs(path)[0].line == 2


def test_row_of_wrong_length_is_broken_not_fatal(tmp_path: Path) -> None:
    runs = read_runs(table(tmp_path, f"{HEADER}\nA100,8\nH100,8,1,2,3,4,x\n"))
    assert "2 cells, the header 7" in runs[0].broken and not runs[1].broken


def test_missing_optional_column_reads_as_empty(tmp_path: Path) -> None:
    run = read_runs(table(tmp_path, f"{HEADER}\nA100,8,1,2,3,4,\n"))[0]
    assert run.text("recompute") == "" and run.number("tp") is None


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("gpu,n_gpus\nA100,8\n", "lacks the column n_layers"),
        ("", "is empty"),
        (f"{HEADER},gpu\nA100,8,1,2,3,4,,B\n", "'gpu' twice"),
        (f'{HEADER}\nA100,8,1,2,3,4,"open\n', "line 2"),
    ],
)
def test_unusable_table_is_one_sentence(tmp_path: Path, text: str, word: str) -> None:
    with pytest.raises(InvalidProblemError, match=word):
        read_runs(table(tmp_path, text))


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(InvalidProblemError, match="cannot be read"):
        read_runs(tmp_path / "absent.csv")
    with pytest.raises(InvalidProblemError, match="cannot be read"):
        read_runs(tmp_path)
    binary = tmp_path / "b.csv"
    binary.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(InvalidProblemError, match="UTF-8"):
        read_runs(binary)


@pytest.mark.parametrize("text", ["eight", "-8", "0", "nan", "inf", "8.5"])
def test_bad_numbers_are_named(text: str) -> None:
    with pytest.raises(BadCellError, match="n_gpus"):
        Run("f", 2, {"n_gpus": text}).integer("n_gpus")


def test_hash_ignores_notes_and_number_style_but_not_results() -> None:
    base: dict[str, Any] = {"gpu": "A100", "n_gpus": "8", "tps_gpu_effective": "100", "notes": "a"}
    assert row_sha256(base) == row_sha256({**base, "n_gpus": "8.0", "notes": "b", "tp": ""})
    assert row_sha256(base) != row_sha256({**base, "tps_gpu_effective": "101"})
