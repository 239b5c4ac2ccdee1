"""Calibration recovers known coefficients, respects bounds, and never lets a fold see itself."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from meshwright.costmodels.load_software import load_era, read_era
from meshwright.costmodels.residuals import read_residuals
from meshwright.costmodels.software import COEFFICIENTS
from meshwright.planner.validate import pricing
from meshwright.planner.validate.backtest import backtest
from meshwright.planner.validate.calibrate import calibrate, fit_all, inherited, own_prior_rows
from meshwright.planner.validate.evidence import calibration_data, rows_digest
from meshwright.planner.validate.held_out import error_of, fold_masks, held_out_steps, with_steps
from meshwright.planner.validate.pricing import software_with
from meshwright.planner.validate.row_model import RowModel
from meshwright.planner.validate.row_problem import row_problem
from meshwright.planner.validate.runs import read_runs, row_sha256
from meshwright.planner.validate.save_fit import (
    TELLING_GROUPS,
    calibrate_tables,
    calibrated,
    save_fits,
    shipped_half_width,
)
from meshwright.planner.validate.scores import score

from .conftest import Memory, row_text

NAMES = ("gemm_derate", "comm_derate", "step_s", "launch_s")
ERA = "megatron-lm-2022"


def known_estimate(model: Any, workload: Any, config: Any, cluster: Any, software: Any) -> SimpleNamespace:
    """Compute over gemm_derate, traffic over comm_derate, a constant; launch_s has no effect."""
    c = config
    gpus = c.tp * c.cp * c.pp * c.dp
    tokens = workload.global_batch * workload.seq_len
    compute = tokens * model.hidden**2 * model.n_layers / gpus / 2e12
    step = compute / software.coefficient("gemm_derate")
    step = step + 0.3 * compute * np.log2(c.tp) / software.coefficient("comm_derate") + software.coefficient("step_s")
    peak = 1e10 + 0.0 * step
    return SimpleNamespace(
        step_s=step, step_low_s=step / 1.2, step_high_s=step * 1.2, tokens_per_s_per_gpu=tokens / step / gpus,
        peak_bytes=peak, peak_low_bytes=peak * 0.9, peak_high_bytes=peak * 1.1, p_fit=peak / peak,
        memory=Memory(tensors=peak, context_bytes=0.0 * peak, slack_bytes=0.0 * peak),
        waiting_share=0.0 * step,
    )  # fmt: skip


TRUE = {"gemm_derate": 0.8, "comm_derate": 0.6, "step_s": 0.1}


def true_tps(tp: int, batch: int, hidden: int, gpus: int = 16) -> float:
    compute = batch * 2048 * hidden**2 * 24 / gpus / 2e12
    step = compute / TRUE["gemm_derate"] + 0.3 * compute * math.log2(tp) / TRUE["comm_derate"] + TRUE["step_s"]
    return batch * 2048 / step / gpus


@pytest.fixture
def result(write_table: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(pricing, "estimate", known_estimate)
    lines = []
    for source in ("a", "b"):
        for hidden in (1024, 2048, 4096):
            for tp in (1, 2, 4, 8):
                for batch in (64, 512):
                    tps = true_tps(tp, batch, hidden) * (1.02 if (tp, source) == (2, "a") else 1.0)
                    cells = {"hidden": str(hidden), "tp": str(tp), "pp": "1", "dp": str(16 // tp)}
                    cells |= {"ffn_hidden": str(4 * hidden), "global_batch_sequences": str(batch), "micro_batch": "1"}
                    lines.append(row_text(source_id=source, tps_gpu_effective=str(tps), **cells))
    return backtest([write_table(*lines)], estimator=known_estimate)


def test_known_coefficients_come_back(result: Any) -> None:
    (fit,) = calibrate(result, names=NAMES).fits
    assert fit.era == ERA and fit.own
    assert set(fit.coefficients) == set(TRUE), "launch_s moves nothing and must not be fitted"
    for name, value in TRUE.items():
        assert fit.coefficients[name] == pytest.approx(value, rel=0.06)
    assert fit.error_in < 0.01 and fit.n_rows == 48 and not fit.at_bound


def test_every_coefficient_that_moves_the_rows_is_found_without_a_list(result: Any) -> None:
    (fit,) = calibrate(result).fits
    assert set(fit.coefficients) == set(TRUE)


def test_one_wild_row_does_not_pull_the_fit(result: Any) -> None:
    data = calibration_data(result)
    data.measured_step_s[0] *= 5.0
    (fit,) = fit_all(data, names=NAMES).fits
    assert fit.coefficients["gemm_derate"] == pytest.approx(0.8, rel=0.08)


def test_bounds_hold_and_are_reported_where_the_data_ask_for_more(result: Any) -> None:
    data = calibration_data(result)
    data.measured_step_s /= 3.0  # faster than any GPU is
    (fit,) = fit_all(data, names=NAMES).fits
    for name, value in fit.coefficients.items():
        assert COEFFICIENTS[name][1] <= value <= COEFFICIENTS[name][2]
    assert "gemm_derate" in fit.at_bound


def test_a_source_that_is_left_out_is_not_seen(result: Any) -> None:
    whole = calibrate(result, names=NAMES, leave_out=["b"])
    assert whole.fits[0].n_rows == 24
    assert set(whole.data.source[whole.data.usable]) == {"a"}
    data = calibration_data(result, ["b"])
    data.measured_step_s[data.source == "b"] *= 2.0
    assert fit_all(data, names=NAMES).fits[0].coefficients == whole.fits[0].coefficients


def test_folds_are_disjoint_and_cover_the_era(result: Any) -> None:
    data = calibration_data(result)
    for by, count in (("group", 6), ("source", 2)):
        masks = fold_masks(data, ERA, by)
        assert len(masks) == count
        assert (np.sum(masks, axis=0) == 1).all()


def test_a_fold_is_predicted_without_its_own_rows(result: Any) -> None:
    data = calibration_data(result)
    before = held_out_steps(fit_all(data, names=NAMES), "source")
    mine = data.source == "a"
    data.measured_step_s[mine] *= 1.3  # what source a measured may not change what is predicted for a
    after = held_out_steps(fit_all(data, names=NAMES), "source")
    assert after[mine] == pytest.approx(before[mine], rel=0.02)
    assert after[~mine].mean() > 1.1 * before[~mine].mean()


def test_held_out_error_and_rescaled_rows(result: Any) -> None:
    whole = calibrate(result, names=NAMES)
    steps = held_out_steps(whole, "group")
    assert error_of(whole.data, steps, [ERA]) < 0.03
    again = with_steps(result, whole.data, steps)
    assert score(again.rows).mape == pytest.approx(error_of(whole.data, steps, [ERA]), abs=0.01)
    assert not any(r.seen for r in again.rows)
    ratio = again.rows[0].high / again.rows[0].tokens_per_s_per_gpu
    assert ratio == pytest.approx(result.rows[0].high / result.rows[0].tokens_per_s_per_gpu)


def test_too_few_rows_keep_the_defaults_or_borrow_from_all(result: Any) -> None:
    data = calibration_data(result)
    data.usable[3:] = False
    assert fit_all(data, names=NAMES).fits == []
    (fit,) = fit_all(data, names=NAMES, borrow=True).fits
    assert not fit.own and fit.n_rows == 3
    for name, value in fit.coefficients.items():
        default, low, high, _ = COEFFICIENTS[name]
        assert abs(value - default) < 0.4 * (high - low), "three rows may not move a coefficient far"


def test_the_prior_holds_four_rows_near_the_defaults(result: Any) -> None:
    data = calibration_data(result)
    data.usable[4:] = False
    (few,) = fit_all(data, names=NAMES).fits
    (many,) = fit_all(calibration_data(result), names=NAMES).fits
    off = {name: abs(few.coefficients[name] - COEFFICIENTS[name][0]) for name in few.coefficients}
    assert off["comm_derate"] < abs(many.coefficients["comm_derate"] - COEFFICIENTS["comm_derate"][0])


def test_own_runs_move_the_shipped_coefficients(result: Any) -> None:
    (fit,) = fit_all(calibration_data(result), names=NAMES, from_shipped=True).fits
    assert fit.level.above is None
    assert fit.coefficients["gemm_derate"] == pytest.approx(TRUE["gemm_derate"], rel=0.08)


def test_one_layout_is_trusted_less_than_several() -> None:
    weights = [own_prior_rows(n) for n in (1, 2, 3, 4, 40)]
    assert weights == sorted(weights, reverse=True)
    assert (weights[0], weights[-1]) == (8.0, 2.0)


def test_few_own_runs_do_not_narrow_the_interval(result: Any) -> None:
    shipped = shipped_half_width(ERA)
    for kept, narrower in ((3, False), (48, True)):
        data = calibration_data(result, by_layout=True)
        data.usable[kept:] = False
        found = calibrated(fit_all(data, names=NAMES, from_shipped=True), from_scratch=False)
        (fit,) = found.calibration.fits
        assert (fit.n_groups < TELLING_GROUPS) is not narrower
        assert (found.half_width(fit) < shipped) is narrower


def test_own_runs_that_scatter_widen_the_interval(result: Any) -> None:
    data = calibration_data(result, by_layout=True)
    data.usable[6:] = False
    data.measured_step_s[:6] *= np.array([1.0, 1.6, 0.6, 1.7, 0.6, 1.0])
    found = calibrated(fit_all(data, names=NAMES, from_shipped=True), from_scratch=False)
    assert found.half_width(found.calibration.fits[0]) > 1.2 * shipped_half_width(ERA)


def test_what_own_runs_do_not_tell_stays_as_shipped(result: Any) -> None:
    data = calibration_data(result, by_layout=True)
    data.usable[1:] = False
    (fit,) = fit_all(data, from_shipped=True).fits
    shipped = load_era(ERA).software
    assert fit.n_rows == 1 and fit.coefficients["gemm_derate"] != pytest.approx(
        shipped.coefficient("gemm_derate"), 1e-3
    )
    for name in ("ep_overlap", "fsdp_overlap", "launch_s"):
        assert fit.coefficients[name] == pytest.approx(shipped.coefficient(name), rel=1e-4)


def test_linearisation_matches_the_model(result: Any) -> None:
    data = calibration_data(result)
    model = RowModel(data, data.usable, ("gemm_derate", "step_s"))
    linear = model.linearised(model.default)
    small = model.default + 0.01
    predicted = linear.log_step + linear.jacobian @ (small - linear.u)
    assert predicted == pytest.approx(model.log_steps(small[None])[0], abs=2e-3)


def test_several_sets_at_once_equal_one_after_the_other(result: Any) -> None:
    data = calibration_data(result)
    values = np.array([[0.93, 0.9, 0.015], [0.8, 0.6, 0.1], [1.0, 0.4, 0.0]])
    names = ("gemm_derate", "comm_derate", "step_s")
    together = data.priced.reprice_many(names, values, data.usable)
    for row, one in zip(together, values, strict=True):
        assert (row == data.priced.reprice_many(names, one[None], data.usable)[0]).all()


def test_profile_is_written_with_error_and_hashes(result: Any, tmp_path: Path) -> None:
    found = calibrated(calibrate(result, names=NAMES))
    path, spread_path = save_fits(found, tmp_path)
    fit = found.calibration.fits[0]
    era = read_era(path)
    assert {k: v for k, v in era.software.coefficients.items() if k in NAMES} == fit.coefficients
    written = era.software.fit
    assert written is not None and written.n_rows == 48
    assert written.mape == pytest.approx(found.error_left_out(fit), abs=1e-4)
    assert written.half_width == pytest.approx(found.half_width(fit), abs=1e-4) and written.half_width > 0
    hashes = json.loads((tmp_path / "seen_rows" / path.with_suffix(".json").name).read_text())
    assert set(hashes) == {row_sha256(r.run.cells) for r in result.rows}
    assert written.rows_sha256 == rows_digest(hashes)
    assert era.software.defaults == load_era(ERA).software.defaults
    assert read_residuals(spread_path).unfitted > 0
    first = path.read_text(), spread_path.read_text()
    save_fits(calibrated(calibrate(result, names=NAMES)), tmp_path)
    assert (path.read_text(), spread_path.read_text()) == first


def test_the_real_cost_model_is_recovered_from_its_own_runs(write_table: Any, tmp_path: Path) -> None:
    """Runs made by the cost model with known coefficients: the fit predicts them, and its file loads."""
    true = {"gemm_derate": 0.8, "comm_derate": 0.6, "layer_s": 6e-4, "step_s": 0.05}
    problems = [row_problem(run) for run in read_runs(write_table(*(row_text(**c) for c in layouts())))]
    steps = pricing.price(problems).reprice(software_with({ERA: true}))
    tokens = [p.workload.global_batch * p.workload.seq_len / p.n_gpus for p in problems]
    made = [{**c, "tps_gpu_effective": f"{t / s:.6f}"} for c, t, s in zip(layouts(), tokens, steps, strict=True)]
    found = calibrate_tables([write_table(*(row_text(**c) for c in made), name="made.csv")])
    (fit,) = found.calibration.fits
    assert fit.error_in < 0.02
    assert fit.coefficients["gemm_derate"] == pytest.approx(true["gemm_derate"], rel=0.08)
    assert fit.coefficients["comm_derate"] < 0.75, "the prior of sixty rows may not keep it nearer to 0.9 than to 0.6"
    era = read_era(save_fits(found, tmp_path)[0])
    assert era.software.coefficient("gemm_derate") == fit.coefficients["gemm_derate"]
    for name, value in era.software.coefficients.items():
        assert COEFFICIENTS[name][1] <= value <= COEFFICIENTS[name][2]


def layouts() -> list[dict[str, str]]:
    """Runs of three models, small and large layers, with and without TP and PP."""
    out = []
    for hidden in (1024, 4096, 8192):
        for tp, pp in ((1, 1), (2, 1), (8, 1), (4, 4), (1, 4)):
            for micro in (1, 4, 16, 64):  # the largest leaves the host no part in what TP costs
                dp = 16 // (tp * pp)
                cells = {"hidden": hidden, "ffn_hidden": 4 * hidden, "tp": tp, "pp": pp, "dp": dp, "micro_batch": micro}
                cells["global_batch_sequences"] = 8 * micro * dp
                out.append({name: str(value) for name, value in cells.items()})
    return out


def test_what_one_release_cannot_say_of_another_is_not_inherited() -> None:
    assert inherited({"gemm_derate": 0.8, "tp_wait_s": 2e-4}) == {"gemm_derate": 0.8}
