"""Scores against values worked out by hand."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from meshwright.planner.validate.backtest import backtest
from meshwright.planner.validate.report import json_report, markdown_report, text_report
from meshwright.planner.validate.scores import choice_groups, score, score_rows, spearman

from .conftest import row_text, toy_estimate

FAST = 4000 / 1.15  # toy prediction of tp 2, pp 2 without recompute


def scored(write_table: Any, *lines: str) -> Any:
    return backtest([write_table(*lines)], estimator=toy_estimate).rows


def test_errors_by_hand(write_table: Any) -> None:
    rows = scored(
        write_table,
        row_text(recompute="none", tps_gpu_effective=str(FAST / 1.10)),
        row_text(recompute="none", tps_gpu_effective=str(FAST / 0.80)),
        row_text(recompute="none", tps_gpu_effective=str(FAST)),
        row_text(recompute="none", tps_gpu_effective=""),
    )
    s = score(rows)
    assert (s.rows, s.predicted, s.scored, s.coverage) == (4, 4, 3, 1.0)
    assert s.mape == pytest.approx(0.10) and s.median == pytest.approx(0.10)
    assert s.p90 == pytest.approx(np.quantile([0.1, 0.2, 0.0], 0.9)) and s.bias == pytest.approx(0.0, abs=1e-12)


def test_choice_groups_need_three_plans_and_regret_is_the_loss(write_table: Any) -> None:
    plans = (("1", "8"), ("2", "4"), ("4", "2"))  # the toy model likes tp 1 best
    lines = [
        row_text(recompute="none", tp=tp, dp=dp, tps_gpu_effective=v)
        for (tp, dp), v in zip(plans, ("900", "1000", "500"), strict=True)
    ]
    rows = scored(write_table, *lines, row_text(recompute="none", global_batch_sequences="32"))
    groups = choice_groups(rows)
    assert [len(g) for g in groups] == [3]
    s = score(rows)
    assert (s.choice_groups, s.best_picked) == (1, 0.0)
    assert s.regret == pytest.approx(0.1)
    assert s.group_spearman == pytest.approx(0.5)


def test_large_groups_are_ranked_together_and_heads_make_another_model(write_table: Any) -> None:
    plans = (("1", "8", "1"), ("1", "8", "2"), ("2", "4", "1"), ("2", "4", "2"), ("4", "2", "1"))
    lines = [
        row_text(recompute="none", tp=tp, dp=dp, micro_batch=micro, tps_gpu_effective=str(1000 - 100 * i))
        for i, (tp, dp, micro) in enumerate(plans)
    ]
    whole = score(scored(write_table, *lines))
    assert whole.large_group_spearman == pytest.approx(whole.group_spearman)
    assert math.isnan(score(scored(write_table, *lines[:4])).large_group_spearman)
    other = row_text(recompute="none", tp="4", dp="2", n_heads="8", n_kv_heads="8", tps_gpu_effective="400")
    assert [len(g) for g in choice_groups(scored(write_table, *lines, other))] == [5]


def test_repeated_runs_of_one_plan_are_one_plan(write_table: Any) -> None:
    rows = scored(write_table, row_text(), row_text(tps_gpu_effective="4100"), row_text(tps_gpu_effective="4200"))
    assert choice_groups(rows) == []


def test_duplicates_inconsistent_and_fine_tuning_rows_stand_apart(write_table: Any) -> None:
    rows = scored(
        write_table,
        row_text(),
        row_text(notes="DUPLICATE LISTING of the row above"),
        row_text(notes="SOURCE INCONSISTENT: dp"),
        row_text(task="lora", notes="LoRA r=16"),
    )
    table = score_rows(rows)
    assert table.duplicates == 1
    assert table.sets["lab"].rows == 2 and table.sets["lab"].inconsistent == 1 and table.sets["lab"].scored == 1
    assert table.sets["lab (fine-tuning)"].rows == 1
    assert table.sets["all pre-training"].rows == 2


def test_memory_and_outcomes(write_table: Any) -> None:
    nvidia = "used/total GiB (nvidia-smi style)"
    gib = 2.0**30 / 1e9
    # 2 sequences, tp 2, no recompute: 40 + 3 GB on the device
    rows = scored(
        write_table,
        row_text(pp="1", dp="8", recompute="none", notes=nvidia, peak_memory_gb=str(43 / gib)),
        row_text(pp="1", dp="8", recompute="none", notes=nvidia, peak_memory_gb=str(2 * 43 / gib)),
        row_text(
            pp="1", dp="8", recompute="none", micro_batch="16", outcome="oom", peak_memory_gb="", tps_gpu_effective=""
        ),
        row_text(pp="1", dp="8", recompute="none", outcome="oom", peak_memory_gb="", tps_gpu_effective=""),
        row_text(pp="1", dp="8", recompute="none", micro_batch="16", peak_memory_gb=""),
        row_text(
            pp="1", dp="8", recompute="none", outcome="oom", notes="OOM / not run (dash in table)", tps_gpu_effective=""
        ),
    )
    s = score(rows)
    assert s.memory_rows == 2 and s.memory_mape == pytest.approx(0.25) and s.memory_under == 0.5
    assert (s.oom_rows, s.oom_recall, s.oom_precision) == (2, 0.5, 0.5)
    assert s.false_alarms == pytest.approx(1 / 3)


def test_coverage_counts_rows_that_state_enough(write_table: Any) -> None:
    rows = scored(write_table, row_text(), row_text(gpu="Abacus"), row_text(seq_len=""))
    table = score_rows(rows)
    assert table.sets["lab"].coverage == 0.5
    assert any(reason.startswith("states enough, yet") for reason in table.skipped)


def test_spearman_edges() -> None:
    assert spearman(np.array([1.0, 2.0, 3.0]), np.array([10.0, 20.0, 30.0])) == pytest.approx(1.0)
    assert math.isnan(spearman(np.array([1.0, 2.0]), np.array([1.0, 2.0])))
    assert math.isnan(spearman(np.array([1.0, 1.0, 1.0]), np.array([1.0, 2.0, 3.0])))


def test_reports(write_table: Any) -> None:
    table = score_rows(scored(write_table, row_text(), row_text(gpu="Abacus"), row_text(source_id="x" * 60)))
    text = text_report(table)
    assert max(len(line) for line in text.splitlines()) <= 100
    assert "MAPE" in text and "Abacus" in text
    data = json.loads(json_report(table))
    assert data["kind"] == "meshwright.backtest/v1" and data["sets"]["lab"]["spearman"] is None
    assert "| lab |" in markdown_report(table)
