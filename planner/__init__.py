"""Decisions: what to run, and why.

``from meshwright.planner import plan, PlanningProblem``. Names are loaded on first use, so that importing the package
costs nothing. ``plan``, ``place``, ``explain``, ``compare`` and ``sizing`` are functions here, although modules of the
same names exist; reach into those with ``from meshwright.planner.plan import ...``.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .compare import Comparison, compare
    from .explain import Explanation, WhyNot, explain, why_not
    from .place import PlacedPlan, place
    from .plan import Plan, PlanSet, SearchReport
    from .plan_json import from_json, to_json
    from .problem import PlanningProblem
    from .search import estimate_plan, plan
    from .sizing import Sizing, SizingPoint, sizing

_WHERE = {
    "Comparison": "compare",
    "compare": "compare",
    "Explanation": "explain",
    "WhyNot": "explain",
    "explain": "explain",
    "why_not": "explain",
    "PlacedPlan": "place",
    "place": "place",
    "Plan": "plan",
    "PlanSet": "plan",
    "SearchReport": "plan",
    "from_json": "plan_json",
    "to_json": "plan_json",
    "PlanningProblem": "problem",
    "estimate_plan": "search",
    "plan": "search",
    "Sizing": "sizing",
    "SizingPoint": "sizing",
    "sizing": "sizing",
}

__all__ = [
    "Comparison", "Explanation", "PlacedPlan", "Plan", "PlanSet", "PlanningProblem", "SearchReport", "Sizing",
    "SizingPoint", "WhyNot", "compare", "estimate_plan", "explain", "from_json", "place", "plan", "sizing", "to_json",
    "why_not",
]  # fmt: skip


class _Package(ModuleType):
    """Keeps the import system from covering an exported function by the module of the same name."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _WHERE and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    """Load an exported name from its module (PEP 562)."""
    if name in _WHERE:
        return getattr(import_module(f".{_WHERE[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
