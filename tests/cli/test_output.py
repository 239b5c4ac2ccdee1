import io
import json
import os
import stat
import time

import pytest

from meshwright.cli.output import print_json, progress, write_text
from meshwright.cli.table import number, percent, render
from meshwright.hardware_profiles.errors import InvalidProblemError


def test_a_file_is_never_overwritten_unasked(tmp_path):
    path = tmp_path / "plan.json"
    write_text(path, "one\n", force=False, flag="--out")
    with pytest.raises(InvalidProblemError, match=r"--out: .*exists.*--force"):
        write_text(path, "two\n", force=False, flag="--out")
    assert path.read_text() == "one\n"
    write_text(path, "two\n", force=True, flag="--out")
    assert path.read_text() == "two\n"
    assert [p.name for p in tmp_path.iterdir()] == ["plan.json"]


def test_a_file_has_the_permissions_of_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        write_text(tmp_path / "f", "", force=False, flag="-o")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o640


@pytest.mark.parametrize("name", ["", "no/such/file", "."])
def test_a_place_that_cannot_be_written_is_named(tmp_path, name):
    with pytest.raises(InvalidProblemError, match=r"^--out: "):
        write_text(tmp_path / name, "", force=True, flag="--out")


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "f"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "\ud800", force=True, flag="-o")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_json_rounds_to_nine_digits(capsys):
    print_json({"a": 1 / 3, "b": (1, 2.0), 3: {"c": 1e300 / 7}})
    assert json.loads(capsys.readouterr().out) == {"a": 0.333333333, "b": [1, 2.0], "3": {"c": 1.42857143e299}}


def test_progress_is_silent_where_nobody_watches(capsys):
    with progress("rows") as report:
        report(1, 2)
    assert capsys.readouterr() == ("", "")


def test_progress_appears_where_somebody_watches_long_enough(monkeypatch):
    watched = io.StringIO()
    watched.isatty = lambda: True
    monkeypatch.setattr("sys.stderr", watched)
    with progress("rows", after_s=60.0) as report:
        report(1, 2)
    assert watched.getvalue() == ""
    with progress("rows", after_s=0.0) as report:
        deadline = time.monotonic() + 5.0
        while "rows" not in watched.getvalue() and time.monotonic() < deadline:
            report(1, 2)
            time.sleep(0.01)
    assert "rows" in watched.getvalue()


def test_tables_stay_within_a_hundred_columns():
    text = render(["a", "b"], [["x" * 90, "y" * 40], ["1", "2"]], left=(0,))
    assert max(map(len, text.splitlines())) == 100
    assert text.splitlines()[1] == "x" * 58 + "~ " + "y" * 40


def test_columns_align():
    assert render(["name", "n"], [["a", "10"], ["bcdef", "7"]], left=(0,)) == "name    n\na      10\nbcdef   7"


@pytest.mark.parametrize(("value", "text"), [(0, "0"), (0.0123, "0.012"), (3.14159, "3.14"), (1234.56, "1,234.6")])
def test_numbers(value, text):
    assert number(value) == text


def test_percent():
    assert percent(0.4567) == "45.7%"
