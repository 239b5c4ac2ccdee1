"""Plans whose vocabulary is split over the pipeline: priced and ranked where asked for, never launched."""

import re
from dataclasses import replace

import pytest

from meshwright.costmodels.layer_costs import layer_costs
from meshwright.costmodels.parallel import LayerSplit, ParallelConfig, VocabParallel
from meshwright.costmodels.stage_layout import even_layout
from meshwright.costmodels.stage_pricing import price_stages
from meshwright.hardware_profiles.errors import InvalidProblemError, UnsupportedByFrameworkError
from meshwright.planner import emitters, estimate_plan, from_json, plan, to_json
from meshwright.planner.timeline import timeline

SPLIT = ParallelConfig(pp=8, vocab_parallel=VocabParallel.ONE_BARRIER)


def test_pinned_under_any_it_is_ranked_beside_the_plain_pipeline(make_problem):
    kinds = tuple(int(k) for k in VocabParallel)
    pins = {"pp": (8,), "vp": (1,), "recompute": (0,), "schedule": (0,), "vocab_parallel": kinds}
    found = plan(make_problem(framework="any", pins=pins, top=100))
    best = {}
    for one in found.plans:
        best.setdefault(one.config.vocab_parallel, one.metrics["step_s"])
    assert set(best) == set(kinds)
    assert best[0] == max(best.values())  # a vocabulary of 128k weighs more than two of the four layers of a stage


def test_no_framework_ranks_or_launches_it(make_problem):
    pins = {"pp": (8,), "vocab_parallel": (2,)}
    with pytest.raises(InvalidProblemError, match="can be estimated"):
        plan(make_problem(pins=pins))
    for changes in ({}, {"vocab_parallel": 0, "layer_split": LayerSplit.BALANCED}):
        one = estimate_plan(make_problem(framework="any"), replace(SPLIT, **changes))
        again = from_json(to_json(one))
        assert again.plans[0].config == one.plans[0].config
        for emitter in map(emitters.get, emitters.available()):
            with pytest.raises(UnsupportedByFrameworkError, match="can only be estimated"):
                emitter.emit(one, one.plans[0], emitters.LaunchOptions(train_script="train.py"))


def test_the_pipeline_must_be_plain(make_problem):
    for changes in ({"vp": 2}, {"pp": 1, "dp": 8}, {"schedule": 1}):
        with pytest.raises(InvalidProblemError, match="schedule 1f1b"):
            estimate_plan(make_problem(framework="any"), replace(SPLIT, dp_shard=0, **changes))


def test_older_plan_files_have_none(make_problem):
    text = to_json(estimate_plan(make_problem(), ParallelConfig(dp=8)))
    older = re.sub(r',\s*"vocab_parallel": 0', "", text)
    assert older != text and from_json(older).plans[0].config.vocab_parallel == 0


def test_explicit_layouts_refuse_it(make_problem):
    p = make_problem()
    where = p.model, p.workload, p.cluster, p.software
    assert layer_costs(*where, SPLIT).n > 0
    with pytest.raises(InvalidProblemError, match="vocab_parallel"):
        price_stages(*where, SPLIT, even_layout(p.model, SPLIT))


@pytest.mark.parametrize("kind", [k for k in VocabParallel if k])
def test_its_timeline_agrees_with_the_closed_form(make_problem, kind):
    one = estimate_plan(make_problem(framework="any"), replace(SPLIT, vocab_parallel=kind))
    result = timeline(one.problem, one.plans[0])
    assert result.closed_form_s == pytest.approx(result.simulation.makespan_s, rel=0.02)


def test_balanced_layers_leave_the_last_stage_fewer(make_problem):
    problem = make_problem(framework="any")
    one = estimate_plan(problem, ParallelConfig(pp=8, layer_split=LayerSplit.BALANCED)).plans[0]
    assert one.stage_layers == (4, 4, 4, 4, 4, 5, 5, 2)
    layout = even_layout(problem.model, one.config)
    assert layout.stage_layers == one.stage_layers
    where = problem.model, problem.workload, problem.cluster, problem.software
    exact = price_stages(*where, one.config, layout)[1]
    assert float(exact.step_s) == pytest.approx(one.metrics["step_s"], rel=1e-6)
