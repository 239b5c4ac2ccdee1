"""Ranking against an exhaustive loop over single configurations."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from meshwright.costmodels.parallel import CONFIG_FIELDS, Recompute
from meshwright.costmodels.rules import first_violation_sentence
from meshwright.costmodels.training import estimate
from meshwright.planner import rank
from meshwright.planner.rank import (
    Scored,
    best_rows,
    evaluate,
    fewest_recomputed_layers,
    fits,
    front_rows,
    peak_bytes,
    score,
    significant,
    ties,
)
from meshwright.planner.space import enumerate_space

FULL = int(Recompute.FULL)


def scalar(p, config):
    return estimate(p.model, p.workload, config, p.cluster, p.software)


def test_evaluate_gives_what_single_estimates_give(make_problem, monkeypatch):
    p = make_problem("mixtral-8x7b", nodes=4)
    table = enumerate_space(p).table.take(slice(0, None, 97))
    monkeypatch.setattr(rank, "CHUNK_ROWS", 300)
    whole = evaluate(p, table)
    for i in range(0, len(table), 41):
        one = scalar(p, table.row(i))
        assert whole.step_s[i] == pytest.approx(float(one.step_s), rel=1e-12)
        assert whole.peak_bytes[i] == pytest.approx(float(one.peak_bytes), rel=1e-12)
        for name, value in one.time.items():
            assert getattr(whole.time, name)[i] == pytest.approx(float(value), rel=1e-9, abs=1e-12), name
        for name, value in one.memory.items():
            assert getattr(whole.memory, name)[i] == pytest.approx(float(value), rel=1e-9), name


@pytest.mark.parametrize(("confidence", "cap"), [(0.95, 0.0), (0.5, 0.0), (0.95, 60e9)])
def test_fits_is_the_estimate_s_own_probability_and_the_cap(make_problem, confidence, cap):
    p = make_problem("llama-3.1-70b", nodes=4, fit_confidence=confidence, max_memory_bytes=cap)
    table = enumerate_space(p).table.take(slice(0, None, 31))
    e = evaluate(p, table)
    expected = (e.p_fit >= confidence) & (e.peak_bytes <= (cap or p.cluster.gpu.memory_bytes))
    assert (fits(p, peak_bytes(p, table)) == expected).all()
    assert 0 < expected.sum() < len(table)


def test_best_rows_are_those_of_a_scalar_loop(make_problem, tiny):
    p = make_problem(tiny, gpus=4, seq_len=2048, global_batch=8, excludes=({"cp": 2},))
    cap = float(np.median(peak_bytes(p, enumerate_space(p).table)))
    p = replace(p, max_memory_bytes=cap)
    pool = score(p, enumerate_space(p))
    priced = []
    for i in range(len(pool.table)):
        config = pool.table.row(i)
        e = scalar(p, config)
        if float(e.p_fit) >= 0.95 and float(e.peak_bytes) <= cap:
            key = tuple(getattr(config, f) for f in CONFIG_FIELDS)
            priced.append((float(significant(e.step_s)), float(significant(e.peak_bytes)), key))
    assert 100 < len(priced) < len(pool.table)
    for objective, order in (("throughput", (0, 1)), ("memory", (1, 0))):
        expected = sorted(priced, key=lambda row, order=order: (row[order[0]], row[order[1]], row[2]))[:25]
        found = [pool.table.row(r) for _, r in best_rows([pool], objective, 25)]
        assert [tuple(getattr(c, f) for f in CONFIG_FIELDS) for c in found] == [row[2] for row in expected]


def test_order_does_not_depend_on_the_order_of_rows(make_problem):
    p = make_problem(nodes=1)
    space = enumerate_space(p)
    first = score(p, space)
    shuffle = np.random.default_rng(0).permutation(len(space.table))
    other = score(p, replace(space, table=space.table.take(shuffle), cell=space.cell[shuffle]))
    a = [first.table.row(r) for _, r in best_rows([first], "throughput", 30)]
    assert a == [other.table.row(r) for _, r in best_rows([other], "throughput", 30)]
    assert [first.table.row(r) for _, r in front_rows([first])] == [other.table.row(r) for _, r in front_rows([other])]


def test_fewest_recomputed_layers_equals_a_scan(make_problem):
    p = make_problem("llama-3.1-70b", nodes=8, seq_len=8192, global_batch=512)
    space = enumerate_space(p)
    ok = np.asarray(fits(p, peak_bytes(p, space.table)))
    found = fewest_recomputed_layers(p, space, ok)
    assert len(found) > 50
    for i in range(0, len(found), max(len(found) // 12, 1)):
        c = found.row(i)
        assert c.recompute == FULL and c.recompute_layers % c.vp == 0
        assert not first_violation_sentence(p.model, p.workload, p.cluster, p.framework, c)
        none = replace(c, recompute=0, recompute_layers=0)
        assert not fits(p, scalar(p, none).peak_bytes)
        scan = next(n for n in range(c.vp, 1000, c.vp) if fits(p, scalar(p, replace(c, recompute_layers=n)).peak_bytes))
        assert scan == c.recompute_layers
        assert scalar(p, c).step_s <= scalar(p, replace(c, recompute_layers=0)).step_s


def test_layer_counts_are_left_alone_where_pinned_or_not_offered(make_problem):
    for changes in (
        {"pins": {"recompute": (FULL,), "recompute_layers": (0, 4)}},
        {"framework": "torchtitan"},
        {"framework": "deepspeed"},
        {"pins": {"recompute": (FULL,)}},
    ):
        p = make_problem("llama-3.1-70b", nodes=8, seq_len=8192, global_batch=512, **changes)
        space = enumerate_space(p)
        ok = np.asarray(fits(p, peak_bytes(p, space.table)))
        assert len(fewest_recomputed_layers(p, space, ok)) == 0


def test_more_recompute_is_never_faster(make_problem):
    """The closed form for recomputed layers rests on this."""
    p = make_problem("llama-3.1-70b", nodes=8, seq_len=8192, global_batch=512)
    t = enumerate_space(p).table
    base = t.take((t.recompute == FULL) & (t.pp == 4)).take(slice(0, None, 29))
    previous_step, previous_peak = None, None
    for layers in (1, 2, 5, 10, 20):
        e = evaluate(p, base.with_columns(recompute_layers=np.full(len(base), layers)))
        if previous_step is not None:
            assert (e.step_s >= previous_step * (1 - 1e-12)).all()
            assert (e.peak_bytes <= previous_peak * (1 + 1e-12)).all()
        previous_step, previous_peak = e.step_s, e.peak_bytes


def fake_pool(step, peak, ok=None):
    n = len(step)
    from meshwright.costmodels.candidates import CandidateTable

    table = CandidateTable({"tp": np.arange(1, n + 1)})
    ok = np.ones(n, dtype=bool) if ok is None else np.asarray(ok)
    step = np.where(ok, np.asarray(step, dtype=float), np.inf)
    return Scored(problem=None, table=table, peak_bytes=np.asarray(peak, dtype=float), fits=ok, step_s=step)


def test_front_is_what_no_other_point_beats():
    rng = np.random.default_rng(1)
    step, peak = rng.uniform(1, 2, 400), rng.uniform(10, 90, 400)
    ok = rng.random(400) < 0.7
    found = [r for _, r in front_rows([fake_pool(step, peak, ok)])]
    undominated = [
        i
        for i in np.flatnonzero(ok)
        if not any(step[j] <= step[i] and peak[j] <= peak[i] and j != i for j in np.flatnonzero(ok))
    ]
    undominated.sort(key=lambda i: step[i])
    assert set(found) <= set(undominated) and found[0] == undominated[0]
    for a, b in pairwise(found):
        assert step[b] >= step[a] and peak[b] <= 0.99 * peak[a]
    for i in undominated:  # what was thinned out lies within 1% of a kept point
        assert any(step[k] <= step[i] and peak[k] * 0.99 <= peak[i] for k in found)


def test_equal_scores_are_ordered_by_the_whole_key_and_last_bits_do_not_count():
    pool = fake_pool([1.0, 1.0 + 1e-13, 1.0, 0.5], [5.0, 5.0, 4.0, 9.0])
    assert [r for _, r in best_rows([pool], "throughput", 4)] == [3, 2, 0, 1]
    assert [r for _, r in best_rows([pool], "memory", 2)] == [2, 0]


def test_ties_are_differences_below_the_noise():
    assert ties(np.array([1.0, 1.009, 1.012, 2.0])) == [(2,), (1, 3), (2,), ()]


def test_significant_digits():
    assert significant(np.array([123456789.4, 0.0, np.inf, 1.23456789049e-7])).tolist() == [
        123456789.0,
        0.0,
        np.inf,
        pytest.approx(1.23456789e-7, rel=1e-15),
    ]
