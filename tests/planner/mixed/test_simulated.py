"""The formula for pipelines across pools against the event simulator and against the price of explicit layouts."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from meshwright.costmodels.parallel import LayerSplit, ParallelConfig
from meshwright.costmodels.schedules.chunk_waiting import waiting_share
from meshwright.costmodels.stage_layout import Chunk, StageLayout
from meshwright.costmodels.stage_pricing import price_stages
from meshwright.hardware_profiles.load import load_cluster
from meshwright.planner.mixed.costs import price_pools
from meshwright.planner.mixed.price import Pricer
from meshwright.planner.mixed.space import enumerate_choices

BENCHMARK = Path(__file__).resolve().parents[3] / "benchmarks" / "mixed_simulated.py"


def benchmark():
    spec = importlib.util.spec_from_file_location("mixed_simulated", BENCHMARK)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


BENCH = benchmark()


@pytest.mark.parametrize(("name", "model"), BENCH.CASES)
def test_top_pipelines_of_the_examples_take_what_the_simulator_says(name, model):
    """Never below, and at most 3% above, whether transfers run beside passes or hold up their senders; a transfer is at
    most a tenth of a stage."""
    found = BENCH.ratios(BENCH.example(name, model))
    assert 0 < found["hop"] < 0.1 and len(set(found["layers"])) > 1
    assert 1.0 - 1e-9 <= found["beside"] <= 1.03
    assert 1.0 - 1e-9 <= found["blocking"] <= 1.03


@pytest.mark.parametrize("vp", [2, 4])
def test_interleaved_stages_of_unlike_pools_do_not_wait(make_mixed, vp):
    """All chunks of a stage hold the same layers, so that the pace is no slower than the slowest stage, however stages
    differ (``chunk_waiting`` is about unequal chunks of one stage)."""
    pools = (("dgx-h100", 1), ("dgx-a100-80", 2))
    pricer, found = BENCH.top_pipeline(
        make_mixed(pools, global_batch=96, pins={"vp": (vp,), "tp": (4,), "cp": (1,), "pp": (3, 4, 6)})
    )
    c, i = found.choices, found.i
    pp, m = int(c.pp[i]), int(c.micro_batches[i])
    assert len(set(found.layers)) > 1 and all(n % vp == 0 for n in found.layers)
    assert waiting_share(tuple(tuple(n // vp for n in found.layers) for _ in range(vp))) == pytest.approx(0, abs=1e-12)
    forward, whole, hops = BENCH.stage_times(pricer, found)
    spans = [BENCH.simulated_s(found, forward, whole, 0 * hops, r * pp) for r in (4, 6)]
    assert (spans[1] - spans[0]) / (2 * pp) <= whole.max() * (1 + 1e-9)
    parts = pricer.parts(c, found.stages, i, np.array(found.layers))
    formula = parts["stage_s"] + parts["bubble_s"]
    assert 1.0 - 1e-9 <= formula / BENCH.simulated_s(found, forward, whole, 0 * hops, m) <= 1.03
    assert formula + parts["transfer_s"] >= BENCH.simulated_s(found, forward, whole, hops, m) * (1 - 1e-9)


@pytest.mark.parametrize(
    ("vp", "layers"), [(1, (7, 9, 9, 7)), (2, (6, 10, 8, 8)), (2, (8, 8, 10, 6)), (4, (4, 12, 8, 8))]
)
def test_uneven_stages_of_equal_pools_cost_what_their_layout_costs(make_mixed, vp, layers):
    """Two pools of one cluster: the price of an explicit layout, waiting for chunks included."""
    whole = load_cluster("dgx-h100", nodes=4)
    pins = {"tp": (8,), "dp": (1,), "cp": (1,), "vp": (vp,), "ep": (1,), "micro_batch_size": (1,), "recompute": (0,)}
    problem = make_mixed((("dgx-h100", 2), ("dgx-h100", 2)), rate=whole.tiers[-1].bytes_per_s, pins=pins)
    pricer = Pricer(price_pools(problem))
    choices, _ = enumerate_choices(pricer.costs)
    one = choices.take(np.flatnonzero((choices.stages * choices.ranks == 16).all(axis=1))[:1])
    parts = pricer.parts(one, pricer.stages(one), 0, np.array(layers))
    last = (vp - 1, len(layers) - 1)
    chunks = tuple(
        tuple(Chunk(n // vp, embedding=(v, s) == (0, 0), head=(v, s) == last) for s, n in enumerate(layers))
        for v in range(vp)
    )
    config = ParallelConfig(tp=8, pp=4, vp=vp, sequence_parallel=1, zero_stage=1, layer_split=LayerSplit.LAYOUT)
    layout = StageLayout(chunks, (False,) * problem.model.n_layers)
    _, priced = price_stages(problem.model, problem.workload, whole, problem.software[0], config, layout)
    t = priced.time
    kernels = t.forward_s + t.backward_s + t.recompute_s + t.host_s + t.tp_s + t.cp_s + t.ep_s
    assert parts["stage_s"] + parts["bubble_s"] == pytest.approx(float(kernels + t.bubble_s), rel=1e-9)
    if vp == 1:  # between pools transfers of interleaved stages are taken as fully exposed
        assert sum(parts.values()) == pytest.approx(float(t.total), rel=2e-3)
