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
from meshwright.costmodels.software import COEFFICIENTS
from meshwright.planner.validate import pricing
from meshwright.planner.validate.backtest import backtest
from meshwright.planner.validate.calibrate import EraModel, calibrate, calibration_data, fit_era
from meshwright.planner.validate.held_out import error_of, fold_masks, held_out_steps, with_steps
from meshwright.planner.validate.runs import row_sha256
from meshwright.planner.validate.save_fit import rows_digest, save_fits
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
    _, fits = calibrate(result, names=NAMES)
    assert [f.era for f in fits] == [ERA]
    found = fits[0].coefficients
    assert set(found) == set(TRUE), "launch_s moves nothing and must not be fitted"
    for name, value in TRUE.items():
        assert found[name] == pytest.approx(value, rel=0.06)
    assert fits[0].error_in < 0.01 and fits[0].n_rows == 48


def test_one_wild_row_does_not_pull_the_fit(result: Any) -> None:
    data = calibration_data(result)
    data.measured_step_s[0] *= 5.0
    fit = fit_era(data, ERA, NAMES)
    assert fit is not None and fit.coefficients["gemm_derate"] == pytest.approx(0.8, rel=0.08)


def test_bounds_hold_where_the_data_ask_for_more(result: Any) -> None:
    data = calibration_data(result)
    data.measured_step_s /= 3.0  # faster than any GPU is
    fit = fit_era(data, ERA, NAMES)
    assert fit is not None
    for name, value in fit.coefficients.items():
        assert COEFFICIENTS[name][1] <= value <= COEFFICIENTS[name][2]


def test_folds_are_disjoint_and_cover_the_era(result: Any) -> None:
    data = calibration_data(result)
    for by, count in (("group", 6), ("source", 2)):
        masks = fold_masks(data, ERA, by)
        assert len(masks) == count
        assert (np.sum(masks, axis=0) == 1).all()


def test_a_fold_is_predicted_without_its_own_rows(result: Any) -> None:
    data = calibration_data(result)
    fit = fit_era(data, ERA, NAMES)
    assert fit is not None
    before = held_out_steps(data, [fit], "source")
    mine = data.source == "a"
    data.measured_step_s[mine] *= 1.3  # what source a measured may not change what is predicted for a
    again = fit_era(data, ERA, NAMES)
    assert again is not None
    after = held_out_steps(data, [again], "source")
    assert after[mine] == pytest.approx(before[mine], rel=0.02)
    assert after[~mine].mean() > 1.1 * before[~mine].mean()


def test_held_out_error_and_rescaled_rows(result: Any) -> None:
    data, fits = calibrate(result, names=NAMES)
    steps = held_out_steps(data, fits, "group")
    assert error_of(data, steps, ERA) < 0.03
    again = with_steps(result, data, steps)
    assert score(again.rows).mape == pytest.approx(error_of(data, steps, ERA), abs=0.01)
    assert not any(r.seen for r in again.rows)
    ratio = again.rows[0].high / again.rows[0].tokens_per_s_per_gpu
    assert ratio == pytest.approx(result.rows[0].high / result.rows[0].tokens_per_s_per_gpu)


def test_too_few_rows_keep_the_defaults(result: Any) -> None:
    data = calibration_data(result)
    data.usable[3:] = False
    assert fit_era(data, ERA, NAMES) is None


def test_linearisation_matches_the_model(result: Any) -> None:
    data = calibration_data(result)
    model = EraModel(data, ERA, data.usable, ("gemm_derate", "step_s"))
    linear = model.linearised(model.default)
    small = model.default + 0.01
    predicted = linear.log_step + linear.jacobian @ (small - linear.u)
    assert predicted == pytest.approx(model.log_step(small), abs=2e-3)


def test_profile_is_written_with_error_and_hashes(result: Any, tmp_path: Path) -> None:
    data, fits = calibrate(result, names=NAMES)
    steps = held_out_steps(data, fits, "group")
    (path,) = save_fits(data, fits, steps, tmp_path)
    era = read_era(path)
    assert era.software.coefficients == fits[0].coefficients
    assert era.software.fit is not None and era.software.fit.n_rows == 48
    assert era.software.fit.mape == pytest.approx(error_of(data, steps, ERA), abs=1e-4)
    hashes = json.loads((tmp_path / "seen_rows" / path.with_suffix(".json").name).read_text())
    assert set(hashes) == {row_sha256(r.run.cells) for r in result.rows}
    assert era.software.fit.rows_sha256 == rows_digest(hashes)
    assert era.software.defaults == load_era(ERA).software.defaults
    first = path.read_text()
    (again,) = save_fits(data, fits, steps, tmp_path)
    assert again.read_text() == first
