"""Pass times of explicit layouts: they add up to the stage's time, and the simulator then gives the closed forms."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from meshwright.costmodels.layer_costs import layer_costs
from meshwright.costmodels.load_model import load_model
from meshwright.costmodels.parallel import ParallelConfig, Recompute
from meshwright.costmodels.schedules import build_schedule, simulate
from meshwright.costmodels.schedules.layout_passes import layout_passes
from meshwright.costmodels.software import Software
from meshwright.costmodels.stage_layout import StageLayout, even_layout, layout_of
from meshwright.costmodels.stage_pricing import StageCosts, price_stages
from meshwright.costmodels.workload import Workload

sys.path.insert(0, str(Path(__file__).parent))
from devices import cluster

CLUSTER, WORK = cluster(16), Workload(seq_len=4096, global_batch=256)
SOFTWARE = Software(name="t", framework="megatron-lm", release="t", attention="flash2")
MODEL = replace(load_model("llama-3.1-8b"), n_layers=24)


def priced(config: ParallelConfig, layout: StageLayout) -> tuple[StageCosts, np.ndarray, np.ndarray, np.ndarray]:
    costs = layer_costs(MODEL, WORK, CLUSTER, SOFTWARE, config)
    stages, _ = price_stages(MODEL, WORK, CLUSTER, SOFTWARE, config, layout, costs)
    times = layout_passes(costs, layout, stages)
    return stages, np.asarray(times.forward_s), np.asarray(times.backward_s), np.asarray(times.weight_gradient_s)


@pytest.mark.parametrize("vp", [1, 2, 3])
@pytest.mark.parametrize("mask", [0, int(Recompute.FULL)])
def test_passes_add_up_to_the_stage(vp: int, mask: int) -> None:
    config = ParallelConfig(tp=2, pp=4, vp=vp, dp=4, recompute=mask)
    stages, forward, backward, weight = priced(config, even_layout(MODEL, config))
    assert forward.shape == backward.shape == (4, vp)
    assert (forward + backward).sum(axis=1) == pytest.approx(stages.whole_s)
    assert (weight < backward).all() and (weight > 0).all() and (forward < backward).all()
    # the head stands on the last chunk of the last stage
    assert forward[-1, -1] == forward.max()


def test_layers_lie_where_the_layout_says() -> None:
    config = ParallelConfig(tp=2, pp=2, vp=2, dp=8)
    _, forward, _, _ = priced(config, layout_of([4, 9, 6, 7], 2, 24, 0, [False] * 24))
    assert forward[1, 0] / forward[0, 1] == pytest.approx(9 / 6, rel=0.02)
    assert forward[0, 0] < forward[0, 1]


def test_the_simulator_gives_the_closed_form_where_the_last_stage_is_slowest() -> None:
    config = ParallelConfig(tp=2, pp=4, dp=4)
    layout = even_layout(MODEL, config)
    costs = layer_costs(MODEL, WORK, CLUSTER, SOFTWARE, config)
    stages, priced_ = price_stages(MODEL, WORK, CLUSTER, SOFTWARE, config, layout, costs)
    n_micro = 64
    run = simulate(build_schedule("1f1b", 4, n_micro), layout_passes(costs, layout, stages))
    parts = ("forward_s", "backward_s", "recompute_s", "host_s", "tp_s", "cp_s", "ep_s", "bubble_s")
    closed = sum(float(getattr(priced_.time, part)) for part in parts)
    assert stages.whole_s.argmax() == 3
    assert run.makespan_s == pytest.approx(closed, rel=1e-6)
