"""A mixed-integer linear model as plain data: what CP-SAT, HiGHS and CBC are given alike."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

Term = tuple[int, float]


@dataclass(slots=True)
class LinearModel:
    """Minimise ``sum cost * x + constant`` subject to ``low <= sum a * x <= high`` row by row.

    CP-SAT takes integers only: a model for all three has integer variables with finite bounds and whole coefficients.

    Attributes:
        lower, upper, integer, cost: one entry per variable; rows: terms, low and high of each constraint.
        hint: a feasible point to start from, where one is known; constant: added to the objective.
    """

    lower: list[float] = field(default_factory=list)
    upper: list[float] = field(default_factory=list)
    integer: list[bool] = field(default_factory=list)
    cost: list[float] = field(default_factory=list)
    rows: list[tuple[tuple[Term, ...], float, float]] = field(default_factory=list)
    hint: dict[int, float] = field(default_factory=dict)
    constant: float = 0.0

    def variable(self, lower: float, upper: float, *, integer: bool = True, cost: float = 0.0) -> int:
        """Add a variable and return its number."""
        if lower > upper:
            raise ValueError(f"a variable cannot lie between {lower} and {upper}")
        self.lower.append(lower)
        self.upper.append(upper)
        self.integer.append(integer)
        self.cost.append(cost)
        return len(self.cost) - 1

    def binary(self, cost: float = 0.0) -> int:
        """Add a variable of 0 or 1."""
        return self.variable(0, 1, cost=cost)

    def add(self, terms: Iterable[Term], low: float = -math.inf, high: float = math.inf) -> None:
        """Add a row; terms of one variable add up."""
        summed: dict[int, float] = {}
        for variable, coefficient in terms:
            summed[variable] = summed.get(variable, 0.0) + coefficient
        kept = tuple((v, a) for v, a in summed.items() if a != 0)
        self.rows.append((kept, low, high))

    def objective(self, values: Iterable[float]) -> float:
        """Cost of a point."""
        return self.constant + sum(c * x for c, x in zip(self.cost, values, strict=True))

    def violation(self, values: Iterable[float]) -> float:
        """Largest amount by which a point breaks a bound, a row or integrality."""
        x = list(values)
        worst = 0.0
        for value, low, high, whole in zip(x, self.lower, self.upper, self.integer, strict=True):
            worst = max(worst, low - value, value - high, abs(value - round(value)) if whole else 0.0)
        for terms, low, high in self.rows:
            total = sum(a * x[v] for v, a in terms)
            worst = max(worst, low - total, total - high)
        return worst
