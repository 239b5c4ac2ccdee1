"""The shared tables of measured runs, where they are at hand: every row that states enough is predicted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from meshwright.planner.validate.backtest import BacktestResult, backtest
from meshwright.planner.validate.scores import score_rows, states_enough

_HERE = Path(__file__).resolve().parents[3]
DATA = Path(os.environ.get("MESHWRIGHT_DATA", _HERE.parent / "shared" / "data")) / "training_runs"
NAMES = ("bigscience-tr11", "bigscience-tr3m", "dlperf", "flagperf", "mlperf-v5.0", "nemo-docs", "torchtitan")

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="the shared tables of measured runs are not at hand")


@pytest.fixture(scope="module")
def result() -> BacktestResult:
    return backtest([DATA / f"{name}.csv" for name in NAMES])


def test_every_row_that_states_enough_is_predicted(result: BacktestResult) -> None:
    enough = [r for r in result.rows if states_enough(r)]
    skipped = [(r.run.source, r.run.line, r.reason) for r in enough if r.status == "skipped"]
    assert len(enough) > 300
    assert len(skipped) <= 0.05 * len(enough), skipped[:5]


def test_oom_rows_are_predicted_too(result: BacktestResult) -> None:
    oom = [r for r in result.rows if r.run.text("outcome") == "oom" and states_enough(r)]
    assert oom and all(r.status != "skipped" for r in oom)


def test_skipped_rows_have_a_reason_and_predictions_are_finite(result: BacktestResult) -> None:
    for row in result.rows:
        if row.status == "skipped":
            assert row.reason
        else:
            assert 0.0 < row.low < row.tokens_per_s_per_gpu < row.high
            assert 0.0 < row.memory_low_gb < row.memory_high_gb
            assert row.p_fit == row.p_fit and 0.0 <= row.p_fit <= 1.0


def test_fine_tuning_stands_apart(result: BacktestResult) -> None:
    sets = score_rows(result.rows).sets
    assert "mlperf-v5.0 (fine-tuning)" in sets and sets["mlperf-v5.0"].rows == 6
