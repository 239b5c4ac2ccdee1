"""The one interface of all solvers, and where a kind of problem finds its own.

A kernel of ours stands in a file of its own beside this one; generic solvers stand in ``backends/`` and take any
problem that can be written as a ``LinearModel``. Both answer to ``Solver``, so that one contract suite holds for all
and a user may choose.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from ...hardware_profiles.errors import InvalidProblemError, did_you_mean
from .linear_model import LinearModel
from .result import TO_COMPLETION, Limits, SolveResult

P = TypeVar("P")
P_contra = TypeVar("P_contra", contravariant=True)
V = TypeVar("V")


class Solver(Protocol[P_contra, V]):
    """Solves one kind of problem.

    Attributes:
        name: what a user writes; exact: given enough work it proves its answer optimal.
    """

    @property
    def name(self) -> str:
        """Key in a registry."""

    @property
    def exact(self) -> bool:
        """Whether it ends with a proof when nothing limits it."""

    def solve(self, problem: P_contra, limits: Limits = TO_COMPLETION, seed: int = 0) -> SolveResult[V]:
        """Return the best value found; an interrupt or a limit returns the best so far.

        Raises:
            MissingDependencyError: the package behind the solver is absent.
        """


LinearBackend = Callable[[LinearModel, Limits, int], SolveResult[tuple[float, ...]]]


@dataclass(frozen=True, slots=True)
class LinearSolver(Generic[P, V]):
    """A generic backend on problems that can be written as a linear model.

    Attributes:
        build: the model of a problem; read: the problem's value from the variables' values;
        cost: objective of a value as the problem itself counts it (the backend's own may be off by its tolerance).
    """

    name: str
    backend: LinearBackend
    build: Callable[[P], LinearModel]
    read: Callable[[P, tuple[float, ...]], V]
    cost: Callable[[P, V], float]
    exact: bool = True

    def solve(self, problem: P, limits: Limits = TO_COMPLETION, seed: int = 0) -> SolveResult[V]:
        """Build, hand over, read back."""
        found = self.backend(self.build(problem), limits, seed)
        value = None if found.value is None else self.read(problem, found.value)
        objective = math.inf if value is None else self.cost(problem, value)
        return found.with_value(value, objective)


def backends() -> Mapping[str, LinearBackend]:
    """Generic backends by name; their packages are imported when they are called."""
    from .backends import cpsat, highs, pulp_cbc

    return {"cpsat": cpsat.solve, "highs": highs.solve, "cbc": pulp_cbc.solve}


def choose(solvers: Mapping[str, Solver[Any, Any]], name: str) -> Solver[Any, Any]:
    """The solver that a user named.

    Raises:
        InvalidProblemError: no such solver for this kind of problem.
    """
    try:
        return solvers[name]
    except KeyError:
        raise InvalidProblemError(
            f"There is no solver {name!r} here; choose one of {', '.join(solvers)}.{did_you_mean(name, solvers)}"
        ) from None
