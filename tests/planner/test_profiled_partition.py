import itertools
import math
from pathlib import Path

import pytest

from meshwright.costmodels.layer_profile import LayerProfile, LayerRun, ProfiledLayer
from meshwright.hardware_profiles.errors import InvalidProblemError, MissingProfileDataError
from meshwright.planner.layer_profiles.read import read_profile
from meshwright.planner.profiled_partition import cut, partition_problem
from meshwright.planner.solvers.result import Termination

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "layer_profile.csv"
SETTING = ("", 1, 1)


def by_hand(profile, stages, micro_batches, memory_bytes):
    """Least step time over every cut and every choice of variants, priced from the profile itself."""
    layers = profile.at(SETTING)
    best = math.inf
    for inner in itertools.combinations(range(1, len(layers)), stages - 1):
        loads = []
        for s, (start, end) in enumerate(itertools.pairwise((0, *inner, len(layers)))):
            flight = min(stages - s, micro_batches)
            fits = math.inf
            for runs in itertools.product(*layers[start:end]):
                plain = [min(v, key=lambda r: r.time_s) for v in layers[start:end]]
                extra = [
                    max(r.fixed_bytes for r in v) - p.fixed_bytes for v, p in zip(layers[start:end], plain, strict=True)
                ]
                held = sum(p.fixed_bytes + r.in_flight_bytes * flight for p, r in zip(plain, runs, strict=True))
                moved = any(r is not p for r, p in zip(runs, plain, strict=True))
                if held + (max(extra) if moved else 0) <= memory_bytes:
                    fits = min(fits, sum(r.time_s for r in runs))
            loads.append(fits)
        best = min(best, sum(loads) + (micro_batches - 1) * max(loads))
    return best


@pytest.mark.parametrize("memory_gb", [3.2, 3.6, 4.5, 6.0])
@pytest.mark.parametrize("stages", [2, 4])
def test_cut_is_the_best_of_all(stages, memory_gb):
    profile = read_profile(EXAMPLE)
    found = cut(profile, SETTING, stages, 6, memory_gb * 1e9)
    best = by_hand(profile, stages, 6, memory_gb * 1e9)
    if math.isinf(best):
        assert found.found.termination == Termination.INFEASIBLE and not found.stages
        return
    assert found.step_s == pytest.approx(best) == pytest.approx(found.bound_s)
    assert all(stage.memory_bytes <= memory_gb * 1e9 for stage in found.stages)
    assert [i for stage in found.stages for i in stage.layers] == list(range(8))


def test_tight_memory_recomputes_early_stages_first():
    profile = read_profile(EXAMPLE)
    found = cut(profile, SETTING, 4, 6, 3.6e9)
    again = [stage.variants.count("recompute") for stage in found.stages]
    assert sum(again) > 0 and again[0] >= again[-1]
    assert [stage.in_flight for stage in found.stages] == [4, 3, 2, 1]


def test_a_slower_variant_that_holds_less_saves_no_fixed_bytes():
    def run(variant, time_s, fixed):
        return LayerRun(
            tp=1, variant=variant, time_s=time_s, parameter_bytes=0, in_flight_bytes=0, fixed_bytes=fixed * 1024
        )

    layer = ProfiledLayer("layer", (run("plain", 1.0, 500), run("small", 2.0, 300)))
    profile = LayerProfile(layers=(layer,), edges=(), source="test", kind="test")
    problem = partition_problem(profile, SETTING, 1, 1, 1e9)
    assert problem.fixed == (500,) and problem.redo == (0,)


def test_bad_requests_are_named():
    profile = read_profile(EXAMPLE)
    with pytest.raises(InvalidProblemError, match="9 stages cannot be cut from the 8 layers"):
        partition_problem(profile, SETTING, 9, 4, 1e9)
    with pytest.raises(InvalidProblemError, match="at least one micro-batch"):
        partition_problem(profile, SETTING, 2, 0, 1e9)
    with pytest.raises(MissingProfileDataError, match="tp 2"):
        partition_problem(profile, ("", 2, 1), 2, 4, 1e9)
