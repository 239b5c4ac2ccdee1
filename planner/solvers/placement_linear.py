"""Placement as a mixed-integer linear model, for CP-SAT, HiGHS and CBC: the oracles of the kernel.

The product of two assignments is linearised as a flow (Adams and Johnson 1994; Frieze and Yadegar 1983): ``y[e, i, j]``
is 1 where edge e runs from node i to node j, with ``sum_j y[e, i, j] = x[u, i]`` and ``sum_i y[e, i, j] = x[v, j]``.
Its size is edges times nodes squared: for some ten nodes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from .base import LinearBackend
from .linear_model import LinearModel, Term
from .placement import Placement, PlacementProblem
from .result import TO_COMPLETION, Limits, SolveResult, Termination

#: Units of the model in the slowest edge; costs are rounded down to whole units, so that a bound stays one.
UNITS = 1_000_000


def linear_model(problem: PlacementProblem) -> tuple[LinearModel, float]:
    """The model and the seconds that one of its units stands for; slot s on node i is variable ``s * m + i``."""
    n, m = problem.n_slots, problem.n_nodes
    model = LinearModel()
    for _ in range(n * m):
        model.binary()
    for s in range(n):
        model.add([(s * m + i, 1.0) for i in range(m)], 1, 1)
    for i in range(m):
        model.add([(s * m + i, 1.0) for s in range(n)], 1 if n == m else 0, 1)
    slowest = float(problem.cost.max() * problem.n_bytes.max()) if len(problem.edges) else 0.0
    unit = slowest / UNITS if slowest > 0 else 1.0
    critical = problem.objective == "critical"
    spent: list[list[Term]] = [[] for _ in problem.row_starts]
    for e, (u, v) in enumerate(problem.edges.tolist()):
        whole = np.floor(problem.cost * problem.n_bytes[e] / unit)
        y = np.full((m, m), -1)
        for i in range(m):
            for j in range(m):
                if i != j:
                    y[i, j] = model.binary(cost=0.0 if critical else float(whole[i, j]))
                    if critical:
                        spent[problem.row_of_edge[e]].append((int(y[i, j]), float(whole[i, j])))
        for i in range(m):
            model.add([*((int(y[i, j]), 1.0) for j in range(m) if j != i), (u * m + i, -1.0)], 0, 0)
            model.add([*((int(y[j, i]), 1.0) for j in range(m) if j != i), (v * m + i, -1.0)], 0, 0)
    if critical:
        most = float(len(problem.edges) * (UNITS + 1))
        term = [model.variable(0, most, cost=1.0) for _ in problem.terms]
        for row, terms in enumerate(spent):
            model.add([(term[problem.term_of_row[row]], 1.0), *((v, -a) for v, a in terms)], low=0)
    return model, unit


def read_placement(problem: PlacementProblem, values: tuple[float, ...]) -> Placement:
    """The node of each slot from the variables of ``linear_model``."""
    x = np.array(values[: problem.n_slots * problem.n_nodes]).reshape(problem.n_slots, problem.n_nodes)
    return tuple(int(i) for i in x.argmax(axis=1))


@dataclass(frozen=True, slots=True)
class LinearPlacement:
    """A generic backend on placement; what it proves is proven to the rounding of costs (1e-6 of the slowest edge)."""

    name: str
    backend: LinearBackend
    exact: bool = True

    def solve(self, problem: PlacementProblem, limits: Limits = TO_COMPLETION, seed: int = 0) -> SolveResult[Placement]:
        """Build, hand over, read back in seconds."""
        model, unit = linear_model(problem)
        found = self.backend(model, limits, seed)
        value = None if found.value is None else read_placement(problem, found.value)
        objective = math.inf if value is None else problem.seconds(value)
        bound = objective if found.termination == Termination.OPTIMAL else found.bound * unit
        return replace(found.with_value(value, objective), bound=min(bound, objective))
