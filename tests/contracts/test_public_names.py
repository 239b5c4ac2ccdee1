"""What `from meshwright.planner import ...` promises, in whichever order modules were loaded."""

import subprocess
import sys

import pytest

NAMES = (
    "plan", "estimate_plan", "PlanningProblem", "PlanSet", "to_json", "from_json", "place", "explain", "compare",
    "sizing",
)  # fmt: skip
FIRST = ("", "import meshwright.planner.plan, meshwright.planner.explain", "import meshwright.cli.table")


@pytest.mark.parametrize("first", FIRST)
def test_names_are_callable_and_stay_so(first):
    """Some functions share their name with a module; the function must win whatever was imported before."""
    look = f"print([n for n in {NAMES} if not callable(getattr(importlib.import_module('meshwright.planner'), n))])"
    code = f"import importlib\n{first}\n{look}\nimport meshwright.planner.search, meshwright.planner.plan_json\n{look}"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.stdout == "[]\n[]\n", result.stdout + result.stderr[-500:]
