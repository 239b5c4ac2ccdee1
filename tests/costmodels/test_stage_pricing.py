"""Explicit layouts cost what ``estimate`` says where it is exact, and move as physics says where they differ."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from meshwright.costmodels.estimate import Estimate
from meshwright.costmodels.layer_costs import FULL, PARTIAL, Piece, layer_costs
from meshwright.costmodels.load_model import load_model
from meshwright.costmodels.load_software import load_software
from meshwright.costmodels.parallel import CpComm, LayerSplit, ParallelConfig, Recompute
from meshwright.costmodels.software import Software
from meshwright.costmodels.stage_layout import even_layout, layout_of
from meshwright.costmodels.stage_pricing import price_stages
from meshwright.costmodels.training import estimate
from meshwright.costmodels.workload import Workload

sys.path.insert(0, str(Path(__file__).parent))
from devices import cluster

CLUSTER = cluster(32)
WORK = Workload(seq_len=4096, global_batch=512)
PLAIN = Software(name="t", framework="megatron-lm", release="t", attention="flash2")
SOFTWARE = (
    PLAIN,
    replace(PLAIN, cuda_graphs=True),
    replace(PLAIN, launch_blocking=True),
    *(
        replace(load_software(n), attention="flash2")
        for n in ("megatron-core-2025", "torchtitan-2025", "deepspeed-2025")
    ),
)
POWERS = st.sampled_from([1, 2, 4, 8])
configs = st.builds(
    ParallelConfig,
    tp=POWERS, cp=st.sampled_from([1, 2]), ep=POWERS, pp=POWERS, vp=st.sampled_from([1, 2]),
    dp=st.sampled_from([4, 8, 16]), micro_batch_size=st.sampled_from([1, 2]), zero_stage=st.integers(0, 3),
    recompute=st.sampled_from([0, 1, 2, 6, 16, 32]), recompute_layers=st.sampled_from([0, 2, 4]),
    sequence_parallel=st.integers(0, 1), schedule=st.integers(0, 3), cp_comm=st.sampled_from(list(CpComm)),
    optimizer_offload=st.integers(0, 1), tp_overlap=st.integers(0, 1), overlap_grad_reduce=st.integers(0, 1),
)  # fmt: skip


def flat(e: Estimate) -> dict[str, float]:
    out = {k: float(v) for k, v in e.time.items()} | {k: float(v) for k, v in e.memory.items()}
    names = ("step_s", "peak_bytes", "hfu", "mfu", "p_fit", "step_high_s", "fullest_stage", "bubble_fraction")
    return out | {n: float(getattr(e, n)) for n in names} | {"cached": float(e.memory.cached_bytes)}


def assert_same(a: Estimate, b: Estimate, rel: float = 1e-9) -> None:
    one, other = flat(a), flat(b)
    for name, value in one.items():
        scale = one["step_s"] if name.endswith("_s") else 1.0
        assert other[name] == pytest.approx(value, rel=rel, abs=1e-12 * scale), name


@given(
    configs,
    st.sampled_from(["llama-3.1-8b", "mixtral-8x7b", "gpt3-175b", "bloom-176b"]),
    st.sampled_from(SOFTWARE),
    st.sampled_from(["pretrain", "lora"]),
)
@settings(max_examples=60, deadline=None)
def test_even_layouts_of_uniform_layers_cost_the_estimate(
    c: ParallelConfig, name: str, software: Software, task: str
) -> None:
    # ZeRO-3 that leaves a fixed number of parameters gathered is DeepSpeed's, whose pipeline excludes ZeRO-3
    assume(c.zero_stage < 3 or c.pp == 1 or not software.coefficient("live_parameters"))
    model = load_model(name)
    model = replace(model, n_layers=96, moe=replace(model.moe, n_moe_layers=96) if model.moe else None)
    work = replace(WORK, task=task, lora_rank=16 if task == "lora" else 0)
    _, priced = price_stages(model, work, CLUSTER, software, c, even_layout(model, c))
    assert_same(estimate(model, work, c, CLUSTER, software), priced)


@pytest.mark.parametrize("pp", [2, 4, 8, 16])
@pytest.mark.parametrize("mask", [0, int(Recompute.FULL)])
def test_dense_first_layers_and_multi_token_prediction(pp: int, mask: int) -> None:
    model = load_model("deepseek-v3")
    c = ParallelConfig(ep=8, pp=pp, dp=16, recompute=mask, layer_split=int(LayerSplit.LAYOUT))
    _, priced = price_stages(model, WORK, CLUSTER, PLAIN, c, even_layout(model, c))
    assert_same(estimate(model, WORK, c, CLUSTER, PLAIN), priced)


@pytest.mark.parametrize("pp", [1, 2, 4, 6, 12])
def test_windowed_layers_in_equal_numbers(pp: int) -> None:
    model, work = load_model("gpt-oss-20b"), Workload(seq_len=8192, global_batch=256)
    c = ParallelConfig(pp=pp, dp=8)
    stages, priced = price_stages(model, work, CLUSTER, PLAIN, c, even_layout(model, c))
    assert_same(estimate(model, work, c, CLUSTER, PLAIN), priced)
    costs = layer_costs(model, work, CLUSTER, PLAIN, c)
    assert costs.forward_s[costs.windowed].max() < costs.forward_s[costs.layer & ~costs.windowed].min()
    assert stages.forward_s.sum() == pytest.approx(costs.forward_s.sum())


def test_where_middle_stages_differ_the_estimate_is_close() -> None:
    # 126 layers on 16 stages: the first gets 7, the last 7, the others 8; waiting for launches is not linear
    model = load_model("llama-3.1-405b")
    for pp in (4, 8, 16):
        c = ParallelConfig(tp=8, pp=pp, dp=2)
        _, priced = price_stages(model, WORK, CLUSTER, PLAIN, c, even_layout(model, c))
        assert float(priced.step_s) == pytest.approx(float(estimate(model, WORK, c, CLUSTER, PLAIN).step_s), rel=2e-3)


def test_pieces_add_up_to_the_model() -> None:
    model = load_model("deepseek-v3")
    costs = layer_costs(model, WORK, CLUSTER, PLAIN, ParallelConfig(pp=4))
    kinds = costs.kind.tolist()
    assert kinds == [Piece.EMBEDDING, *[Piece.DENSE] * 3, *[Piece.SPARSE] * 58, Piece.MTP, Piece.HEAD]
    padding = 2 * (model.padded_vocab(1) - model.vocab) * model.hidden
    assert (costs.dense_params + costs.expert_params).sum() == pytest.approx(model.params(with_mtp=True) + padding)
    layers = costs.layer
    assert (costs.recompute_s[layers, PARTIAL] == 0).all()
    assert costs.recompute_s[layers, FULL] == pytest.approx(costs.forward_s[layers])
    assert (costs.kept_bytes[layers, FULL] == costs.boundary_bytes).all()
    assert (costs.kept_bytes[layers, PARTIAL] > costs.kept_bytes[layers, FULL]).all()
    assert (costs.state_bytes > 0).all()


@given(st.lists(st.integers(1, 21), min_size=3, max_size=3), st.data())
@settings(max_examples=30, deadline=None)
def test_moving_a_layer_or_recomputing_one_moves_cost_as_it_should(cuts: list[int], data: st.DataObject) -> None:
    model = replace(load_model("llama-3.1-8b"), n_layers=24)
    c = ParallelConfig(tp=2, pp=4, dp=4)
    at = sorted(cuts)
    sizes = [b - a for a, b in zip([0, *at], [*at, 26], strict=True)]
    flags = data.draw(st.lists(st.booleans(), min_size=24, max_size=24))
    layout = layout_of(sizes, 4, 24, 0, flags)
    costs = layer_costs(model, WORK, CLUSTER, PLAIN, c)
    stages, e = price_stages(model, WORK, CLUSTER, PLAIN, c, layout, costs)
    assert float(e.step_s) == pytest.approx(sum(float(v) for _, v in e.time.items()))
    assert float(e.peak_bytes) == pytest.approx(stages.peak_bytes.max())
    assert stages.forward_s.sum() == pytest.approx(costs.forward_s.sum())
    mine = np.flatnonzero(np.asarray(flags))
    if len(mine):
        fewer = list(flags)
        fewer[mine[0]] = False
        less, _ = price_stages(model, WORK, CLUSTER, PLAIN, c, layout_of(sizes, 4, 24, 0, fewer), costs)
        stage = layout.chunk_of_piece[mine[0] + 1]
        assert less.recompute_s[stage] < stages.recompute_s[stage]
        others = np.arange(4) != stage
        assert (less.whole_s[others] == stages.whole_s[others]).all()
        assert (less.peak_bytes[others] == stages.peak_bytes[others]).all()


def test_a_stage_of_its_own_for_embedding_and_head() -> None:
    model = replace(load_model("llama-3.1-8b"), n_layers=8)
    c = ParallelConfig(pp=4, dp=4)
    stages, e = price_stages(model, WORK, CLUSTER, PLAIN, c, layout_of([1, 4, 4, 1], 4, 8, 0, [False] * 8))
    assert stages.memory.working_bytes[0] == 0 and stages.memory.logits_bytes[3] > 0
    assert stages.forward_s[0] < stages.forward_s[3] < float(e.step_s)
    assert stages.dense_params[1] == stages.dense_params[2] == 4 * model.dense_layer_params
