"""The backtest end to end on a small table: statuses, order, columns, intervals."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from meshwright.costmodels.load_software import load_era, seen_rows, seen_rows_path
from meshwright.hardware_profiles.errors import InvalidProblemError
from meshwright.planner.validate import backtest as module
from meshwright.planner.validate.backtest import COLUMNS, backtest, rows_csv, widened, write_rows
from meshwright.planner.validate.runs import read_runs, row_sha256

from .conftest import row_text, toy_estimate


@pytest.fixture
def result(write_table: Any) -> Any:
    path = write_table(
        row_text(),
        row_text(recompute="", notes='quoted, with "inches"'.replace('"', "")),
        row_text(gpu="Abacus 9000"),
        row_text(seq_len="many"),
        row_text(outcome="oom", tps_gpu_effective="", micro_batch="32", recompute="none", global_batch_sequences="128"),
        row_text(sp="", notes="two\nlines"),
        row_text(n_gpus="8", dp="2"),
    )
    return backtest([path], estimator=toy_estimate)


def test_statuses_follow_the_cells(result: Any) -> None:
    assert [r.status for r in result.rows] == ["ok", "assumed", "skipped", "skipped", "ok", "assumed", "ok"]
    assert all(r.reason for r in result.rows if r.status != "ok")
    assert all(not r.reason for r in result.rows if r.status == "ok")


def test_oom_rows_are_predicted_and_called(result: Any) -> None:
    oom = result.rows[4]
    assert oom.fits is False and oom.p_fit == 0.0 and oom.tokens_per_s_per_gpu > 0


def test_csv_has_the_columns_in_input_order_with_physical_lines(result: Any, tmp_path: Path) -> None:
    out = tmp_path / "rows.csv"
    write_rows(result, out)
    with out.open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert tuple(rows[0]) == COLUMNS
    assert [int(r["line"]) for r in rows] == [2, 3, 4, 5, 6, 7, 9]  # the sixth row spans two lines
    assert rows[2]["predicted_tokens_per_s_per_gpu"] == "" and rows[2]["fits"] == ""
    assert rows[0]["fits"] == "true" and rows[4]["fits"] == "false"
    assert float(rows[0]["low"]) < float(rows[0]["predicted_tokens_per_s_per_gpu"]) < float(rows[0]["high"])
    assert (
        float(rows[0]["memory_low_gb"]) < float(rows[0]["predicted_peak_memory_gb"]) < float(rows[0]["memory_high_gb"])
    )
    assert not list(tmp_path.glob(".rows*"))


def test_predictions_are_the_cost_models(result: Any) -> None:
    # toy model: 4000 tokens/s, 10% for tp 2, 5% for pp 2, 30% for full recompute
    assert result.rows[0].tokens_per_s_per_gpu == pytest.approx(4000 / 1.45)
    assert result.rows[6].tokens_per_s_per_gpu == pytest.approx(4000 / 1.45)


def test_memory_is_counted_as_the_source_counts(write_table: Any) -> None:
    notes = ("", "max memory reserved", "memory allocated")
    path = write_table(*(row_text(pp="1", dp="8", notes=text) for text in notes))
    peaks = [r.peak_memory_gb for r in backtest([path], estimator=toy_estimate).rows]
    assert peaks[0] - peaks[1] == pytest.approx(2.0)  # no context
    assert peaks[1] - peaks[2] == pytest.approx(1.0)  # no slack


def test_assumptions_widen_the_interval(result: Any) -> None:
    stated, assumed = result.rows[0], result.rows[1]
    width = [(r.high - r.low) / r.tokens_per_s_per_gpu for r in (stated, assumed)]
    assert width[1] > width[0]


def test_widened_is_exact_without_extra() -> None:
    assert widened(2.0, 1.0, 4.0, 0.0) == pytest.approx((1.0, 4.0))


def test_rows_do_not_depend_on_their_results(write_table: Any) -> None:
    a = backtest([write_table(row_text(), name="a.csv")], estimator=toy_estimate).rows[0]
    b = backtest(
        [write_table(row_text(tps_gpu_effective="1", peak_memory_gb="", outcome="oom"), name="b.csv")],
        estimator=toy_estimate,
    ).rows[0]
    assert (a.tokens_per_s_per_gpu, a.peak_memory_gb, a.p_fit) == (b.tokens_per_s_per_gpu, b.peak_memory_gb, b.p_fit)


def test_seen_says_whether_the_profile_was_fitted_on_the_row(
    write_table: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_table(row_text(), row_text(tps_gpu_effective="5000"))
    first = read_runs(path)[0]
    assert [r.seen for r in backtest([path], estimator=toy_estimate).rows] == [False, False]
    monkeypatch.setattr(module, "seen_rows", lambda era: frozenset({row_sha256(first.cells)}))
    assert [r.seen for r in backtest([path], estimator=toy_estimate).rows] == [True, False]


def test_seen_rows_stand_beside_the_profile(tmp_path: Path) -> None:
    profile = tmp_path / "own.yaml"
    profile.write_text("name: own\nframework: jax\nrelease: test\nattention: unfused\n")
    assert seen_rows(load_era(str(profile))) == frozenset()
    seen_rows_path(profile).parent.mkdir()
    (tmp_path / "own2.yaml").write_text(profile.read_text())
    seen_rows_path(tmp_path / "own2.yaml").write_text('["abc"]')
    assert seen_rows(load_era(str(tmp_path / "own2.yaml"))) == {"abc"}


def test_same_input_gives_the_same_bytes(write_table: Any) -> None:
    path = write_table(row_text(), row_text(recompute="", tp="", pp="", dp="", cp=""))
    assert rows_csv(backtest([path], estimator=toy_estimate)) == rows_csv(backtest([path], estimator=toy_estimate))


def test_errors_are_sentences(tmp_path: Path, result: Any) -> None:
    with pytest.raises(InvalidProblemError, match="at least one"):
        backtest([])
    with pytest.raises(InvalidProblemError, match="cannot write"):
        write_rows(result, tmp_path / "absent" / "rows.csv")
