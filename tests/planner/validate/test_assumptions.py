"""Empty cells: release default first, then the fastest setting that is predicted to fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from meshwright.costmodels.interval import Z90
from meshwright.costmodels.parallel import Recompute
from meshwright.costmodels.residuals import shipped_residuals
from meshwright.planner.validate.assumptions import best_fitting, expand, extra_sigma
from meshwright.planner.validate.pricing import price
from meshwright.planner.validate.row_problem import row_problem
from meshwright.planner.validate.runs import read_runs

from .conftest import row_text, toy_estimate


@pytest.fixture
def priced(write_table: Any) -> Any:
    def run(**changes: str) -> Any:
        row = row_problem(read_runs(write_table(row_text(**changes)))[0])
        return row, price([row], toy_estimate).estimates[0]

    return run


def test_stated_row_has_one_candidate(write_table: Any) -> None:
    row = row_problem(read_runs(write_table(row_text()))[0])
    assert len(expand(row)) == 1 and row.assumed == {}


def test_release_default_is_taken_and_said(priced: Any) -> None:
    row, found = priced(sp="", zero_stage_or_fsdp="")
    assert found.config.sequence_parallel == 0 and found.config.zero_stage == 0
    assert any("sequence_parallel=0 (megatron-lm-2022)" in s for s in row.assumed["default"])


def test_default_that_cannot_matter_is_not_an_assumption(priced: Any) -> None:
    row, _ = priced(sp="", tp="1", dp="8")
    assert "default" not in row.assumed


def test_fastest_recompute_that_fits(priced: Any) -> None:
    row, found = priced(recompute="")
    assert found.config.recompute != int(Recompute.FULL)  # 20 GB fit, and full is 30% slower
    assert "recompute" in row.assumed
    row, found = priced(recompute="", micro_batch="16")  # 160 GB without recompute, 80 + 3 with it: none fits
    assert found.config.recompute == int(Recompute.FULL)


def test_layout_obeys_the_stated_parts_and_the_gpu_count(priced: Any) -> None:
    row, found = priced(tp="", pp="4", dp="", cp="1")
    c = found.config
    assert c.pp == 4 and c.tp * c.pp * c.cp * c.dp == 16
    assert c.tp == 1  # the toy model is slower with tp, and it fits
    assert "layout" in row.assumed


def test_micro_batch_divides_the_batch(priced: Any) -> None:
    _, found = priced(micro_batch="")
    assert 64 % (found.config.micro_batch_size * found.config.dp) == 0


def test_batch_that_does_not_divide_is_priced_as_stated(priced: Any) -> None:
    _, found = priced(global_batch_sequences="60", recompute="")
    assert found.config.micro_batch_size == 2


def test_spread_adds_up(priced: Any) -> None:
    row, _ = priced(recompute="", sp="")
    assumed = shipped_residuals().assumed
    assert extra_sigma(row) == pytest.approx(np.hypot(assumed["recompute"], assumed["default"]) / Z90)


def test_best_fitting_falls_back_to_the_smallest_peak() -> None:
    assert best_fitting(np.array([1.0, 2.0]), np.array([0.1, 0.9]), np.array([9.0, 5.0])) == 1
    assert best_fitting(np.array([1.0, 2.0]), np.array([0.1, 0.2]), np.array([9.0, 5.0])) == 1
    assert best_fitting(np.array([3.0, 2.0]), np.array([0.9, 0.9]), np.array([1.0, 5.0])) == 1
