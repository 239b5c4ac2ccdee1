"""Sparse layers: who gets which bytes, what the host pays, and the same numbers for one plan and for a table."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshwright.costmodels import load_recipes
from meshwright.costmodels.candidates import CandidateTable
from meshwright.costmodels.layer import LayerTime, layer_time
from meshwright.costmodels.load_model import load_model
from meshwright.costmodels.load_recipes import recipe_for
from meshwright.costmodels.ops import expert_kernels, expert_unfused_bytes
from meshwright.costmodels.parallel import LayerSplit, ParallelConfig
from meshwright.costmodels.parallelism.expert import dispatch_s, distinct, expert_load, sparse_host_s
from meshwright.costmodels.parallelism.pipeline import stage_layer_list, stage_layers
from meshwright.costmodels.software import DISPATCHERS, GRAPHED, Software
from meshwright.costmodels.training import estimate
from meshwright.costmodels.workload import Workload

sys.path.insert(0, str(Path(__file__).parent))
from devices import cluster

SOFTWARE = Software(name="t", framework="megatron-lm", release="t", attention="flash2")
MODEL = load_model("qwen3-30b-a3b")
WORK = Workload(seq_len=4096, global_batch=512)


def plan(**fields: int) -> ParallelConfig:
    return ParallelConfig(**{"dp": 16, "ep": 16, "micro_batch_size": 1, "sequence_parallel": 1, **fields})


def one_way(dispatcher: str, **fields: int) -> float:
    c = plan(**fields)
    load = expert_load(MODEL, WORK, c.micro_batch_size * WORK.seq_len, c)
    return float(dispatch_s(cluster(2), MODEL, load, 2.0, c, dispatcher))


def test_distinct_places() -> None:
    assert distinct(1.0, 8) == 1.0
    assert distinct(64.0, 1) == pytest.approx(1.0)
    assert distinct(2.0, 2) == pytest.approx(1.5)  # of four equally likely pairs two hit both places
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, 16, size=(20_000, 8))
    hit = np.mean([len(set(row)) for row in drawn.tolist()])
    assert distinct(16.0, 8) == pytest.approx(hit, rel=0.01)


def test_a_token_crosses_the_network_once_per_node() -> None:
    """Over two nodes each token has experts in the other node (almost surely): one copy travels, not four of eight."""
    copies, tokens = one_way("alltoall"), one_way("deepep")
    assert 2.5 < copies / tokens < 5.0
    wire = WORK.seq_len * MODEL.hidden * 2.0 * distinct(2.0, 8) / 2
    assert tokens > wire / 50e9


def test_inside_a_node_a_token_goes_once_to_each_gpu() -> None:
    assert one_way("hybridep", ep=8, dp=8) < one_way("alltoall", ep=8, dp=8)
    assert one_way("alltoall", ep=1) == one_way("hybridep", ep=1) == 0.0


def test_experts_cost_host_time_and_graphs_end_it() -> None:
    def host(software: Software, work: Workload = WORK, **fields: int) -> tuple[float, float]:
        forward, backward, stall = sparse_host_s(MODEL, work, software, plan(**fields))
        return float(forward + backward), float(stall)

    busy, stall = host(SOFTWARE)
    assert host(SOFTWARE, ep=4)[0] > busy and host(SOFTWARE, ep=4)[1] > stall
    fp8 = replace(WORK, precision="mxfp8")
    assert host(SOFTWARE, fp8)[0] > busy
    dropped = host(SOFTWARE, replace(WORK, token_drop=1.0))
    assert dropped[1] == 0.0 and dropped[0] < busy
    assert host(replace(SOFTWARE, moe_overlap=True))[0] > busy
    assert host(replace(SOFTWARE, graphed="router"))[0] < busy
    assert host(replace(SOFTWARE, moe_fused_mlp=True))[0] < busy
    assert host(replace(SOFTWARE, cuda_graphs=True)) == (0.0, 0.0)


def test_what_fusing_the_experts_saves() -> None:
    fused = replace(SOFTWARE, moe_fused_mlp=True)
    assert expert_unfused_bytes(MODEL, WORK, SOFTWARE, 100.0, 768.0) == 0.0  # 16 bits, no biases: nothing to do
    for precision in ("fp8", "mxfp8"):
        work = replace(WORK, precision=precision)
        assert expert_unfused_bytes(MODEL, work, fused, 100.0, 768.0) < expert_unfused_bytes(
            MODEL, work, SOFTWARE, 100.0, 768.0
        )
        assert expert_kernels(work, fused, 16.0) < expert_kernels(work, SOFTWARE, 16.0)
    biased = load_model("gpt-oss-120b")
    assert expert_unfused_bytes(biased, WORK, SOFTWARE, 1.0, 2880.0) == 24.0 * 2880 + 8.0 * 5760


def test_overlap_hides_dispatch_but_never_more_than_compute() -> None:
    def parts(software: Software, work: Workload = WORK) -> LayerTime:
        return layer_time(cluster(2), MODEL, work, software, plan(), moe=True)

    plain, hidden = parts(SOFTWARE), parts(replace(SOFTWARE, moe_overlap=True))
    assert hidden.ep_backward_s < plain.ep_backward_s
    all_of_it = replace(SOFTWARE, moe_overlap=True, coefficients={"ep_overlap": 0.95})
    saved = 2 * (plain.ep_backward_s - parts(all_of_it).ep_backward_s)
    assert saved <= plain.forward_s + plain.backward_s


def test_more_experts_per_rank_at_equal_tokens_is_slower() -> None:
    few = estimate(MODEL, WORK, plan(), cluster(2), SOFTWARE).step_s
    many = estimate(MODEL, WORK, plan(ep=4), cluster(2), SOFTWARE).step_s
    layer_few = layer_time(cluster(2), MODEL, WORK, SOFTWARE, plan(), moe=True)
    layer_many = layer_time(cluster(2), MODEL, WORK, SOFTWARE, plan(ep=4), moe=True)
    assert layer_many.forward_s > layer_few.forward_s and layer_many.host_forward_s > layer_few.host_forward_s
    assert few > 0 and many > 0


softwares = st.builds(
    replace,
    st.just(SOFTWARE),
    moe_dispatcher=st.sampled_from(DISPATCHERS),
    moe_overlap=st.booleans(),
    moe_fused_mlp=st.booleans(),
    graphed=st.sampled_from(GRAPHED),
)
rows = st.builds(
    plan,
    tp=st.sampled_from([1, 2]),
    ep=st.sampled_from([1, 2, 4, 8, 16]),
    dp=st.sampled_from([16, 32]),
    micro_batch_size=st.sampled_from([1, 2]),
    sequence_parallel=st.integers(0, 1),
)


@given(st.lists(rows, min_size=1, max_size=6), softwares, st.sampled_from(["bf16", "fp8"]), st.sampled_from([0.0, 1.0]))
@settings(max_examples=25, deadline=None)
def test_scalar_equals_array(
    configs: list[ParallelConfig], software: Software, precision: str, token_drop: float
) -> None:
    work = replace(WORK, precision=precision, token_drop=token_drop)
    table = CandidateTable.from_configs(configs)
    together = np.broadcast_to(np.asarray(estimate(MODEL, work, table, cluster(8), software).step_s), (len(configs),))
    alone = [float(estimate(MODEL, work, c, cluster(8), software).step_s) for c in configs]
    np.testing.assert_allclose(together, alone, rtol=1e-12)


@pytest.mark.parametrize(
    ("pp", "vp", "stages"),
    [(16, 1, (4,) * 15 + (1,)), (8, 2, (8,) * 7 + (5,)), (4, 4, (16, 16, 16, 13)), (4, 1, (16, 16, 16, 13))],
)
def test_multi_token_prediction_takes_the_place_of_layers(pp: int, vp: int, stages: tuple[int, ...]) -> None:
    """Megatron-Bridge's layouts of DeepSeek-V3: 61 layers, one MTP layer and the loss on the last chunk."""
    c = ParallelConfig(pp=pp, vp=vp, layer_split=LayerSplit.LAYOUT)
    assert stage_layer_list(61, c, 1) == stages
    s = stage_layers(61, c, 1)
    assert (float(s.first), float(s.mid), float(s.last)) == (stages[0], stages[1], stages[-1])
    assert sum(stage_layer_list(61, ParallelConfig(pp=8, vp=4, layer_split=LayerSplit.LAYOUT), 1)) == 61


def test_recipes_name_dispatchers_that_exist() -> None:
    table = load_recipes._table("megatron-core-2025")
    for entry in table["sparse"]:
        assert set(entry) <= {"model", "gpu", "precision", "notes", "software"}
        assert entry["software"].get("moe_dispatcher", "alltoall") in DISPATCHERS
        assert entry["software"].get("graphed", "") in GRAPHED
        replace(SOFTWARE, **entry["software"])


@pytest.mark.parametrize(
    ("model", "gpu", "precision", "notes", "expected"),
    [
        ("qwen3-30b-a3b", "b200-sxm-180gb", "mxfp8", "25.11 NeMo Container", {"graphed": "router"}),
        ("qwen3-235b-a22b", "h100-sxm-80gb", "fp8", "26.02 NeMo Container", {"moe_overlap": True}),
        ("gpt-oss-120b", "h100-sxm-80gb", "bf16", "26.02 NeMo Container", {}),
        (
            "deepseek-v3", "b200-sxm-180gb", "mxfp8", "26.04.01 NeMo Container",
            {"moe_dispatcher": "deepep", "moe_overlap": True, "graphed": "attention+router"},
        ),
        (
            "deepseek-v3", "gb200-186gb", "mxfp8", "26.06 NeMo Container",
            {"moe_dispatcher": "hybridep", "moe_overlap": True, "moe_fused_mlp": True, "cuda_graphs": True},
        ),
        ("llama-3-70b", "h100-sxm-80gb", "bf16", "26.02 NeMo Container", {}),
    ],
)  # fmt: skip
def test_published_dispatchers(model: str, gpu: str, precision: str, notes: str, expected: dict[str, object]) -> None:
    found = recipe_for("megatron-core-2025", model=model, gpu=gpu, precision=precision, notes=notes).software
    assert dict(found) == expected
