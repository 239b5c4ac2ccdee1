"""ZeRO++: what crosses which links (arXiv 2306.10209), its memory, and that nothing else changes."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshwright.costmodels.candidates import CandidateTable
from meshwright.costmodels.load_model import load_model
from meshwright.costmodels.parallel import ParallelConfig
from meshwright.costmodels.parallelism.data import dense_group, gradient_reduction_s, parameter_gather_s
from meshwright.costmodels.parallelism.zero_plus import gathered_weight_bytes, quantized_reduction_s, secondary_group
from meshwright.costmodels.software import Software
from meshwright.costmodels.training import estimate
from meshwright.costmodels.workload import Workload
from meshwright.hardware_profiles.types import Cluster, Tier

sys.path.insert(0, str(Path(__file__).parent))
from devices import cluster, curve, gpu

DEEPSPEED = Software(name="t", framework="deepspeed", release="t", attention="flash2")
MODEL, WORK = load_model("llama-3.1-8b"), Workload(seq_len=4096, global_batch=512)
PARAMS = 1e9
M = 2.0 * PARAMS
FREE = 1e30


def ideal(domains: tuple[int, ...], bytes_per_s: tuple[float, ...], nodes: int = 4, per_node: int = 8) -> Cluster:
    """Links without latency or loss, so that seconds times bandwidth are bytes."""
    plain = curve(
        efficiency=1.0, half_bytes=0.0, start_s=0.0, hop_s=0.0, hop_inside_s=0.0,
        tree_start_s=0.0, tree_hop_s=0.0, tree_efficiency=1.0, tree_half_bytes=0.0,
    )  # fmt: skip
    ops = ("all_gather", "reduce_scatter", "all_to_all", "all_reduce", "p2p")
    kinds = ("nvlink", "xgmi", "infiniband")[-len(domains) :] if len(domains) < 3 else ("nvlink", "xgmi", "infiniband")
    device = gpu(collectives={f"{kind}/{op}": plain for kind in kinds for op in ops})
    tiers = tuple(
        Tier(kind=kind, domain_gpus=d, bytes_per_s=b, latency_s=0.0)
        for kind, d, b in zip(kinds, domains, bytes_per_s, strict=True)
    )
    return Cluster(name="ideal", gpu=device, nodes=nodes, gpus_per_node=per_node, tiers=tiers)


def volumes(where: Cluster, c: ParallelConfig, bytes_per_s_of_node: float) -> tuple[float, float, float]:
    """Bytes that a node sends in forward gather, backward gather and gradient reduction of one micro-batch."""
    group = dense_group(c)
    weight = gathered_weight_bytes(c, 2.0)
    first = parameter_gather_s(where, weight * PARAMS, group, 3)
    again = parameter_gather_s(where, weight * PARAMS, secondary_group(c, group), 3)
    reduce = gradient_reduction_s(where, 2.0 * PARAMS, group, 3)
    if c.quantized_gradients:
        reduce = quantized_reduction_s(where, PARAMS, group)
    return tuple(float(s) * bytes_per_s_of_node for s in (first, again, reduce))  # type: ignore[return-value]


@pytest.mark.parametrize("nodes", [2, 4, 64])
def test_volume_across_nodes_falls_from_3_to_three_quarters_of_the_parameters(nodes: int) -> None:
    where = ideal((8, 8 * nodes), (FREE, 25e9), nodes)
    base = ParallelConfig(dp=8 * nodes, zero_stage=3)
    plus = replace(base, hpz=8, quantized_weights=1, quantized_gradients=1)
    share = (nodes - 1) / nodes  # what a node keeps to itself; the paper counts it too
    ring = (8 * nodes - 1) / (8 * nodes)
    whole = volumes(where, base, 8 * 25e9)
    assert whole == pytest.approx((M * ring, M * ring, M * ring))
    assert volumes(where, plus, 8 * 25e9) == pytest.approx((M / 2 * ring, 0.0, M / 4 * share), abs=1.0)
    assert sum(whole) == pytest.approx(3 * M, rel=1 / (8 * nodes))
    assert sum(volumes(where, plus, 8 * 25e9)) == pytest.approx(0.75 * M, rel=1 / nodes)


@pytest.mark.parametrize(
    ("fields", "parts"),
    [
        ({"quantized_weights": 1}, (0.5, 0.5, 1.0)),
        ({"hpz": 8}, (1.0, 0.0, 1.0)),
        ({"quantized_gradients": 1}, (1.0, 1.0, 0.25)),
    ],
)
def test_each_part_alone(fields: dict[str, int], parts: tuple[float, ...]) -> None:
    where = ideal((8, 512), (FREE, 25e9), 64)
    found = volumes(where, ParallelConfig(dp=512, zero_stage=3, **fields), 8 * 25e9)
    assert found == pytest.approx(tuple(M * p for p in parts), rel=0.02, abs=1.0)


def test_three_levels_of_links() -> None:
    """Two dies of a package, a node, the network: a copy over a pair leaves both outer links idle, one over a node
    the network only."""
    base = ParallelConfig(dp=64, zero_stage=3)
    network = ideal((2, 8, 64), (FREE, FREE, 12.5e9), 8)
    node = ideal((2, 8, 64), (FREE, 100e9, FREE), 8)
    pair = ideal((2, 8, 64), (200e9, FREE, FREE), 8)
    group = dense_group(base)

    def again(where: Cluster, hpz: int) -> float:
        return float(parameter_gather_s(where, M, secondary_group(replace(base, hpz=hpz), group), 3))

    assert again(network, 0) * 8 * 12.5e9 == pytest.approx(M * 63 / 64)
    assert again(network, 8) == pytest.approx(0) == again(network, 2) == again(node, 2)
    assert again(node, 8) * 2 * 100e9 == pytest.approx(M * 7 / 8)
    assert again(pair, 2) * 200e9 == pytest.approx(M / 2)


def test_second_copy_is_counted_in_memory() -> None:
    where = cluster(8)
    base = ParallelConfig(dp=64, zero_stage=3)
    plain = estimate(MODEL, WORK, base, where, DEEPSPEED).memory.weights_bytes
    for hpz in (2, 8):
        more = estimate(MODEL, WORK, replace(base, hpz=hpz), where, DEEPSPEED).memory.weights_bytes
        assert float(more - plain) == pytest.approx(2.0 * MODEL.params() / hpz, rel=1e-3)
        quantized = replace(base, hpz=hpz, quantized_weights=1)
        assert estimate(MODEL, WORK, quantized, where, DEEPSPEED).memory.weights_bytes == more


def test_only_the_first_forward_of_a_step_gathers_across_nodes() -> None:
    """Nothing hides and inner links are free: the time of gathers is one gather across nodes, whatever the batch."""
    where = ideal((8, 64), (FREE, 1e9), 8)
    software = replace(DEEPSPEED, coefficients={"fsdp_overlap": 0.0})
    c = ParallelConfig(dp=64, zero_stage=3, hpz=8)
    one, many = (
        float(estimate(MODEL, replace(WORK, global_batch=b), c, where, software).time.param_gather_s) for b in (64, 512)
    )
    assert one == pytest.approx(many, rel=1e-6)
    plain = [
        float(estimate(MODEL, replace(WORK, global_batch=b), replace(c, hpz=0), where, software).time.param_gather_s)
        for b in (64, 512)
    ]
    assert plain[0] == pytest.approx(2 * one, rel=1e-6) and plain[1] == pytest.approx(16 * one, rel=1e-6)


@given(st.lists(st.tuples(st.sampled_from([0, 2, 8]), st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=6))
@settings(max_examples=15, deadline=None)
def test_scalar_equals_array(rows: list[tuple[int, int, int]]) -> None:
    configs = [
        ParallelConfig(dp=64, zero_stage=3, hpz=h, quantized_weights=w, quantized_gradients=g) for h, w, g in rows
    ]
    many = (configs * (300 // len(configs) + 1))[:300]
    table = estimate(MODEL, WORK, CandidateTable.from_configs(many), cluster(8), DEEPSPEED)
    for i, c in enumerate(configs):
        one = estimate(MODEL, WORK, c, cluster(8), DEEPSPEED)
        assert np.asarray(table.step_s)[i] == pytest.approx(float(one.step_s), rel=1e-12)
        assert np.asarray(table.peak_bytes)[i] == pytest.approx(float(one.peak_bytes), rel=1e-12)
