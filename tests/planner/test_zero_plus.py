import pytest

from meshwright.costmodels.parallel import ParallelConfig
from meshwright.costmodels.rules import validate
from meshwright.hardware_profiles.errors import InvalidProblemError
from meshwright.planner.label import config_label
from meshwright.planner.neighbours import neighbours_of
from meshwright.planner.search import plan
from meshwright.planner.space import enumerate_space
from meshwright.planner.zero_plus import zero_plus_options


def values(problem, field):
    return set(enumerate_space(problem).table.columns[field].tolist())


def test_a_second_copy_is_tried_inside_every_domain_of_the_links(make_problem):
    on_frontier = make_problem(cluster="frontier", nodes=4, framework="deepspeed")
    assert values(on_frontier, "hpz") == {0, 2, 8}
    assert values(make_problem(nodes=4, framework="deepspeed"), "hpz") == {0, 8}
    table = enumerate_space(on_frontier).table
    assert (table.zero_stage[table.hpz > 0] == 3).all()
    assert values(make_problem(nodes=4), "hpz") == {0}
    assert values(make_problem(nodes=1, framework="deepspeed"), "hpz") == {0}


def test_hsdp_inside_a_package_and_inside_a_node(make_problem):
    table = enumerate_space(make_problem(cluster="frontier", nodes=4, framework="torchtitan", pins={"tp": (1,)})).table
    one = table.take((table.cp == 1) & (table.pp == 1))
    assert set(one.dp_shard.tolist()) == {2, 8, 32}


def test_quantized_traffic_only_when_allowed(make_problem):
    for field in ("quantized_weights", "quantized_gradients"):
        assert values(make_problem(nodes=4, framework="deepspeed"), field) == {0}
        allowed = make_problem(nodes=4, framework="deepspeed", allow=("quantized-comm",))
        assert values(allowed, field) == {0, 1}
        assert values(make_problem(nodes=4, allow=("quantized-comm",)), field) == {0}
    pinned = make_problem(nodes=4, framework="deepspeed", pins={"quantized_weights": (1,), "zero_stage": (3,)})
    assert values(pinned, "quantized_weights") == {1}


def test_options_without_replicas(make_problem):
    p = make_problem(nodes=1, framework="deepspeed", allow=("quantized-comm",))
    assert zero_plus_options(p, 3, 1) == [(0, 0, 0)] == zero_plus_options(p, 2, 8)


@pytest.mark.parametrize(
    ("framework", "fields", "words"),
    [
        ("megatron-lm", {"hpz": 8, "zero_stage": 3}, "Only DeepSpeed has ZeRO"),
        ("torchtitan", {"quantized_weights": 1, "zero_stage": 3}, "Only DeepSpeed has ZeRO"),
        ("deepspeed", {"hpz": 8, "zero_stage": 2}, "needs zero_stage=3, not 2"),
        ("deepspeed", {"quantized_gradients": 1, "zero_stage": 1}, "needs zero_stage=3, not 1"),
        ("deepspeed", {"hpz": 3, "zero_stage": 3}, "to divide dp.cp .32.1. .* hpz=3 does not"),
        ("deepspeed", {"hpz": 32, "zero_stage": 3}, "between 2 and half"),
        ("deepspeed", {"hpz": 1, "zero_stage": 3}, "0: no second copy"),
    ],
)
def test_rules(make_problem, framework, fields, words):
    p = make_problem(nodes=4, framework=framework)
    with pytest.raises(InvalidProblemError, match=words):
        validate(p.model, p.workload, p.cluster, framework, ParallelConfig(dp=32, **fields))


def test_slow_network_prefers_a_second_copy_and_quantized_traffic_wins_where_allowed(make_problem):
    fixed = {"zero_stage": (3,), "tp": (1,), "cp": (1,), "pp": (1,), "micro_batch_size": (1,)}
    request = {"cluster": "frontier", "nodes": 16, "framework": "deepspeed", "global_batch": 512}
    plain = plan(make_problem(**request, pins=fixed | {"hpz": (0,)})).plans[0]
    copy = plan(make_problem(**request, pins=fixed)).plans[0]
    small = plan(make_problem(**request, pins=fixed, allow=("quantized-comm",))).plans[0]
    assert copy.config.hpz in (2, 8)
    assert small.metrics["step_s"] < copy.metrics["step_s"] < plain.metrics["step_s"]
    assert small.config.quantized_weights == small.config.quantized_gradients == 1
    assert "qw qg" in config_label(small.config) and f"hpz{copy.config.hpz}" in config_label(copy.config)


def test_neighbours_drop_what_no_longer_holds(make_problem):
    p = make_problem(nodes=4, framework="deepspeed")
    config = ParallelConfig(dp=32, zero_stage=3, hpz=8, quantized_weights=1)
    found = {(name, value): c for name, value, c in neighbours_of(p, config)}
    assert found["zero_stage", 2].hpz == 0 and found["zero_stage", 2].quantized_weights == 0
    assert found["micro_batch_size", 2].hpz == 8
