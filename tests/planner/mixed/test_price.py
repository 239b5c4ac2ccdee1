"""Price of uneven pipelines: the whole cost model where pools are alike, an event simulation where they are not."""

import numpy as np
import pytest

from meshwright.costmodels.parallel import ParallelConfig
from meshwright.costmodels.training import estimate
from meshwright.hardware_profiles.load import load_cluster
from meshwright.planner.mixed.costs import price_pools
from meshwright.planner.mixed.pipelines import best_pipelines
from meshwright.planner.mixed.price import Pricer, _rising
from meshwright.planner.mixed.replicas import ReplicaSearch
from meshwright.planner.mixed.space import enumerate_choices


def pricer_of(problem):
    return Pricer(price_pools(problem))


@pytest.mark.parametrize(("tp", "dp", "vp", "model"), [(8, 1, 1, "llama-3.1-8b"), (4, 2, 1, "mixtral-8x7b"),
                                                       (2, 4, 2, "llama-3.1-8b"), (8, 1, 2, "qwen2.5-3b")])  # fmt: skip
def test_two_equal_pools_cost_what_one_cluster_costs(make_mixed, tp, dp, vp, model):
    """Two pools of a cluster joined by that cluster's own outer links, stages of equal layers."""
    whole = load_cluster("dgx-h100", nodes=4)
    pins = {"tp": (tp,), "dp": (dp,), "cp": (1,), "vp": (vp,), "ep": (1,), "micro_batch_size": (1,), "recompute": (0,)}
    problem = make_mixed(
        (("dgx-h100", 2), ("dgx-h100", 2)), model=model, rate=whole.tiers[-1].bytes_per_s, pins=pins, max_memory_bytes=0
    )
    pricer = pricer_of(problem)
    choices, _ = enumerate_choices(pricer.costs)
    i = int(np.flatnonzero((choices.stages * choices.ranks == 16).all(axis=1))[0])
    one = choices.take(np.array([i]))
    pp = int(one.pp[0])
    layers = np.full(pp, problem.model.n_layers // pp)
    parts = pricer.parts(one, pricer.stages(one), 0, layers)
    # links between pools are taken as fully exposed, those of one cluster by the release's coefficient: leave both out
    config = ParallelConfig(tp=tp, dp=dp, pp=pp, vp=vp, sequence_parallel=int(tp > 1), zero_stage=1)
    time = estimate(problem.model, problem.workload, config, whole, problem.software[0]).time
    kernels = time.forward_s + time.backward_s + time.recompute_s + time.host_s + time.tp_s + time.cp_s + time.ep_s
    assert parts["stage_s"] + parts["bubble_s"] == pytest.approx(float(kernels + time.bubble_s), rel=1e-9)
    assert parts["optimizer_s"] == pytest.approx(float(time.optimizer_s), rel=2e-3)
    assert parts["step_overhead_s"] == pytest.approx(float(time.step_overhead_s))
    if vp == 1:
        assert parts["transfer_s"] == pytest.approx(float(time.pp_s), rel=1e-3, abs=2e-4 * float(time.total))
        assert sum(parts.values()) == pytest.approx(float(time.total), rel=1e-3)


def one_f_one_b(forward, backward, hops, m):
    """Makespan of 1F1B where a transfer over border s takes ``hops[s]`` and holds up its sender until it is done."""
    pp, done, clock = len(forward), {}, [0.0] * len(forward)
    orders = []
    for s in range(pp):
        warm = min(pp - s - 1, m)
        steps = [("F", i) for i in range(warm)]
        for i in range(m - warm):
            steps += [("F", warm + i), ("B", i)]
        orders.append(steps + [("B", i) for i in range(m - warm, m)])
    at = [0] * pp
    while any(a < len(o) for a, o in zip(at, orders, strict=True)):
        for s in range(pp):
            while at[s] < len(orders[s]):
                kind, i = orders[s][at[s]]
                need = (kind, i, s - 1) if kind == "F" else (kind, i, s + 1)
                if 0 <= need[2] < pp and need not in done:
                    break
                begin = max(clock[s], done.get(need, 0.0))
                end = begin + (forward[s] if kind == "F" else backward[s])
                over = s if kind == "F" else s - 1
                end += hops[over] if 0 <= over < pp - 1 else 0.0
                done[(kind, i, s)] = clock[s] = end
                at[s] += 1
    return max(clock)


@pytest.mark.parametrize("seed", range(6))
def test_the_formula_against_a_simulated_pipeline(seed):
    """``(m - 1) max c + sum c`` with ``c = t + 2 hop``: never below, at most 13% above (a hop of 10%)."""
    draw = np.random.default_rng(seed)
    pp, m = int(draw.integers(2, 7)), int(draw.integers(16, 48))
    t = draw.uniform(0.8, 1.2, pp)
    hops = draw.uniform(0.0, 0.02, pp - 1)
    hops[int(draw.integers(0, pp - 1))] = 0.1  # a slow link between pools
    worst = np.maximum(np.append(hops, 0.0), np.insert(hops, 0, 0.0))
    c = t + 2.0 * worst
    formula = (m - 1) * c.max() + c.sum()
    simulated = one_f_one_b(t / 3, t * 2 / 3, hops, m)
    assert simulated <= formula <= 1.13 * simulated


def test_bounds_hold_for_every_choice(make_mixed):
    """No exact split beats the quick bound or the bound."""
    problem = make_mixed(layers=8, pins={"cp": (1,), "micro_batch_size": (1, 2)}, global_batch=16)
    pricer = pricer_of(problem)
    choices, _ = enumerate_choices(pricer.costs)
    stages = pricer.stages(choices)
    quick, bound = pricer.quick_bound(choices), pricer.bound(choices, stages)
    from meshwright.planner.solvers.mixed_stages import ThresholdSplit

    seen = 0
    for i in range(0, len(choices), 3):
        found = ThresholdSplit().solve(pricer.split(choices, stages, i))
        if found.value is None:
            assert np.isinf(bound[i])
            continue
        seen += 1
        layers = np.array(found.value) * int(choices.vp[i])
        step = sum(pricer.parts(choices, stages, i, layers).values())
        assert quick[i] <= bound[i] * (1 + 1e-9)
        assert bound[i] <= step * (1 + 1e-7)
        peaks = pricer.peaks(stages, _padded(stages, i, layers))[i, : len(layers)]
        assert (peaks <= pricer.limit[stages.pool[i, : len(layers)]]).all()
    assert seen > 50


def _padded(stages, i, layers):
    held = np.zeros(stages.pool.shape, dtype=np.int64)
    held[i, : len(layers)] = layers
    return held


def test_pruning_loses_nothing(make_mixed):
    """The search that stops at its bounds finds what solving every choice finds."""
    from meshwright.planner.solvers.mixed_stages import ThresholdSplit

    problem = make_mixed(layers=8, pins={"cp": (1,), "micro_batch_size": (1,)}, global_batch=16)
    pricer = pricer_of(problem)
    choices, _ = enumerate_choices(pricer.costs)
    stages, every = pricer.stages(choices), []
    for i in range(len(choices)):
        found = ThresholdSplit().solve(pricer.split(choices, stages, i))
        if found.value is not None:
            layers = np.array(found.value) * int(choices.vp[i])
            every.append(sum(pricer.parts(choices, stages, i, layers).values()))
    found = best_pipelines(pricer, choices, 5)
    assert [b.step_s for b in found.best] == pytest.approx(sorted(every)[:5], rel=1e-9)
    assert found.exact and found.solved < len(every)


def test_a_slower_link_costs_more(make_mixed):
    steps = []
    for rate in (50e9, 5e9, 0.5e9):
        pricer = pricer_of(make_mixed(rate=rate, pins={"cp": (1,)}))
        steps.append(best_pipelines(pricer, enumerate_choices(pricer.costs)[0], 1).best[0].step_s)
    assert steps == sorted(steps) and steps[0] < steps[-1]
    shared = pricer_of(make_mixed(rate=50e9, total=1e9, pins={"cp": (1,)}))
    assert best_pipelines(shared, enumerate_choices(shared.costs)[0], 1).best[0].step_s > steps[0]


def test_replicas_share_the_batch_by_speed(make_mixed):
    """Pools of unlike speed get unlike numbers of micro-batches, which make up the batch."""
    problem = make_mixed((("dgx-h100", 1), ("dgx-a100-80", 1)), framework="any", global_batch=128, pins={"cp": (1,)})
    search = ReplicaSearch(price_pools(problem))
    best = search.best(1)[0]
    fast, slow = best.shares
    rows = search.costs.rows.micro_batch_size
    served = [int(s.choices.dp[s.i]) * s.micro_batches * int(rows[s.choices.row[s.i, 0]]) for s in best.shares]
    assert sum(served) == 128 and served[0] > served[1]
    assert (fast.pool, slow.pool) == (0, 1)
    assert best.parts["between_pools_s"] > 0
    assert best.step_s == pytest.approx(sum(best.parts.values()))


def test_replicas_of_one_framework_are_alike(make_mixed):
    """Megatron-LM gives every replica the same layout and number of micro-batches."""
    problem = make_mixed((("dgx-h100", 1), ("dgx-a100-80", 1)), global_batch=128)
    search = ReplicaSearch(price_pools(problem))
    for plan in search.best(5):
        assert len({s.layers for s in plan.shares}) == len({s.micro_batches for s in plan.shares}) == 1


def test_rounding_keeps_convex_costs_convex():
    line = 0.01234567891 + 0.00456789123 * np.arange(40)[None, :]
    whole = _rising(line)
    assert (np.diff(whole, n=2, axis=1) >= 0).all()
    assert np.abs(whole / 1e9 - line).max() < 40e-9


def test_a_large_space_is_narrowed_and_says_so(make_mixed, monkeypatch):
    from meshwright.planner.mixed import space

    assert space._thinned([1, 2, 3, 4, 5, 6, 7, 8], 0) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert space._thinned([1, 2, 3, 4, 5, 6, 7, 8], 3) == [2, 5, 8] and space._thinned([3, 9], 6) == [3, 9]
    costs = price_pools(make_mixed(pins={"cp": (1,)}))
    whole, said = enumerate_choices(costs)
    assert said == ""
    monkeypatch.setattr(space, "MAX_ROWS", 50)
    few, said = enumerate_choices(costs)
    assert said == "a pool gives all of its GPUs or none" and 0 < len(few) < len(whole)
    used = few.order >= 0
    assert ((few.stages * few.ranks)[used] == np.array([8, 16])[few.order[used]]).all()
