"""A plan's pipeline simulated from its stage times."""

from dataclasses import replace

import numpy as np
import pytest

from meshwright.costmodels.schedules.stage_passes import stage_passes
from meshwright.costmodels.stage_time import stage_time
from meshwright.hardware_profiles.errors import InvalidProblemError
from meshwright.planner import plan
from meshwright.planner.timeline import DRAWN, timeline


@pytest.fixture
def piped(make_problem):
    problem = make_problem("llama-3.1-70b", nodes=4, global_batch=32, pins={"pp": (4,), "vp": (1,), "dp": (1,)})
    return problem, plan(problem).plans[0]


def test_stage_passes_add_up_to_the_stage_times(piped):
    problem, best = piped
    where = problem.cluster, problem.model, problem.workload, problem.software
    whole = stage_time(*where, best.config).whole()
    for chunks in (1, 2):
        times = stage_passes(*where, best.config, chunks)
        per_stage = (np.asarray(times.forward_s) + np.asarray(times.backward_s)).sum(axis=1)
        assert per_stage == pytest.approx([float(whole.first), float(whole.mid), float(whole.mid), float(whole.last)])
        assert np.all(np.asarray(times.weight_gradient_s) < np.asarray(times.backward_s))


def test_the_closed_form_of_1f1b_stays_near_the_simulation(piped):
    """The last stage carries the head and is the busiest, where the form is exact but for transfers."""
    result = timeline(*piped)
    assert result.schedule == "1f1b" and result.n_micro == 32
    assert result.closed_form_s == pytest.approx(result.simulation.makespan_s, rel=0.02)
    assert result.simulation.peak_in_flight() == pytest.approx([4, 3, 2, 1])


@pytest.mark.parametrize("name", [n for n in DRAWN if n != "interleaved"])
def test_another_schedule_and_number_of_micro_batches(piped, name):
    result = timeline(*piped, schedule=name, n_micro=8)
    assert result.simulation.schedule.name == name and result.n_micro == 8
    # no schedule does the work of the busiest stage of all micro-batches in less time than it takes
    assert result.simulation.makespan_s >= result.simulation.busy_s.max()
    assert (result.closed_form_s is None) == (name == "dualpipe")


def test_refusals_are_sentences(piped, make_problem):
    with pytest.raises(InvalidProblemError, match="none of 1f1b"):
        timeline(*piped, schedule="chimera")
    with pytest.raises(InvalidProblemError, match="vp of 2 or more"):
        timeline(*piped, schedule="interleaved")
    flat = make_problem(pins={"pp": (1,)})
    with pytest.raises(InvalidProblemError, match="no pipeline"):
        timeline(flat, plan(flat).plans[0])


def test_a_plan_with_layers_dealt_one_by_one_is_drawn_as_dealt(make_problem):
    p = make_problem("deepseek-v3", nodes=64, seq_len=4096, global_batch=2048)
    best = next(x for x in plan(p).plans if x.stage_layout)
    drawn = timeline(p, best, n_micro=4 * best.config.pp)
    even = timeline(p, replace(best, stage_layout=None), n_micro=4 * best.config.pp)
    assert drawn.dealt and not even.dealt
    assert drawn.simulation.makespan_s < even.simulation.makespan_s
    assert drawn.closed_form_s == pytest.approx(drawn.simulation.makespan_s, rel=0.15)
