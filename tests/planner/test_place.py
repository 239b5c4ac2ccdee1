"""A plan put on hosts: what it gains, what it leaves out, and what it says where nothing can be gained."""

import numpy as np
import pytest

from meshwright.costmodels.parallel import ParallelConfig
from meshwright.hardware_profiles.errors import InvalidProblemError
from meshwright.hardware_profiles.link_matrix import LinkMatrix
from meshwright.planner.place import PlacementTask, place
from meshwright.planner.search import estimate_plan
from meshwright.planner.solvers.result import Limits, Termination

CONFIG = ParallelConfig(tp=8, pp=2, dp=4, micro_batch_size=1)


def links_of(rate, **more):
    n = len(rate)
    return LinkMatrix(nodes=tuple(f"n{i}" for i in range(n)), bytes_per_s=np.asarray(rate, float), **more)


def racks(n, per_rack=4, inside=50e9, outside=12.5e9):
    rack = np.arange(n) // per_rack
    rate = np.where(np.equal.outer(rack, rack), inside, outside)
    return links_of(rate, racks=tuple(f"r{r}" for r in rack))


@pytest.fixture
def planned(make_problem):
    def make(config=CONFIG, nodes=8, **changes):
        problem = make_problem("llama-3.1-70b", nodes=nodes, **changes)
        plans = estimate_plan(problem, config)
        return problem, plans.plans[0]

    return make


def test_scattered_racks_are_put_together_and_the_gain_is_in_seconds(planned):
    problem, plan = planned()
    tidy = racks(8)
    mixed = tidy.reordered([0, 4, 1, 5, 2, 6, 3, 7])
    found = place(problem, plan, mixed, Limits(work=50_000))
    assert found.result.termination == Termination.OPTIMAL and not found.equal
    stages = [set(found.placed.hosts[:4]), set(found.placed.hosts[4:])]
    assert stages[0] in ({"n0", "n1", "n2", "n3"}, {"n4", "n5", "n6", "n7"}) and not stages[0] & stages[1]
    assert found.placed.critical_s < found.given.critical_s
    assert found.placed.critical_s == pytest.approx(found.racks.critical_s)  # racks in order are best here
    assert found.gain == pytest.approx(0.0, abs=1e-9)
    assert found.placed.critical_s == pytest.approx(sum(found.placed.by_dimension.values()))
    slower = found.given.critical_s - found.placed.critical_s
    assert found.given.step_s - found.placed.step_s == pytest.approx(slower, rel=0.1)


def test_equal_links_say_that_order_does_not_matter(planned):
    problem, plan = planned()
    found = place(problem, plan, links_of(np.full((8, 8), 50e9)))
    assert found.equal and found.placed == found.given and found.racks is None
    assert found.result.termination == Termination.OPTIMAL
    assert found.placed.step_s == pytest.approx(plan.metrics["step_s"], rel=1e-6)


def test_the_predicted_step_is_the_cost_models_where_all_links_are_equally_slow(planned):
    problem, plan = planned()
    rate = racks(8, per_rack=4).bytes_per_s.copy()
    task = PlacementTask(problem, plan, links_of(np.where(rate > 40e9, 50e9, 25e9)))
    from meshwright.costmodels.link_traffic import at_rate
    from meshwright.costmodels.training import estimate

    slow = at_rate(problem.cluster, 25e9)
    expected = estimate(problem.model, problem.workload, plan.config, slow, problem.software).step_s
    crossing = task.order([0, 4, 1, 5, 6, 2, 7, 3])  # every ring and every pipeline crosses racks
    assert crossing.step_s == pytest.approx(float(expected), rel=1e-3)


def test_a_slow_node_stays_out_where_there_is_a_spare_one(planned):
    problem, plan = planned()
    rate = np.full((9, 9), 50e9)
    rate[3], rate[:, 3] = 10e9, 10e9
    found = place(problem, plan, links_of(rate), Limits(work=20_000))
    assert found.left_out == ("n3",) and found.result.termination == Termination.OPTIMAL
    assert not found.worst or min(w.bytes_per_s for w in found.worst) == 50e9


def test_measured_links_count_as_achieved_rates(planned):
    problem, plan = planned()
    rate = racks(8).bytes_per_s
    nominal = place(problem, plan, links_of(rate), Limits(work=6400))
    measured = place(problem, plan, links_of(rate, measured=True), Limits(work=6400))
    assert measured.given.step_s < nominal.given.step_s
    shared = place(problem, plan, links_of(rate * 8, per="node"), Limits(work=6400))
    assert shared.given == nominal.given


def test_sum_and_critical_are_both_reported_and_the_named_one_is_minimised(planned):
    problem, plan = planned()
    draw = np.random.default_rng(4)
    rate = 25e9 * np.exp(draw.normal(0, 0.5, (8, 8)))
    links = links_of(np.minimum(rate, rate.T))
    critical = place(problem, plan, links, solver="annealing", objective="critical")
    total = place(problem, plan, links, solver="annealing", objective="sum")
    assert critical.result.termination == total.result.termination == Termination.OPTIMAL
    assert critical.placed.critical_s <= total.placed.critical_s * 1.02
    assert total.placed.sum_s <= critical.placed.sum_s * 1.02
    report = critical.report()
    assert report["optimised"] == "critical" and report["solver"]["gap"] == 0.0
    assert report["orders"]["placed"]["link_seconds"] == critical.placed.sum_s


def test_directions_are_kept_apart(planned):
    problem, plan = planned(ParallelConfig(tp=8, pp=1, dp=8))
    rate = np.full((8, 8), 10e9)
    for i in range(8):
        rate[i, (i + 3) % 8] = 50e9  # fast one way only, once around
    found = place(problem, plan, links_of(rate))
    order = [int(h[1:]) for h in found.placed.hosts]
    assert all((b - a) % 8 == 3 for a, b in zip(order, [*order[1:], order[0]], strict=True))


def test_wrong_requests_are_one_sentence(planned):
    problem, plan = planned()
    with pytest.raises(InvalidProblemError, match="fills 8 nodes, but the links name 7"):
        place(problem, plan, links_of(np.full((7, 7), 1e9)))
    with pytest.raises(InvalidProblemError, match="no solver"):
        place(problem, plan, racks(8), solver="cplex")
    with pytest.raises(InvalidProblemError, match="no objective"):
        place(problem, plan, racks(8), objective="least")
    with pytest.raises(InvalidProblemError, match="gpu_order of n2"):
        place(problem, plan, links_of(racks(8).bytes_per_s, gpu_order={"n2": (1, 0)}))


def test_one_node_has_nothing_to_place(make_problem):
    problem = make_problem("llama-3.1-8b", nodes=1)
    plan = estimate_plan(problem, ParallelConfig(tp=4, dp=2)).plans[0]
    found = place(problem, plan, links_of([[1.0]]))
    assert found.equal and found.placed.hosts == ("n0",) and found.placed.critical_s == 0 and not found.worst
