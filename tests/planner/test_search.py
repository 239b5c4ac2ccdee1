"""``plan`` and ``estimate_plan``: the whole way, and what they say when there is nothing to return."""

import subprocess
import sys
import time
from dataclasses import replace

import pytest

from meshwright.costmodels.parallel import ParallelConfig
from meshwright.costmodels.rules import first_violation_sentence
from meshwright.costmodels.training import estimate
from meshwright.hardware_profiles.errors import InvalidProblemError, NoFeasiblePlanError
from meshwright.planner import PlanSet, estimate_plan, plan
from meshwright.planner.infeasible import resized, something_fits


@pytest.mark.parametrize("framework", ["megatron-lm", "torchtitan", "deepspeed", "pytorch", "any"])
def test_plans_are_legal_ranked_and_add_up(make_problem, framework):
    p = make_problem(nodes=2, seq_len=8192, global_batch=128, framework=framework)
    found = plan(p)
    assert [x.rank for x in found.plans] == list(range(1, 11))
    steps = [x.metrics["step_s"] for x in found.plans]
    assert steps == sorted(steps)
    for x in found.plans:
        assert not first_violation_sentence(p.model, p.workload, p.cluster, framework, x.config)
        assert sum(x.time_s.values()) == pytest.approx(x.metrics["step_s"])
        assert sum(x.memory_bytes.values()) == pytest.approx(x.metrics["peak_bytes"])
        assert sum(x.stage_layers) == p.model.n_layers and len(x.stage_layers) == x.config.pp
        assert x.metrics["p_fit"] >= p.fit_confidence and x.reasons
    s = found.search
    assert s.enumerated == sum(s.removed.values()) + s.removed_by_memory + s.feasible


def test_front_goes_from_the_fastest_to_the_leanest(make_problem):
    p = make_problem(nodes=2, refine="off")
    found = plan(p)
    assert found.front[0].config == found.plans[0].config and found.front[0].rank == 1
    steps = [x.metrics["step_s"] for x in found.front]
    peaks = [x.metrics["peak_bytes"] for x in found.front]
    assert steps == sorted(steps) and peaks == sorted(peaks, reverse=True)
    assert all(x.pareto for x in found.front)
    assert [x.rank for x in found.front] == sorted(x.rank for x in found.front)
    leanest = plan(replace(p, objective="memory", top=1)).plans[0]
    assert peaks[-1] == pytest.approx(leanest.metrics["peak_bytes"], rel=0.01)
    listed = {x.config for x in found.front}
    assert all(x.pareto == (x.config in listed) for x in found.plans)


def test_memory_objective_and_cap(make_problem):
    lean = plan(make_problem(nodes=1, objective="memory")).plans
    peaks = [x.metrics["peak_bytes"] for x in lean]
    assert peaks == sorted(peaks)
    capped = plan(make_problem(nodes=1, max_memory_bytes=peaks[0] * 1.5))
    assert all(x.metrics["peak_bytes"] <= peaks[0] * 1.5 for x in capped.plans)
    assert capped.search.feasible < plan(make_problem(nodes=1)).search.feasible


def test_ties_are_symmetric_and_within_the_noise(make_problem):
    found = plan(make_problem(nodes=2, top=30)).plans
    for a in found:
        for b in found:
            if a is not b:
                low, high = sorted((a.metrics["step_s"], b.metrics["step_s"]))
                assert (b.rank in a.tied_with) == (high - low <= 0.01 * low)


def test_numerics_vary_only_when_allowed(make_problem):
    assert {x.precision for x in plan(make_problem()).plans} == {"bf16"}
    found = plan(make_problem(allow=("fp8",), top=40, refine="off"))
    assert found.plans[0].precision == "fp8"
    first = found.plans[0]
    p = make_problem(precision="fp8")
    one = estimate(p.model, p.workload, first.config, p.cluster, p.software)
    assert first.metrics["step_s"] == pytest.approx(float(one.step_s))
    assert found.search.enumerated > 1.9 * plan(make_problem()).search.enumerated
    a100 = make_problem(cluster="dgx-a100-80", allow=("fp8",))
    assert {x.precision for x in plan(a100).plans} == {"bf16"}  # the A100 has no FP8 units


def test_price_and_tokens_give_dollars_and_days(make_problem):
    p = make_problem(nodes=2, price_per_gpu_hour=2.5, tokens=1e12)
    m = plan(p).plans[0].metrics
    per_step = p.workload.global_batch * p.workload.seq_len
    assert m["days"] == pytest.approx(1e12 / per_step * m["step_s"] / 86400)
    assert m["dollars"] == pytest.approx(m["days"] * 24 * 16 * 2.5)
    assert m["dollars_per_million_tokens"] == pytest.approx(m["dollars"] / 1e6)
    assert "days" not in plan(make_problem(nodes=2)).plans[0].metrics


def test_estimate_plan_prices_one_configuration_whether_it_fits_or_not(make_problem):
    p = make_problem("llama-3.1-70b", nodes=1, global_batch=8)
    tight = estimate_plan(p, ParallelConfig(dp=8, zero_stage=0))
    assert isinstance(tight, PlanSet) and tight.search.feasible == 0 and tight.plans[0].metrics["p_fit"] < 1e-6
    roomy = estimate_plan(make_problem(), ParallelConfig(tp=8, sequence_parallel=1))
    assert roomy.search.feasible == 1 and roomy.plans[0].rank == 1
    with pytest.raises(InvalidProblemError, match=r"not divisible by tp=3"):
        estimate_plan(make_problem(gpus=3, cluster="dgx-h100"), ParallelConfig(tp=3))


def test_a_ranked_plan_is_what_estimate_plan_says_of_it(make_problem):
    p = make_problem(nodes=2)
    for x in (*plan(p).plans[:3], *plan(replace(p, refine="off")).plans[:3]):
        again = estimate_plan(p, x.config, x.stage_layout).plans[0]
        assert again.metrics == pytest.approx(dict(x.metrics))


@pytest.mark.parametrize(
    ("pins", "words"),
    [
        ({"tp": (3,)}, "heads (32) are not divisible by tp=3"),
        ({"pp": (7,)}, "does not divide the 16 GPUs"),
        ({"ep": (2,)}, "not divisible by ep=2"),
        ({"dp": (16,), "micro_batch_size": (3,)}, "Global batch"),
        ({"micro_batch_size": (3,)}, "not divisible by micro_batch_size"),
        ({"vp": (2,), "pp": (1,)}, "needs pp > 1"),
        ({"schedule": (3,)}, "runs 1F1B only"),
        ({"tp": (16,), "pp": (2,)}, "does not divide the 16 GPUs"),
    ],
)
def test_impossible_pins_give_the_rule_s_sentence(make_problem, pins, words):
    with pytest.raises(InvalidProblemError) as caught:
        plan(make_problem(nodes=2, pins=pins))
    assert words.lower() in str(caught.value).lower()
    assert caught.value.exit_code == 2


def test_a_sequence_beyond_the_position_table_is_named(make_problem):
    with pytest.raises(InvalidProblemError, match="longer than the model's learned position table"):
        plan(make_problem("gpt3-13b", seq_len=4096))


def test_pins_that_only_together_leave_nothing_are_counted_by_rule(make_problem):
    with pytest.raises(InvalidProblemError, match=r"vp=7.*\d by layers"):
        plan(make_problem("gpt3-13b", nodes=2, seq_len=2048, pins={"vp": (7,), "layer_split": (0,)}))


def test_nothing_fits_says_the_nearest_miss_and_what_helps(make_problem):
    p = make_problem("llama-3.1-405b", nodes=2, seq_len=8192, global_batch=256)
    with pytest.raises(NoFeasiblePlanError) as caught:
        plan(p)
    text = str(caught.value)
    assert caught.value.exit_code == 3
    assert "nearest miss is tp" in text and "over the limit of" in text
    assert "candidates were removed" in text and "by memory" in text
    nodes = int(text.split(" nodes instead of 2")[0].rsplit(" ", 1)[1])
    assert something_fits(replace(p, cluster=resized(p.cluster, nodes)))
    assert not something_fits(replace(p, cluster=resized(p.cluster, nodes // 2)))


def test_remedies_name_the_cap_and_the_pins(make_problem):
    with pytest.raises(NoFeasiblePlanError, match="lifting the memory cap"):
        plan(make_problem(max_memory_bytes=2e9))
    with pytest.raises(NoFeasiblePlanError, match="dropping the pins"):
        plan(make_problem(pins={"zero_stage": (0,), "tp": (1,), "pp": (1,), "cp": (1,)}))


def test_the_same_request_gives_equal_plan_sets(make_problem):
    assert plan(make_problem(nodes=2)) == plan(make_problem(nodes=2))


@pytest.mark.parametrize("nodes", [8, 2048])
def test_the_main_job_takes_less_than_a_second(make_problem, nodes):
    p = make_problem("llama-3.1-70b", nodes=nodes, seq_len=8192, global_batch=512)
    seconds = []
    for _ in range(3):
        start = time.process_time()
        plan(p)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 1.0


def test_functions_are_not_covered_by_modules_of_their_names():
    code = (
        "import meshwright.planner.plan, meshwright.planner.sizing\n"
        "from meshwright.planner import plan, sizing, compare, explain\n"
        "import meshwright.planner.explain, meshwright.planner.compare\n"
        "from meshwright.planner import explain as e, compare as c\n"
        "print([callable(f) for f in (plan, sizing, compare, explain, e, c)])"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str([True] * 6)


def test_importing_the_package_does_not_import_numpy():
    code = "import sys, meshwright.planner; print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
