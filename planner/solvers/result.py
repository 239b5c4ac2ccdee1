"""What every solver returns, and what it may be told to stop at."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, Generic, TypeVar

V = TypeVar("V")
W = TypeVar("W")


class Termination(StrEnum):
    """Why a solver stopped."""

    OPTIMAL = "optimal"
    FEASIBLE_AT_LIMIT = "feasible at limit"
    NO_SOLUTION_AT_LIMIT = "no solution at limit"
    INFEASIBLE = "infeasible"
    ERROR = "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When to stop early; a limit that is reached leaves the best value so far.

    Attributes:
        work: units of the solver's own work (moves, nodes, deterministic seconds of CP-SAT); None: to completion.
            Counting work, the same input gives the same answer.
        time_s: wall seconds; None: none. An answer that a time limit cut is not reproducible.
    """

    work: int | None = None
    time_s: float | None = None

    def __post_init__(self) -> None:
        if self.work is not None and self.work < 1:
            raise ValueError(f"a work limit of {self.work} leaves nothing to do; give at least 1")
        if self.time_s is not None and not self.time_s > 0:
            raise ValueError(f"a time limit of {self.time_s} s leaves nothing to do; give a positive number")


TO_COMPLETION = Limits()


@dataclass(frozen=True, slots=True, kw_only=True)
class SolveResult(Generic[V]):
    """An answer and how good it is proven to be; all objectives are minimised.

    Attributes:
        value: the best found, None where there is none.
        objective: its cost (infinite without a value); bound: what no feasible value can beat
            (minus infinity where nothing is proven).
        termination: why the solver stopped; ``OPTIMAL`` only where objective and bound meet.
        solver, version, seed: what ran; work: units of its own work that it did.
        seconds: wall time, never written into a plan; timed_out: a time limit cut the search.
        note: one sentence more, e.g. the solver's own message.
    """

    value: V | None
    objective: float
    bound: float
    termination: Termination
    solver: str
    version: str
    seed: int = 0
    work: int = 0
    seconds: float = 0.0
    timed_out: bool = False
    note: str = ""

    def __post_init__(self) -> None:
        if (self.value is None) != (self.objective == math.inf):
            raise ValueError("a value needs a finite objective, and an objective a value")

    @property
    def gap(self) -> float:
        """``(objective - bound) / |objective|``, 0 where proven optimal, infinite where nothing is proven."""
        if self.termination == Termination.OPTIMAL or self.objective == self.bound:
            return 0.0
        if self.value is None or self.bound == -math.inf:
            return math.inf
        return max(self.objective - self.bound, 0.0) / max(abs(self.objective), 1e-12)

    @property
    def proof(self) -> str:
        """``optimal``, ``within 0.81% of optimal``, ``no bound`` or why there is no value."""
        if self.value is None or self.termination == Termination.OPTIMAL:
            return str(self.termination)
        return "no bound" if self.gap == math.inf else f"within {100.0 * self.gap:.2g}% of optimal"

    def with_value(self, value: W | None, objective: float) -> SolveResult[W]:
        """The same answer read as another kind of value, priced as that value's own problem prices it."""
        kept = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("value", "objective", "bound")}
        return SolveResult(value=value, objective=objective, bound=min(self.bound, objective), **kept)

    def report(self) -> Mapping[str, Any]:
        """Plain data for plan.json: everything but the value and the seconds."""
        finite = {k: v for k, v in (("objective", self.objective), ("bound", self.bound)) if math.isfinite(v)}
        return {
            **finite,
            "termination": str(self.termination),
            "solver": self.solver,
            "version": self.version,
            "seed": self.seed,
            "work": self.work,
            "reproducible": not self.timed_out,
        }
