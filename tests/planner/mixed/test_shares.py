"""Shares of the batch against brute force."""

from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st

from meshwright.planner.mixed.shares import PoolPipeline, best_shares, deal, undominated


@st.composite
def pipelines(draw, pool):
    pp, vp = draw(st.sampled_from([(1, 1), (2, 1), (4, 2)]))
    slowest = draw(st.floats(0.1, 4.0))
    return PoolPipeline(
        pool=pool, i=draw(st.integers(0, 99)), layers=(8,) * pp, slowest=slowest,
        total=slowest + draw(st.floats(0.0, 6.0)), quantum=draw(st.sampled_from([1, 2, 3, 4, 8])), vp=vp, pp=pp,
    )  # fmt: skip


def brute_force(batch, chosen):
    """Every way to make up the batch."""
    best = None
    for counts in product(*(range(1, batch // s.quantum + 1) for s in chosen)):
        fits = sum(m * s.quantum for m, s in zip(counts, chosen, strict=True)) == batch
        if fits and all(s.vp == 1 or m % s.pp == 0 for m, s in zip(counts, chosen, strict=True)):
            step = max(s.seconds(m) for m, s in zip(counts, chosen, strict=True))
            best = step if best is None or step < best else best
    return best


@settings(max_examples=150, deadline=None)
@given(batch=st.integers(1, 24), a=pipelines(0), b=pipelines(1), c=pipelines(2), three=st.booleans())
def test_dealing_is_exact(batch, a, b, c, three):
    chosen = (a, b, c) if three else (a, b)
    shared, best = deal(batch, chosen), brute_force(batch, chosen)
    assert (shared is None) == (best is None)
    if shared is not None:
        assert sum(m * s.quantum for m, s in zip(shared, chosen, strict=True)) == batch
        assert max(s.seconds(m) for m, s in zip(shared, chosen, strict=True)) == best


@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(2, 16), a=st.lists(pipelines(0), min_size=1, max_size=5),
    b=st.lists(pipelines(1), min_size=1, max_size=5),
)  # fmt: skip
def test_the_best_combination_is_found_and_domination_loses_nothing(batch, a, b):
    values = [v for pair in product(a, b) if (v := brute_force(batch, pair)) is not None]
    found = best_shares(batch, [undominated(a), undominated(b)], 1)
    assert bool(found) == bool(values)
    if found:
        chosen, shared = found[0]
        assert max(s.seconds(m) for m, s in zip(shared, chosen, strict=True)) == min(values)


def test_many_micro_batches_end_together():
    fast = PoolPipeline(pool=0, i=0, layers=(32,), slowest=1.0, total=1.0, quantum=8, vp=1, pp=1)
    slow = PoolPipeline(pool=1, i=0, layers=(32,), slowest=3.0, total=3.0, quantum=8, vp=1, pp=1)
    shared = deal(8 * 40_000, (fast, slow))
    assert shared == (30_000, 10_000)
