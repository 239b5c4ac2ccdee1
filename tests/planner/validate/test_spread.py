"""Intervals contain what they say, and circumstances with few rows keep to their prior."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from meshwright.costmodels.interval import time_sigma
from meshwright.costmodels.load_model import load_model
from meshwright.costmodels.load_software import load_era
from meshwright.costmodels.parallel import ParallelConfig
from meshwright.costmodels.residuals import read_residuals, shipped_residuals
from meshwright.costmodels.training import estimate
from meshwright.costmodels.workload import Workload
from meshwright.hardware_profiles.errors import InvalidProblemError
from meshwright.hardware_profiles.load import load_cluster
from meshwright.hardware_profiles.types import Fit
from meshwright.planner.validate.spread import PRIOR, crossed_half_widths, fit_spread, unfitted_half_width


def made(n: int = 600, sparse_sigma: float = 0.3) -> Any:
    """Rows of two eras with residuals of known spread: 0.05 and 0.10, sparse ones wider."""
    rng = np.random.default_rng(7)
    cluster = load_cluster("dgx-a100-80", nodes=1)
    era = np.array(["one" if i % 2 else "two" for i in range(n)], dtype=object)
    sparse = np.arange(n) % 3 == 0
    sigma = np.hypot(np.where(era == "one", 0.05, 0.10), np.where(sparse, sparse_sigma, 0.0))
    step = np.full(n, 10.0)
    common = {"assumed": {}, "cluster": cluster, "workload": Workload(seq_len=2048, global_batch=64), "n_gpus": 8}
    rows = [SimpleNamespace(model=SimpleNamespace(moe=object() if s else None), **common) for s in sparse]
    return SimpleNamespace(
        priced=SimpleNamespace(rows=rows), usable=np.ones(n, dtype=bool), era=era, source=era,
        group=np.array([f"g{i // 5}" for i in range(n)], dtype=object),
        measured_step_s=step * np.exp(sigma * rng.standard_normal(n)), steps=step, sparse=sparse,
        waiting_share=np.zeros(n),
    )  # fmt: skip


def test_nine_of_ten_lie_inside_in_every_regime_also_where_left_out() -> None:
    data = made()
    half = crossed_half_widths(data, data.steps, "group")
    inside = np.abs(np.log(data.measured_step_s / data.steps)) <= half
    for mine in (data.usable, data.sparse, ~data.sparse, data.era == "one", data.era == "two"):
        assert inside[mine].mean() == pytest.approx(0.9, abs=0.05)


def test_known_spreads_come_back() -> None:
    data = made()
    found = fit_spread(data, data.steps, data.usable)
    assert found.by_era["one", False] == pytest.approx(1.645 * 0.05, rel=0.25)
    assert found.by_era["two", False] == pytest.approx(1.645 * 0.10, rel=0.25)
    assert found.terms["sparse"] == pytest.approx(1.645 * 0.3, rel=0.25)


def test_what_no_row_has_keeps_its_prior_and_an_unknown_era_the_pooled_one() -> None:
    data = made()
    found = fit_spread(data, data.steps, data.usable)
    assert found.terms["layout"] == pytest.approx(PRIOR["layout"], rel=1e-3)
    data.era[:] = "third"
    assert found.half_widths(data)[~data.sparse] == pytest.approx(found.pooled)


def test_unfitted_software_takes_the_residuals_of_left_out_sources() -> None:
    data = made()
    data.usable &= ~data.sparse
    assert 1.645 * 0.05 < unfitted_half_width(data, data.steps) < 2.2 * 0.10


def test_a_plan_takes_its_eras_own_spread_and_wider_where_less_was_measured() -> None:
    cluster, model = load_cluster("dgx-a100-80", nodes=64), load_model("llama-3-8b")
    work = Workload(seq_len=8192, global_batch=512)
    plain = replace(load_era("megatron-core-2025").software, fit=None)
    own = replace(plain, fit=Fit(source="runs", n_rows=50, mape=0.04, half_width=0.08))
    small = time_sigma(cluster, model, work, own, np.array([8, 64, 512]))
    assert small[0] == small[1] == pytest.approx(0.08 / 1.645) and small[2] > small[1]
    assert time_sigma(cluster, model, work, plain, 8) == pytest.approx(shipped_residuals().unfitted / 1.645)
    assert time_sigma(cluster, load_model("mixtral-8x7b"), work, own, 8) > small[0]
    unmeasured = load_cluster("pcie-rtx3090-8", nodes=1)
    assert time_sigma(unmeasured, model, work, own, 8) > small[0]


def test_a_broken_file_is_refused_in_one_sentence(tmp_path: Any) -> None:
    path = tmp_path / "residuals.yaml"
    path.write_text("unfitted: 0.3\n", encoding="utf-8")
    with pytest.raises(InvalidProblemError, match="calibrate again"):
        read_residuals(path)


def test_an_era_may_be_wider_across_nodes_than_within_one() -> None:
    data = made()
    for i, row in enumerate(data.priced.rows):
        row.n_gpus = 16 if i % 4 < 2 else 8
        data.measured_step_s[i] = data.steps[i] * np.exp((1.0 if row.n_gpus == 8 else 4.0) * 0.03 * ((i % 7) - 3) / 2)
    found = fit_spread(data, data.steps, data.usable & ~data.sparse).by_era
    assert found["one", True] > 2 * found["one", False]


def test_steps_that_wait_for_their_host_are_less_certain() -> None:
    cluster, model = load_cluster("dgx-a100-80", nodes=1), load_model("llama-3-8b")
    work = Workload(seq_len=8192, global_batch=512)
    fit = Fit(source="runs", n_rows=50, mape=0.04, half_width=0.08, half_width_across=0.12)
    own = replace(load_era("megatron-core-2025").software, fit=fit)
    calm, waiting, fully = time_sigma(cluster, model, work, own, 8, np.array([0.0, 0.5, 1.0]))
    assert pytest.approx(calm) == 0.08 / 1.645 and calm < waiting < fully
    assert fully == pytest.approx(np.hypot(0.08, shipped_residuals().host_bound) / 1.645)
    assert waiting == pytest.approx(np.hypot(0.08, shipped_residuals().host_bound / 4.0) / 1.645)
    assert time_sigma(cluster, model, work, own, 16) == pytest.approx(0.12 / 1.645)


def test_ranks_that_wait_for_each_other_count_as_waiting() -> None:
    model, cluster = load_model("llama-3-8b"), load_cluster("dgx-a100-80", nodes=1)
    work = Workload(seq_len=2048, global_batch=64)
    early = load_era("megatron-deepspeed-2023").software  # its fit found a wait of every collective
    share = {
        tp: float(estimate(model, work, ParallelConfig(tp=tp, dp=8 // tp), cluster, early).waiting_share)
        for tp in (1, 2, 8)
    }
    assert 0.0 <= share[1] < share[2] < share[8] < 1.0
