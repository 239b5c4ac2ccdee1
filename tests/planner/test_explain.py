"""Anatomy, neighbours and why-not, each checked against the model itself."""

from dataclasses import replace

import pytest

from meshwright.costmodels.rules import first_violation_sentence
from meshwright.hardware_profiles.errors import InvalidProblemError
from meshwright.planner import estimate_plan, explain, from_json, plan, to_json, why_not
from meshwright.planner.neighbours import neighbours_of
from meshwright.planner.rank import fits


@pytest.fixture
def found(make_problem):
    return plan(make_problem("llama-3.1-70b", nodes=8, seq_len=8192, global_batch=512))


def test_parts_are_whole_and_sorted(found):
    for rank in (1, 7):
        e = explain(found, rank)
        assert e.plan.rank == rank
        assert sum(p.amount for p in e.time) == pytest.approx(e.plan.metrics["step_s"])
        assert sum(p.share for p in e.memory) == pytest.approx(1.0)
        for parts in (e.time, e.memory):
            assert [p.amount for p in parts] == sorted((p.amount for p in parts), reverse=True)
            assert all(p.reason for p in parts)
        assert "bound by" in e.bound[0] and "GB" in e.bound[1]
        assert e.choices


def test_neighbours_say_what_the_model_says(found):
    e, p = explain(found, 1), found.problem
    legal = [n for n in e.neighbours if not n.violation]
    assert {"tp", "pp", "micro_batch_size", "recompute"} <= {n.dimension for n in legal}
    for n in legal:
        alone = estimate_plan(p, n.config).plans[0].metrics
        assert n.step_change == pytest.approx(alone["step_s"] / e.plan.metrics["step_s"] - 1, abs=1e-9)
        assert n.fits == bool(fits(p, alone["peak_bytes"]))
    for n in e.neighbours:
        said = first_violation_sentence(p.model, p.workload, p.cluster, p.framework, n.config)
        assert n.violation == said


def test_the_best_plan_has_no_better_neighbour_that_fits(found):
    """Neighbours inside the enumerated space cannot beat an exhaustive search."""
    inside = {"tp", "pp", "micro_batch_size", "zero_stage", "schedule", "cp_comm", "recompute"}
    for n in explain(found, 1).neighbours:
        if n.dimension in inside and n.fits and not n.violation:
            assert n.step_change >= -1e-9, n.sentence


def test_neighbours_keep_the_world_and_repair_what_hangs_on_it(make_problem, tiny_moe):
    p = make_problem(tiny_moe, nodes=1)
    c = plan(p).plans[0].config
    c = replace(c, tp=2, dp=2, pp=2, vp=2, cp=1, etp=2, sequence_parallel=1, dp_shard=2, layer_split=0, ep=1)
    for dimension, value, n in neighbours_of(p, c):
        assert n.world_size == 8 and getattr(n, dimension) == value
        assert (n.dp * n.cp) % n.dp_shard == 0
        if n.pp == 1:
            assert n.vp == 1 and n.schedule == 0


def test_why_not_gives_the_rule(found):
    assert "heads (64) are not divisible by tp=3" in why_not(found, {"tp": 3}).sentence
    assert why_not(found, {"tp": 3}).kind == "rule"
    answer = why_not(found, {"vp": 7, "layer_split": 0})
    assert answer.kind == "rule" and "by layers" in answer.sentence


def test_why_not_gives_the_overrun_with_its_largest_parts(found):
    answer = why_not(found, {"tp": 1, "pp": 1, "zero_stage": 0})
    assert answer.kind == "memory" and answer.plan is not None
    peak, limit = answer.plan.metrics["peak_bytes"], found.problem.cluster.gpu.memory_bytes
    assert f"{(peak - limit) / 1e9:.1f} GB over the limit" in answer.sentence
    assert "optimizer" in answer.sentence


def test_why_not_gives_the_best_of_the_kind_and_its_parts(found):
    answer = why_not(found, {"tp": 8, "pp": 4})
    assert answer.kind == "slower" and answer.plan is not None
    again = plan(replace(found.problem, pins={"tp": (8,), "pp": (4,)})).plans[0]
    assert answer.plan.config == again.config
    slower = again.metrics["step_s"] / found.plans[0].metrics["step_s"] - 1
    assert f"{slower:+.1%} step time" in answer.sentence and " s" in answer.sentence


def test_why_not_of_the_best_itself(found):
    best = found.plans[0].config
    assert why_not(found, {"tp": best.tp, "pp": best.pp}).kind == "best"


def test_questions_that_make_no_sense(found):
    with pytest.raises(InvalidProblemError, match="no plan of rank 99"):
        explain(found, 99)
    with pytest.raises(InvalidProblemError, match="Unknown field 'tensor'"):
        why_not(found, {"tensor": 8})
    with pytest.raises(InvalidProblemError, match="tp=0 is not a whole number"):
        why_not(found, {"tp": 0})
    with pytest.raises(InvalidProblemError, match="Say which values"):
        why_not(found, {})


def test_a_plan_file_is_enough_to_explain(found):
    read = from_json(to_json(found))
    assert [p.name for p in explain(read, 2).time] == [p.name for p in explain(found, 2).time]
    assert why_not(read, {"tp": 8, "pp": 4}).plan.config == why_not(found, {"tp": 8, "pp": 4}).plan.config
