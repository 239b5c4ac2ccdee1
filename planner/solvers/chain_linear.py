"""The chain of stages as a mixed-integer model, layer by layer: the cross-check of the own kernel on small graphs.

It shares nothing with that kernel, no downward-closed sets and no knapsack. Each stage position picks one
configuration (t, d, y), each layer one position, configuration and variant; a crossing edge is paid where its other
end stands in another position; ``s <= d y`` ties the micro-batches in flight to the replicas behind. Loads are real
numbers, so CP-SAT, which takes whole ones, is left out. The model has (layers^2 x configurations x variants) binaries:
for graphs of up to about six layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ...costmodels.layer_profile import LayerRun
from .base import LinearSolver, Solver, backends
from .chain_partition import ChainSolver
from .chain_problem import Chain, ChainProblem, ChainStage, largest_load
from .linear_model import LinearModel, Term


@dataclass(frozen=True, slots=True)
class _Shape:
    tp: int
    dp: int
    in_flight: int


@dataclass(slots=True)
class _Variables:
    model: LinearModel
    shapes: list[_Shape]
    stage: dict[tuple[int, int], int]
    layer: dict[tuple[int, int, int, int], int]

    def at(self, layer: int, position: int) -> list[int]:
        """Variables that put a layer at a position."""
        return [v for (n, k, _, _), v in self.layer.items() if (n, k) == (layer, position)]


def _shapes(problem: ChainProblem) -> list[_Shape]:
    most = min(problem.devices, problem.micro_batches)
    return [
        _Shape(t, d, y)
        for t in problem.tp_degrees
        for d in problem.dp_degrees
        if t * d <= problem.devices
        for y in range(1, -(-most // d) + 1)
    ]


def _variables(problem: ChainProblem) -> _Variables:
    model, shapes = LinearModel(), _shapes(problem)
    count = len(problem.profile.layers)
    stage = {(k, c): model.binary() for k in range(count) for c in range(len(shapes))}
    layer = {
        (n, k, c, v): model.binary()
        for n in range(count)
        for k in range(count)
        for c, shape in enumerate(shapes)
        for v in range(len(problem.runs[shape.tp][n]))
    }
    return _Variables(model, shapes, stage, layer)


def build(problem: ChainProblem) -> LinearModel:
    """Write a problem as a linear model whose objective is the largest load in seconds."""
    found = _variables(problem)
    model, count = found.model, len(problem.profile.layers)
    positions, shapes = range(count), list(enumerate(found.shapes))
    for n in range(count):
        model.add(((v, 1) for (m, *_), v in found.layer.items() if m == n), low=1, high=1)
        for k in positions:
            for c, _ in shapes:
                held = [(v, 1.0) for (m, j, e, _), v in found.layer.items() if (m, j, e) == (n, k, c)]
                model.add([*held, (found.stage[k, c], -1)], high=0)
    for k in positions:
        model.add(((found.stage[k, c], 1) for c, _ in shapes), high=1)
        if k:
            used = [(found.stage[k, c], 1.0) for c, _ in shapes]
            model.add(used + [(found.stage[k - 1, c], -1.0) for c, _ in shapes], high=0)
    for edge in problem.edges:
        for k in positions[:-1]:
            early = [(v, 1.0) for j in range(k + 1) for v in found.at(edge.source, j)]
            model.add(early + [(v, -1.0) for j in range(k + 1) for v in found.at(edge.target, j)], low=0)
    model.add(((found.stage[k, c], s.tp * s.dp) for k in positions for c, s in shapes), high=problem.devices)
    most = min(problem.devices, problem.micro_batches)
    model.add(((found.stage[k, c], s.dp) for k in positions for c, s in shapes), high=problem.micro_batches)
    for k in positions:
        behind = [(found.stage[j, c], float(s.dp)) for j in range(k, count) for c, s in shapes]
        for c, s in shapes:
            if s.dp * s.in_flight < most:
                model.add([*behind, (found.stage[k, c], float(most))], high=s.dp * s.in_flight + most)
    _loads_and_memory(problem, found)
    return model


def _loads_and_memory(problem: ChainProblem, found: _Variables) -> None:
    model = found.model
    ceiling = 1e3 * sum(run.time_s for layer in problem.profile.layers for run in layer.runs) + 1e3
    worst = model.variable(0, ceiling, integer=False, cost=1)
    for k in range(len(problem.profile.layers)):
        load: list[Term] = [(worst, -1.0)]
        memory: list[Term] = []
        for n, c, v, shape, run in _choices(problem, found, k):
            variable = found.layer[n, k, c, v]
            reduction = 4 * (shape.dp - 1) * run.parameter_bytes / (shape.dp * problem.micro_batches)
            load.append((variable, run.time_s / shape.dp + reduction / problem.bandwidth_bytes_per_s))
            memory.append((variable, run.peak_bytes(shape.in_flight)))
            for edge in problem.edges:
                if n not in (edge.source, edge.target):
                    continue
                other = edge.source if n == edge.target else edge.target
                sync = (run.sync_in_bytes if n == edge.target else run.sync_out_bytes).get(other, 0.0)
                crossing = model.variable(0, 1, integer=False)
                model.add([(crossing, 1), (variable, -1), *((o, 1) for o in found.at(other, k))], low=0)
                cost = 2 * (edge.volume_bytes + sync) / shape.dp / problem.bandwidth_bytes_per_s
                load.append((crossing, cost))
        model.add(load, high=0)
        model.add(memory, high=problem.memory_bytes)


def _choices(
    problem: ChainProblem, found: _Variables, position: int
) -> Iterator[tuple[int, int, int, _Shape, LayerRun]]:
    for n, k, c, v in list(found.layer):
        if k == position:
            shape = found.shapes[c]
            yield n, c, v, shape, problem.runs[shape.tp][n][v]


def read(problem: ChainProblem, values: tuple[float, ...]) -> Chain:
    """Return the chain that a solution of ``build`` stands for."""
    found = _variables(problem)
    placed: dict[int, dict[int, tuple[int, int]]] = {}
    for (n, k, c, v), variable in found.layer.items():
        if values[variable] > 0.5:
            placed.setdefault(k, {})[n] = (c, v)
    chain = []
    for _, members in sorted(placed.items()):
        layers = tuple(sorted(members))
        shape = found.shapes[members[layers[0]][0]]
        chain.append(ChainStage(layers, shape.tp, shape.dp, tuple(members[n][1] for n in layers)))
    return tuple(chain)


def solvers() -> Mapping[str, Solver[ChainProblem, Chain]]:
    """Solvers of this kind of problem by name: the own kernel, and two generic ones for small graphs."""
    generic = {
        name: LinearSolver(name, backend, build, read, largest_load)
        for name, backend in backends().items()
        if name != "cpsat"
    }
    return {ChainSolver.name: ChainSolver(), **generic}
