"""Flows between nodes: who talks to whom, and bytes that agree with the cost model."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshwright.costmodels.link_traffic import PARTS, at_rate, count_slots, price_flows, slot_flows
from meshwright.costmodels.load_model import load_model
from meshwright.costmodels.load_software import default_software
from meshwright.costmodels.parallel import CpComm, ParallelConfig
from meshwright.costmodels.training import estimate
from meshwright.costmodels.workload import Workload
from meshwright.hardware_profiles.errors import InvalidProblemError
from meshwright.hardware_profiles.load import load_cluster


def flows(gpus_per_node=8, **degrees):
    directed = degrees.pop("directed", False)
    return {f.name: f for f in slot_flows(ParallelConfig(**degrees), gpus_per_node, directed=directed)}


def rows(flow):
    ends = [*flow.row_starts[1:], len(flow.edges)]
    return [set(flow.edges[a:b]) for a, b in zip(flow.row_starts, ends, strict=True)]


def test_whole_nodes_of_tensor_parallelism_leave_rings_and_pipelines():
    found = flows(tp=8, pp=2, dp=3)
    assert set(found) == {"dp", "pp"}
    assert found["dp"].edges == ((0, 1), (1, 2), (2, 0), (3, 4), (4, 5), (5, 3))
    assert rows(found["pp"]) == [{(0, 3)}, {(1, 4)}, {(2, 5)}]


def test_groups_inside_a_node_send_nothing_between_nodes():
    assert flows(tp=2, cp=2, dp=2) == {}
    found = flows(tp=2, dp=4, pp=4)  # two replicas... a node holds a whole stage
    assert set(found) == {"pp"} and rows(found["pp"]) == [{(0, 1), (1, 2), (2, 3)}]


def test_several_stages_in_a_node_cross_only_where_nodes_end():
    found = flows(tp=2, pp=16, dp=1)
    assert rows(found["pp"]) == [{(0, 1), (1, 2), (2, 3)}]
    assert sum(found["pp"].share) == pytest.approx(1.0)


def test_interleaving_returns_to_the_first_stage():
    found = flows(tp=8, pp=3, vp=2)
    (row,) = rows(found["pp"])
    assert row == {(0, 1), (1, 2), (2, 0)}
    assert dict(zip(found["pp"].edges, found["pp"].share, strict=True))[2, 0] == pytest.approx(1 / 5)


def test_a_ring_of_two_nodes_is_one_link_each_way():
    assert flows(tp=8, dp=2)["dp"].edges == ((0, 1), (1, 0))


def test_groups_wider_than_a_node():
    assert flows(tp=16)["tp"].edges == ((0, 1), (1, 0))
    assert flows(tp=4, cp=4, dp=2)["cp"].edges == ((0, 1), (1, 0), (2, 3), (3, 2))
    ulysses = flows(tp=4, cp=4, dp=2, cp_comm=CpComm.ULYSSES)["cp"]
    assert len(ulysses.row_starts) == 4 and set(ulysses.share) == {1.0}


def test_experts_send_from_every_node_to_every_other_of_their_group():
    found = flows(tp=1, dp=64, ep=32, pp=2)
    ep = found["ep"]
    assert len(ep.row_starts) == 16 and len(ep.edges) == 16 * 3 and set(ep.share) == {8 / 24}
    # experts are replicated twice per stage, on nodes 4 apart
    assert set(found["expert dp"].edges) >= {(0, 4), (4, 0), (3, 7), (8, 12)}


def test_hsdp_has_a_ring_for_shards_and_one_for_replicas():
    found = flows(dp=32, zero_stage=3, dp_shard=16)
    assert found["dp shards"].edges == ((0, 1), (1, 0), (2, 3), (3, 2))
    assert set(found["dp replicas"].edges) == {(0, 2), (2, 0), (1, 3), (3, 1)}
    assert set(flows(dp=32, zero_stage=0, dp_shard=16)) == {"dp"}


def test_directed_links_get_both_ways():
    found = flows(tp=8, pp=3, dp=1, directed=True)
    assert rows(found["pp"]) == [{(0, 1), (1, 0), (1, 2), (2, 1)}] and sum(found["pp"].share) == pytest.approx(1)


def test_partly_filled_nodes_are_refused():
    with pytest.raises(InvalidProblemError, match="do not fill nodes of 8"):
        count_slots(ParallelConfig(tp=4, dp=3), 8)
    assert count_slots(ParallelConfig(tp=4), 8) == 1


@settings(max_examples=80, deadline=None)
@given(
    tp=st.sampled_from([1, 2, 4, 8, 16]),
    cp=st.sampled_from([1, 2, 4]),
    dp=st.sampled_from([1, 2, 3, 8, 16]),
    pp=st.sampled_from([1, 2, 3, 8]),
    ep=st.sampled_from([1, 2, 8, 32]),
    vp=st.sampled_from([1, 2]),
    per_node=st.sampled_from([4, 8]),
    directed=st.booleans(),
)
def test_every_row_of_equal_links_costs_at_most_its_flow_and_one_costs_all_of_it(
    tp, cp, dp, pp, ep, vp, per_node, directed
):
    config = ParallelConfig(tp=tp, cp=cp, dp=dp, pp=pp, vp=vp if pp > 1 else 1, ep=ep if tp * cp * dp % ep == 0 else 1)
    if config.world_size > per_node and config.world_size % per_node:
        return
    slots = count_slots(config, per_node)
    for flow in slot_flows(config, per_node, directed=directed):
        sums = np.add.reduceat(flow.share, flow.row_starts)
        assert sums.max() == pytest.approx(1.0) and sums.min() > 0
        assert all(u != v and 0 <= u < slots and 0 <= v < slots for u, v in flow.edges)
        assert min(flow.share) > 0


CASES = {
    "rings and pipelines": ("llama-3.1-70b", 16, {"tp": 8, "pp": 4, "dp": 4}),
    "context": ("llama-3.1-70b", 8, {"tp": 4, "cp": 4, "pp": 2, "dp": 2}),
    "experts": ("deepseek-v3", 32, {"ep": 64, "pp": 4, "dp": 64}),
    "sharded experts": ("mixtral-8x7b", 4, {"ep": 8, "dp": 32, "zero_stage": 3, "dp_shard": 8}),
}


@pytest.mark.parametrize("case", CASES)
def test_bytes_reproduce_the_cost_model_at_both_ends(case):
    model, nodes, degrees = CASES[case]
    cluster = load_cluster("dgx-h100", nodes=nodes)
    config = ParallelConfig(**degrees)
    work = Workload(seq_len=4096, global_batch=512)
    software = default_software("megatron-lm", cluster.gpu)
    setup = (load_model(model), work, config, cluster, software)
    slow, fast = 5e9, 50e9
    priced = price_flows(slot_flows(config, 8), *setup, (slow, fast))
    assert priced and all(f.n_bytes >= 0 and f.hidden_bytes >= 0 for f in priced)
    times = [estimate(*setup[:3], at_rate(cluster, rate), software).time for rate in (slow, fast)]
    for dimension in {f.dimension for f in priced}:
        lost = sum(float(getattr(times[0], p) - getattr(times[1], p)) for p in PARTS[dimension])
        ours = sum(f.n_bytes for f in priced if f.dimension == dimension) * (1 / slow - 1 / fast)
        assert ours == pytest.approx(max(lost, 0.0), rel=1e-9, abs=1e-12)
    # dimensions whose groups stay inside a node lose nothing
    for dimension in set(PARTS) - {f.dimension for f in priced}:
        assert sum(float(getattr(times[0], p) - getattr(times[1], p)) for p in PARTS[dimension]) == pytest.approx(0)


def test_hidden_pipeline_traffic_is_told_apart():
    cluster = load_cluster("dgx-h100", nodes=4)
    config = ParallelConfig(tp=8, pp=4, vp=4)
    software = default_software("megatron-lm", cluster.gpu)
    setup = (load_model("llama-3.1-70b"), Workload(seq_len=4096, global_batch=64), config, cluster, software)
    (pp,) = price_flows(slot_flows(config, 8), *setup, (5e9, 50e9))
    assert pp.n_bytes == pytest.approx(0.0) and pp.hidden_bytes > 0
