import math
import sys
from pathlib import Path

import pytest

from meshwright.costmodels.layer_profile import LayerEdge, LayerProfile, LayerRun, ProfiledLayer
from meshwright.hardware_profiles.errors import InvalidProblemError, MissingProfileDataError
from meshwright.planner.solvers.chain_partition import ChainSolver
from meshwright.planner.solvers.chain_problem import ChainProblem, ChainStage, largest_load, price
from meshwright.planner.solvers.chain_stages import CandidateStages
from meshwright.planner.solvers.downsets import enumerate_downsets
from meshwright.planner.solvers.result import Limits, Termination

sys.path.insert(0, str(Path(__file__).parent))
from chain_cases import brute_force, random_problem


def run(time_s, *, tp=1, variant="plain", weights=0.0, kept=0.0, fixed=0.0, sync_in=None, sync_out=None):
    return LayerRun(
        tp=tp,
        variant=variant,
        time_s=time_s,
        parameter_bytes=weights,
        in_flight_bytes=kept,
        fixed_bytes=fixed,
        sync_in_bytes=sync_in or {},
        sync_out_bytes=sync_out or {},
    )


def chain_of(*layers, edges=None, **fields):
    volumes = edges or tuple(LayerEdge(i, i + 1, 0.0) for i in range(len(layers) - 1))
    profile = LayerProfile(
        layers=tuple(ProfiledLayer(str(i), tuple(runs)) for i, runs in enumerate(layers)),
        edges=volumes,
        source="test",
        kind="test",
    )
    given = {"devices": 2, "memory_bytes": 1e9, "bandwidth_bytes_per_s": 1.0, "micro_batches": 4} | fields
    return ChainProblem(profile=profile, **given)


def test_load_by_hand():
    # Two layers apart: 2 * (5 + 1) bytes leave stage 1, 2 * (5 + 2) enter stage 2; d = 2 halves, and adds
    # 4 * (2 - 1) * 3 / (2 * 4) bytes of reduction; at 10 bytes/s.
    problem = chain_of(
        [run(8.0, weights=3.0, kept=2.0, fixed=1.0, sync_out={1: 1.0})],
        [run(6.0, sync_in={0: 2.0}, kept=4.0)],
        edges=(LayerEdge(0, 1, 5.0),),
        devices=3,
        bandwidth_bytes_per_s=10.0,
    )
    first, second = price(problem, (ChainStage((0,), 1, 2, (0,)), ChainStage((1,), 1, 1, (0,))))
    assert first.load_s == pytest.approx(8 / 2 + (12 / 2 + 1.5) / 10)
    assert second.load_s == pytest.approx(6 + 14 / 10)
    assert (first.in_flight, first.memory_bytes) == (2, 5.0)  # ceil(3 / 2) = 2
    assert (second.in_flight, second.memory_bytes) == (1, 4.0)


@pytest.mark.parametrize(
    ("chain", "words"),
    [
        ((ChainStage((0,), 1, 1, (0,)),), "leave a layer out"),
        ((ChainStage((1,), 1, 1, (0,)), ChainStage((0,), 1, 1, (0,))), "which feeds it"),
        ((ChainStage((0,), 1, 2, (0,)), ChainStage((1,), 1, 1, (0,))), "3 devices"),
        ((ChainStage((0,), 1, 3, (0,)), ChainStage((1,), 1, 1, (0,))), "dp 3"),
        ((ChainStage((0, 1), 1, 1, (0, 0)), ChainStage((1,), 1, 1, (0,))), "repeats"),
    ],
)
def test_a_broken_chain_is_named(chain, words):
    with pytest.raises(InvalidProblemError, match=words):
        price(chain_of([run(1.0)], [run(1.0)]), chain)


def test_memory_and_replicas_are_held():
    tight = chain_of([run(1.0, kept=1.0)], memory_bytes=0.5)
    with pytest.raises(InvalidProblemError, match="Stage 1 needs 1 bytes"):
        price(tight, (ChainStage((0,), 1, 1, (0,)),))
    few = chain_of([run(1.0)], [run(1.0)], micro_batches=1)
    with pytest.raises(InvalidProblemError, match="2 replicas for 1"):
        price(few, (ChainStage((0,), 1, 1, (0,)), ChainStage((1,), 1, 1, (0,))))


@pytest.mark.parametrize("seed", range(60))
def test_kernel_finds_what_trying_everything_finds(seed):
    shape = [(3, 4, 4), (3, 5, 6), (4, 3, 2), (2, 6, 6)][seed % 4]
    problem = random_problem(seed, *shape)
    found = ChainSolver().solve(problem)
    best = brute_force(problem)
    if math.isinf(best):
        assert found.termination == Termination.INFEASIBLE and found.value is None
        return
    assert found.termination == Termination.OPTIMAL and found.gap == 0
    assert found.objective == pytest.approx(best, rel=2e-9)
    assert found.objective == largest_load(problem, found.value)


def test_some_cases_are_infeasible_and_some_need_recompute():
    endings = [ChainSolver().solve(random_problem(s, 3, 4, 4)) for s in range(60)]
    assert {r.termination for r in endings} == {Termination.OPTIMAL, Termination.INFEASIBLE}
    assert any(v for r in endings if r.value for stage in r.value for v in stage.variants)
    assert any(stage.tp == 2 for r in endings if r.value for stage in r.value)


def test_a_limit_leaves_a_plan_and_a_bound():
    problem = random_problem(6, 8, 16, 16, variants=3)
    full = ChainSolver().solve(problem)
    assert full.termination == Termination.OPTIMAL
    seen = set()
    for work in range(1, full.work):
        cut = ChainSolver().solve(problem, Limits(work=work))
        seen.add(cut.termination)
        assert cut.bound <= full.objective * (1 + 1e-9) and cut.objective >= full.objective * (1 - 1e-9)
        assert cut == ChainSolver().solve(problem, Limits(work=work)) or cut.seconds
    assert Termination.FEASIBLE_AT_LIMIT in seen and Termination.NO_SOLUTION_AT_LIMIT in seen


@pytest.mark.parametrize("after", [0, 1, 30])
def test_an_interrupt_leaves_what_is_known(monkeypatch, after):
    problem, calls = random_problem(6, 8, 16, 16, variants=3), []
    full = ChainSolver().solve(problem)
    holds = CandidateStages.holds

    def interrupted(self, *given):
        calls.append(given)
        if len(calls) > after:
            raise KeyboardInterrupt
        return holds(self, *given)

    monkeypatch.setattr(CandidateStages, "holds", interrupted)
    found = ChainSolver().solve(problem)
    assert found.termination in (Termination.FEASIBLE_AT_LIMIT, Termination.NO_SOLUTION_AT_LIMIT)
    assert 0 < found.bound <= full.objective <= found.objective


def test_a_time_limit_is_said():
    found = ChainSolver().solve(random_problem(6, 8, 16, 16), Limits(time_s=1e-9))
    assert found.timed_out and found.termination == Termination.NO_SOLUTION_AT_LIMIT


def test_nothing_to_balance_is_named():
    with pytest.raises(InvalidProblemError, match="takes any time"):
        chain_of([run(0.0)], [run(0.0)])


def test_a_free_way_to_run_every_layer_costs_nothing():
    found = ChainSolver().solve(chain_of([run(1.0), run(0.0, variant="free")], [run(0.0)]))
    assert found.objective == 0.0 and found.termination == Termination.OPTIMAL


def test_downsets_of_a_diamond_and_their_limit():
    found = enumerate_downsets(4, [(0, 1), (0, 2), (1, 3), (2, 3)])
    assert found.masks == (0b0000, 0b0001, 0b0011, 0b0101, 0b0111, 0b1111)
    assert found.below[4].tolist() == [0, 1, 2, 3]
    assert found.nodes_between(1, 4) == (1, 2)
    with pytest.raises(InvalidProblemError, match="more than 100 downward-closed sets"):
        enumerate_downsets(20, [], limit=100)


def test_more_than_64_layers():
    count = 70
    found = enumerate_downsets(count, [(i, i + 1) for i in range(count - 1)])
    assert len(found.masks) == count + 1 and found.below[count].tolist() == list(range(count))


def test_a_missing_setting_is_named():
    with pytest.raises(MissingProfileDataError, match="it has tp 1, micro-batch 1"):
        chain_of([run(1.0)], [run(1.0)], micro_batch_size=2)


def test_equal_layers_split_evenly():
    found = ChainSolver().solve(chain_of(*([run(5.0)] for _ in range(12)), devices=4, micro_batches=8))
    assert found.objective == 15.0
