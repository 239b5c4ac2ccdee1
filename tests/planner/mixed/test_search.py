"""Ranked plans on mixed clusters: never worse than a pool alone, the optimum where it can be enumerated, refusals."""

import importlib.util
import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from meshwright.hardware_profiles.errors import InvalidProblemError, NoFeasiblePlanError
from meshwright.planner.emitters import LaunchOptions, get_mixed
from meshwright.planner.emitters.megatron_layout import encode_stage_layout
from meshwright.planner.mixed.plan import ONE_POOL, PIPELINE, REPLICAS
from meshwright.planner.mixed.plan_json import SCHEMA_PATH, from_json, is_mixed_plan, to_json
from meshwright.planner.mixed.search import plan_mixed, speed_up
from meshwright.planner.search import plan as plan_alone
from meshwright.planner.solvers.result import Limits

BENCHMARK = Path(__file__).resolve().parents[3] / "benchmarks" / "mixed_clusters.py"


def benchmark():
    spec = importlib.util.spec_from_file_location("mixed_clusters", BENCHMARK)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


BENCH = benchmark()
MIXES = {m.name: m for m in BENCH.mixes()}
SMALL = [name for name, m in MIXES.items() if m.small][:7]
SMALL.remove(next(name for name in SMALL if "2l40s-8@0.9" in name))  # four seconds of enumeration
LARGE = [name for name, m in MIXES.items() if not m.small][2:3]


@pytest.mark.parametrize("name", SMALL)
def test_small_mixes_reach_the_enumerated_optimum(name):
    problem = MIXES[name].problem
    step, alone = plan_mixed(problem).plans[0].metrics["step_s"], min(BENCH.best_alone(problem))
    optimum, priced = BENCH.enumerated_optimum(problem)
    assert priced > 100
    assert step <= min(alone, optimum) * (1 + 1e-9)


@pytest.mark.parametrize("name", LARGE)
def test_large_mixes_are_never_worse_than_a_pool_alone(name):
    problem = MIXES[name].problem
    answer = plan_mixed(problem)
    best = answer.plans[0]
    assert best.metrics["step_s"] <= min(BENCH.best_alone(problem)) * (1 + 1e-9)
    assert sum(best.time_s.values()) == pytest.approx(best.metrics["step_s"])
    for plan in answer.plans:
        for group in plan.groups:
            assert sum(s.layers for s in group.stages) == problem.model.n_layers
            for stage in group.stages:
                i = problem.cluster.names.index(stage.pool)
                assert stage.peak_bytes <= problem.memory_limit_bytes(i) * (1 + 1e-9)
        served = sum(g.dp * g.micro_batch_size * g.micro_batches for g in plan.groups)
        assert served == problem.workload.global_batch
        for pool in plan.pools:
            used = sum(s.tp * s.cp * g.dp for g in plan.groups for s in g.stages if s.pool == pool)
            assert used <= problem.cluster.pool(pool).n_gpus


def test_both_pools_beat_the_better_one(make_mixed):
    answer = plan_mixed(make_mixed())
    assert answer.plans[0].shape == PIPELINE and speed_up(answer) > 1.1
    assert [p.rank for p in answer.plans] == list(range(1, len(answer.plans) + 1))
    steps = [p.metrics["step_s"] for p in answer.plans]
    assert steps == sorted(steps)
    assert "times as fast as the best pool alone" in answer.plans[0].reasons[1]


def test_a_hopeless_link_leaves_one_pool(make_mixed):
    answer = plan_mixed(make_mixed(rate=2e6, kind="ethernet"))
    best = answer.plans[0]
    assert best.shape == ONE_POOL and best.pools == ("a",) and best.config is not None
    assert speed_up(answer) == pytest.approx(1.0)


def test_replicas_win_where_pools_are_alike_and_the_link_is_good(make_mixed):
    """Equal pools of a small model: no pipeline, no bubble."""
    problem = make_mixed((("dgx-h100", 1), ("dgx-h100", 1)), model="llama-3.2-1b", rate=50e9, global_batch=256)
    answer = plan_mixed(problem)
    assert answer.plans[0].shape == REPLICAS and len(answer.plans[0].groups) == 2


def test_one_pool_alone_is_what_plan_finds_there(make_mixed):
    """The step of ``meshwright plan`` on the pool, refined as there, and so no slower than with ``--refine off``; its
    deal of layers survives the document and reaches the launch files."""
    pools = (("dgx-h100", 3), ("dgx-a100-80", 1))
    answer = plan_mixed(make_mixed(pools, rate=2e6, kind="ethernet", global_batch=96, pins={"pp": (3,), "vp": (1,)}))
    best, alone = answer.plans[0], answer.problem.alone(0)
    own = plan_alone(alone).plans[0]
    assert best.shape == ONE_POOL and best.pools == ("a",)
    assert (
        best.metrics["step_s"]
        == own.metrics["step_s"]
        < plan_alone(replace(alone, refine="off")).plans[0].metrics["step_s"]
    )
    assert own.stage_layout is not None and (best.config, best.stage_layout) == (own.config, own.stage_layout)
    text = to_json(answer)
    assert from_json(text).plans[0].stage_layout == own.stage_layout and to_json(from_json(text)) == text
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.validate(json.loads(text), json.loads(SCHEMA_PATH.read_text()))
    launch = get_mixed("megatron-lm")(answer, best, LaunchOptions()).files["launch.sh"]
    assert encode_stage_layout(own.stage_layout) in launch


def test_a_more_general_plan_is_named_only_if_it_is_better(make_mixed):
    answer = plan_mixed(make_mixed((("dgx-h100", 1), ("dgx-a100-80", 1)), global_batch=96))
    if answer.general is not None:
        assert answer.general.metrics["step_s"] < answer.plans[0].metrics["step_s"]
    free = plan_mixed(replace(answer.problem, framework="any"))
    assert free.general is None
    assert free.plans[0].metrics["step_s"] <= answer.plans[0].metrics["step_s"] * (1 + 1e-9)


def test_only_together(make_mixed):
    """A model that no pool holds alone."""
    answer = plan_mixed(make_mixed((("dgx-h100", 1), ("dgx-a100-80", 2)), model="llama-2-70b", seq_len=2048))
    assert all(p.pools != ("a",) for p in answer.single)
    assert any("pool a alone" in note for note in answer.search.notes)


def test_nothing_fits_names_the_nearest(make_mixed):
    with pytest.raises(NoFeasiblePlanError, match=r"memory holds \d+ of 126 layers") as error:
        plan_mixed(make_mixed(model="llama-3.1-405b"))
    assert error.value.exit_code == 3


def test_a_batch_that_cannot_be_dealt_is_a_mistake(make_mixed):
    with pytest.raises(InvalidProblemError, match="No configuration obeys"):
        plan_mixed(make_mixed(global_batch=64, pins={"micro_batch_size": (128,)}))


def test_impossible_mixes_are_refused(make_mixed):
    with pytest.raises(InvalidProblemError, match="NCCL and RCCL"):
        make_mixed((("dgx-h100", 1), ("mi300x-8", 1)))
    with pytest.raises(InvalidProblemError, match="Pool b: a100-sxm-80gb has no fp8"):
        make_mixed(precision="fp8")
    with pytest.raises(InvalidProblemError, match="megatron-lm and any, not for torchtitan"):
        make_mixed(framework="torchtitan")
    with pytest.raises(InvalidProblemError, match="zero_stage cannot be pinned"):
        make_mixed(pins={"zero_stage": (3,)})


def test_pins_are_kept(make_mixed):
    answer = plan_mixed(make_mixed(pins={"tp": (4,), "dp": (2,), "micro_batch_size": (2,)}))
    for plan in answer.plans:
        for group in plan.groups:
            assert group.dp == 2 and group.micro_batch_size == 2 and {s.tp for s in group.stages} == {4}


def test_a_limit_leaves_a_bound(make_mixed):
    problem = make_mixed(pins={"cp": (1,), "tp": (4, 8)})
    whole, cut = plan_mixed(problem), plan_mixed(problem, Limits(work=1))
    assert cut.search.bound_s <= whole.plans[0].metrics["step_s"] * (1 + 1e-9)
    assert "stopped" in cut.search.optimality and "optimal" in whole.search.optimality
    assert whole.search.bound_s == pytest.approx(whole.plans[0].metrics["step_s"])


def test_the_document_comes_back_byte_for_byte(make_mixed):
    pins = {"cp": (1,), "tp": (4, 8)}
    answer = plan_mixed(make_mixed(global_batch=96, pins=pins))
    text = to_json(answer)
    assert is_mixed_plan(text) and to_json(from_json(text)) == text
    assert to_json(plan_mixed(make_mixed(global_batch=96, pins=pins))) == text
    assert math.isfinite(from_json(text).search.bound_s)


def test_the_document_obeys_its_schema(make_mixed):
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads(SCHEMA_PATH.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    pins = {"cp": (1,), "tp": (4, 8)}
    for changes in ({"global_batch": 96}, {"rate": 2e6}):
        answer = plan_mixed(make_mixed(pins=pins, **changes))
        jsonschema.validate(json.loads(to_json(answer)), schema)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t[:-40], "is not JSON"),
        (lambda t: t.replace("mixed-plan/v1", "mixed-plan/v9"), "has schema"),
        (lambda t: t.replace('"plans"', '"plaans"', 1), "'plans' is missing"),
        (lambda t: t.replace('"dp":', '"dpp":', 1), "not a usable plan"),
    ],
)
def test_broken_documents_are_refused(make_mixed, change, said):
    text = to_json(plan_mixed(make_mixed(layers=8, pins={"cp": (1,), "tp": (8,)})))
    with pytest.raises(InvalidProblemError, match=said):
        from_json(change(text))
