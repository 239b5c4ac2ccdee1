"""Collective times: how groups lie over tiers, order relations, and published nccl-tests points."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshwright.costmodels.collectives import OPERATIONS, collective_time_s, p2p_time_s, span
from meshwright.hardware_profiles.errors import InvalidProblemError, MissingProfileDataError
from meshwright.hardware_profiles.load import cluster_from_gpu, list_clusters, load_cluster
from meshwright.hardware_profiles.types import Cluster, Tier

_spec = importlib.util.spec_from_file_location("devices", Path(__file__).with_name("devices.py"))
assert _spec and _spec.loader
devices = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(devices)

powers = st.sampled_from([1, 2, 4, 8, 16, 32, 64, 128])


def rack(trays: int) -> Cluster:
    tiers = (
        Tier(kind="nvlink", domain_gpus=72, bytes_per_s=900e9, latency_s=0.0, nvls=True),
        Tier(kind="infiniband", domain_gpus=4 * trays, bytes_per_s=50e9, latency_s=0.0),
    )
    return Cluster(name="rack", gpu=devices.gpu(), nodes=trays, gpus_per_node=4, tiers=tiers)


@pytest.mark.parametrize(
    ("size", "stride", "inside"),
    [(1, 1, 1), (8, 1, 8), (4, 1, 4), (16, 1, 8), (16, 8, 1), (4, 2, 4), (8, 2, 4), (32, 4, 2), (6, 1, 2), (3, 8, 1)],
)
def test_members_in_a_node(size, stride, inside):
    assert int(span(devices.cluster(), size, stride).members[0]) == inside


def test_groups_of_any_size_share_the_only_domain():
    one = devices.cluster(nodes=1)
    assert int(span(one, 6, 1).members[0]) == 6
    assert int(span(rack(16), 48, 1).members[0]) == 48


def test_racks_are_filled_evenly():
    assert int(span(rack(32), 64, 1).members[0]) == 64  # 64 of the 72 GPUs of each of two racks
    assert int(span(rack(36), 72, 1).members[0]) == 72


@settings(max_examples=150, deadline=None)
@given(
    op=st.sampled_from(OPERATIONS), size=powers, stride=powers, n_bytes=st.floats(1.0, 1e10), more=st.floats(1.0, 9.0)
)
def test_a_bigger_message_is_never_faster(op, size, stride, n_bytes, more):
    for cluster in (devices.cluster(nvls=True), rack(64)):
        base = collective_time_s(cluster, op, n_bytes, size, stride)
        assert base >= 0
        assert collective_time_s(cluster, op, n_bytes * more, size, stride) >= base * (1 - 1e-12)


@pytest.mark.parametrize("op", OPERATIONS)
def test_size_one_is_free_and_scalar_equals_array(op):
    cluster = devices.cluster(nvls=True)
    n_bytes = np.array([1e3, 1e6, 1e8, 1e9, 3e9, 1e7])
    size, stride = np.array([1, 2, 8, 16, 128, 6]), np.array([8, 1, 1, 4, 1, 1])
    whole = collective_time_s(cluster, op, n_bytes, size, stride)
    assert whole[0] == 0.0
    assert np.all(whole[1:] > 0)
    for i in range(len(size)):
        assert collective_time_s(cluster, op, float(n_bytes[i]), int(size[i]), int(stride[i])) == whole[i]
    assert np.array_equal(p2p_time_s(cluster, 1e7, stride), [float(p2p_time_s(cluster, 1e7, int(s))) for s in stride])


def test_all_reduce_costs_about_a_reduce_scatter_and_an_all_gather():
    cluster = devices.cluster()
    for size, stride in ((8, 1), (16, 8), (64, 1)):
        parts = [collective_time_s(cluster, op, 1e9, size, stride) for op in ("reduce_scatter", "all_gather")]
        assert collective_time_s(cluster, "all_reduce", 1e9, size, stride) == pytest.approx(sum(parts), rel=0.25)


def test_one_member_a_node_is_bound_by_its_own_nic():
    cluster = devices.cluster()
    seconds = collective_time_s(cluster, "all_gather", 1e9, 16, 8)
    assert seconds > 1e9 * 15 / 16 / 50e9
    assert seconds > 5 * collective_time_s(cluster, "all_gather", 1e9, 16, 1)  # 8 NICs a node


def test_in_switch_reduction_only_above_four_ranks():
    plain, switch = devices.cluster(nvls=False), devices.cluster(nvls=True)
    for size, faster in ((4, False), (8, True)):
        ring, nvls = (collective_time_s(c, "all_reduce", 1e9, size) for c in (plain, switch))
        assert bool(nvls < ring) is faster
    assert collective_time_s(switch, "all_gather", 1e9, 8) == collective_time_s(plain, "all_gather", 1e9, 8)


def test_small_messages_take_the_tree_across_many_nodes():
    cluster = devices.cluster(nodes=128)
    small = collective_time_s(cluster, "all_reduce", 1e5, 1024)
    assert small < 5e-4 < collective_time_s(cluster, "all_gather", 1e5, 1024)


def test_pipeline_neighbours_meet_on_nvlink_only_inside_one_domain():
    cluster = devices.cluster()
    across = p2p_time_s(cluster, 1e8, 8)
    assert across > 1e8 / 50e9
    assert p2p_time_s(cluster, 1e8, 2) == across  # some boundary of the chain leaves the node
    assert p2p_time_s(cluster, 1e8, 2, size=4) < across / 4
    assert p2p_time_s(devices.cluster(nodes=1), 1e8, 2) < across / 4


def test_user_errors():
    with pytest.raises(InvalidProblemError, match="gather_all"):
        collective_time_s(devices.cluster(), "gather_all", 1.0, 2)
    bare = devices.cluster(device=devices.gpu(collectives={}))
    with pytest.raises(MissingProfileDataError, match="nvlink/all_gather"):
        collective_time_s(bare, "all_gather", 1.0, 2)


#: Bus bandwidth in GB/s. H200: stas00/ml-engineering@744d01e1 (CC BY-SA 4.0) network/README.md, 8 GiB; B200: the same,
#: 4 nodes of 8, 1 GiB; MI300X: the same, 4 GiB; A100: NVIDIA/aiconfigurator@095f58a5, 256 MiB.
PUBLISHED = [
    ("h200-sxm-141gb", "all_reduce", 8 * 2**30, 4, 4, 363.3, 0.05),
    ("h200-sxm-141gb", "all_reduce", 8 * 2**30, 8, 8, 473.1, 0.05),
    ("h200-sxm-141gb", "all_gather", 16 * 2**30, 8, 8, 361.4, 0.06),
    ("h200-sxm-141gb", "reduce_scatter", 16 * 2**30, 8, 8, 362.9, 0.06),
    ("b200-sxm-180gb", "all_reduce", 2**30, 32, 32, 362.0, 0.06),
    ("a100-sxm-80gb", "all_reduce", 2**28, 8, 8, 215.2, 0.05),
    ("a100-sxm-80gb", "all_gather", 2**28, 8, 8, 193.0, 0.05),
    ("h100-sxm-80gb", "all_reduce", 2**28, 8, 8, 430.2, 0.06),
    ("mi300x-192gb", "all_reduce", 4 * 2**30, 8, 8, 312.9, 0.06),
    ("mi300x-192gb", "all_reduce", 4 * 2**30, 2, 8, 47.7, 0.06),
]


@pytest.mark.parametrize(("gpu", "op", "n_bytes", "size", "n_gpus", "busbw", "within"), PUBLISHED)
def test_published_bus_bandwidth(gpu, op, n_bytes, size, n_gpus, busbw, within):
    cluster = cluster_from_gpu(gpu, n_gpus=n_gpus)
    factor = (2 if op == "all_reduce" else 1) * (size - 1) / size
    seconds = collective_time_s(cluster, op, float(n_bytes), size)
    assert factor * n_bytes / seconds / 1e9 == pytest.approx(busbw, rel=within)


@pytest.mark.parametrize("name", list_clusters())
def test_every_shipped_cluster_has_all_curves(name):
    cluster = load_cluster(name, nodes=2)
    world = cluster.n_gpus
    for op in OPERATIONS:
        assert collective_time_s(cluster, op, 1e8, world) > 0
    assert p2p_time_s(cluster, 1e7, 1) > 0
