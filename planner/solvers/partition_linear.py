"""Pipeline partition as a linear model for CP-SAT, HiGHS and CBC.

``z[i, c]`` says that piece ``i`` lies on chunk ``c`` or before; ``z[i, c] - z[i, c - 1]`` that it lies on ``c``. A
piece on ``c`` in another mode than its first has a binary of its own, from which its time and its saving follow.
"""

from __future__ import annotations

from .linear_model import LinearModel, Term
from .partition import Partition, PartitionProblem


class _Names:
    """Where the variables of a problem stand: prefix binaries first, then modes, then the rest."""

    def __init__(self, problem: PartitionProblem) -> None:
        self.n, self.chunks = problem.n, problem.chunks
        self.modes: dict[tuple[int, int, int], int] = {}
        at = self.n * (self.chunks - 1)
        for i, times in enumerate(problem.time):
            for c in range(self.chunks):
                for r in range(1, len(times)):
                    self.modes[i, c, r] = at
                    at += 1
        self.largest = at

    def on(self, i: int, c: int) -> list[Term]:
        """Piece ``i`` on chunk ``c`` as terms; the last chunk's constant is ``one(c)``."""
        before = [(i * (self.chunks - 1) + c - 1, -1.0)] if c else []
        upto = [(i * (self.chunks - 1) + c, 1.0)] if c < self.chunks - 1 else []
        return [*upto, *before]

    def one(self, c: int) -> int:
        """Constant that belongs to ``on``."""
        return 1 if c == self.chunks - 1 else 0


class _Sum:
    """A linear expression: terms and a constant."""

    def __init__(self) -> None:
        self.terms: list[Term] = []
        self.constant = 0.0

    def add(self, terms: list[Term], factor: float, constant: float = 0.0) -> None:
        if factor:
            self.terms += [(v, a * factor) for v, a in terms]
            self.constant += constant * factor


def build(problem: PartitionProblem) -> LinearModel:
    """The linear model of a problem; every bound is finite and every number whole."""
    model, names = LinearModel(), _Names(problem)
    for _ in range(names.n * (names.chunks - 1) + len(names.modes)):
        model.binary()
    worst = sum(max(t) for t in problem.time) + max(problem.stage_time)
    largest = model.variable(0, worst, cost=problem.max_weight)
    _order(model, names)
    for c in range(names.chunks):
        time = _Sum()
        time.constant = problem.stage_time[c % problem.stages]
        for i, times in enumerate(problem.time):
            time.add(names.on(i, c), times[0], names.one(c))
            for r in range(1, len(times)):
                time.add([(names.modes[i, c, r], 1.0)], times[r] - times[0])
        model.add([*time.terms, (largest, -1.0)], high=-time.constant)
        for v, a in time.terms:
            model.cost[v] += problem.sum_weight * a
        model.constant += problem.sum_weight * time.constant
    for i, times in enumerate(problem.time):
        if len(times) > 1:
            for c in range(names.chunks):
                chosen = [(names.modes[i, c, r], 1.0) for r in range(1, len(times))]
                model.add([*chosen, *((v, -a) for v, a in names.on(i, c))], high=names.one(c))
    if problem.leading is not None:
        _leading(model, names, problem, problem.leading)
    for s in range(problem.stages):
        _memory(model, names, problem, s)
    _side_constraints(model, names, problem)
    return model


def _order(model: LinearModel, names: _Names) -> None:
    """A piece lies no earlier than the one before it."""
    width = names.chunks - 1
    for i in range(names.n):
        for c in range(width):
            if c + 1 < width:
                model.add([(i * width + c, 1.0), (i * width + c + 1, -1.0)], high=0)
            if i + 1 < names.n:
                model.add([((i + 1) * width + c, 1.0), (i * width + c, -1.0)], high=0)


def _leading(model: LinearModel, names: _Names, problem: PartitionProblem, leading: int) -> None:
    """A piece is in its second mode on a chunk if and only if it lies there and the one ``leading`` movable pieces
    before it does not."""
    movable = [i for i, times in enumerate(problem.time) if len(times) > 1]
    for place, i in enumerate(movable):
        for c in range(names.chunks):
            others = [(names.modes[i, c, r], 1.0) for r in range(2, len(problem.time[i]))]
            if others:
                model.add(others, high=0)
            mode, here, one = (names.modes[i, c, 1], 1.0), names.on(i, c), names.one(c)
            if not leading:
                model.add([mode], high=0)
                continue
            before = names.on(movable[place - leading], c) if place >= leading else []
            gone = one if place >= leading else 0
            # mode >= here - before, mode <= 1 - before; mode <= here holds for every choice
            model.add([mode, *((v, -a) for v, a in here), *before], low=one - gone)
            model.add([mode, *before], high=1 - gone)


def _memory(model: LinearModel, names: _Names, problem: PartitionProblem, s: int) -> None:
    mine = range(s, names.chunks, problem.stages)
    need, update = _Sum(), _Sum()
    need.constant = update.constant = problem.stage_bytes[s]
    flight, sets = problem.in_flight[s], problem.working_sets[s]
    peak = model.variable(0, max(problem.peak))
    redo = model.variable(0, max(problem.redo))
    moved = model.binary()
    need.add([(peak, 1.0), (redo, 1.0)], sets)
    for i, lives in enumerate(problem.live):
        here = _Sum()
        for c in mine:
            here.add(names.on(i, c), 1.0, names.one(c))
            for r in range(1, len(lives)):
                need.add([(names.modes[i, c, r], 1.0)], flight * (lives[r] - lives[0]))
                model.add([(names.modes[i, c, r], 1.0), (moved, -1.0)], high=0)
        need.add(here.terms, problem.fixed[i] + flight * lives[0], here.constant)
        update.add(here.terms, problem.update[i], here.constant)
        for largest, bytes_ in ((peak, problem.peak[i]), (redo, problem.redo[i])):
            if bytes_:  # redo counts where a piece has left its first mode
                gate = [(moved, float(bytes_))] if largest == redo else []
                held = [(v, a * bytes_) for v, a in here.terms]
                high = (bytes_ if gate else 0) - here.constant * bytes_
                model.add([*held, *gate, (largest, -1.0)], high=high)
    model.add(need.terms, high=problem.capacity[s] - need.constant)
    if any(problem.update):
        model.add(update.terms, high=problem.capacity[s] - update.constant)


def _side_constraints(model: LinearModel, names: _Names, problem: PartitionProblem) -> None:
    for cut in sorted(problem.no_cut()):
        for c in range(names.chunks - 1):
            model.add([(cut * (names.chunks - 1) + c, 1.0), ((cut - 1) * (names.chunks - 1) + c, -1.0)], 0, 0)

    def on_stage(i: int, s: int) -> _Sum:
        total = _Sum()
        for c in range(s, names.chunks, problem.stages):
            total.add(names.on(i, c), 1.0, names.one(c))
        return total

    for piece, stage in sorted(problem.pins.items()):
        here = on_stage(piece, stage)
        model.add(here.terms, 1 - here.constant, 1 - here.constant)
    for a, b in problem.together:
        for s in range(problem.stages):
            one, other = on_stage(a, s), on_stage(b, s)
            constant = other.constant - one.constant
            model.add([*one.terms, *((v, -x) for v, x in other.terms)], constant, constant)
    if problem.least:
        for c in range(names.chunks):
            total = _Sum()
            for i in range(names.n):
                if problem.counted[i]:
                    total.add(names.on(i, c), 1.0, names.one(c))
            model.add(total.terms, low=problem.least - total.constant)


def read(problem: PartitionProblem, values: tuple[float, ...]) -> Partition:
    """The partition of a point of the model."""
    names = _Names(problem)
    width = names.chunks - 1
    upto = [sum(round(values[i * width + c]) for i in range(names.n)) for c in range(width)]
    modes = [0] * names.n
    for (i, _, r), at in names.modes.items():
        if round(values[at]):
            modes[i] = r
    return Partition((0, *upto, names.n), tuple(modes))
