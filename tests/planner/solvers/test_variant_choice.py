import itertools
import math

from hypothesis import given, settings
from hypothesis import strategies as st

from meshwright.planner.solvers.variant_choice import relax, solve

OPTIONS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=4)


def best_of_all(layers, room):
    fits = (c for c in itertools.product(*layers) if sum(m for _, m in c) <= room)
    return min((sum(cost for cost, _ in c) for c in fits), default=math.inf)


@settings(max_examples=400, deadline=None)
@given(layers=st.lists(OPTIONS, min_size=1, max_size=5), room=st.integers(0, 90))
def test_exact_choice_and_its_bounds(layers, room):
    best = best_of_all(layers, room)
    known = relax(layers, room).choice
    assert known.bound <= best + 1e-9 and known.cost >= best
    found = solve(layers, room)
    assert found.cost == best and found.settled
    if found.picked is not None:
        assert sum(options[i][1] for options, i in zip(layers, found.picked, strict=True)) <= room
        assert sum(options[i][0] for options, i in zip(layers, found.picked, strict=True)) == best


def test_many_alike_layers_stay_cheap():
    layers = [[(10 + i * 1e-3, 100.0), (13.0, 7.0)] for i in range(60)]
    found = solve(layers, 3000.0)
    assert found.picked is not None and sum(found.picked) == 33  # 27 * 100 + 33 * 7 = 2931, 28 would need 3024
