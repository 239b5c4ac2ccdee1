"""Imports go one way, and the package can be imported without the optional ones."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: Programs that are copied into a launch and run there, never imported here.
WRITTEN_OUT = ("meshwright.planner.emitters.pytorch_train",)
HEAVY = ("pandas", "scipy", "ortools", "pulp", "matplotlib", "torch", "jsonschema")


def test_import_linter_contracts_are_kept():
    lint = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports())"
    result = subprocess.run([sys.executable, "-c", lint], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]


def test_no_module_imports_an_optional_package_at_its_top():
    code = f"""
import importlib, pkgutil, sys
import meshwright
for found in pkgutil.walk_packages(meshwright.__path__, "meshwright."):
    if found.name not in {WRITTEN_OUT!r}:
        importlib.import_module(found.name)
print(sorted(set({HEAVY!r}) & set(sys.modules)))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-1000:]
    assert result.stdout.strip() == "[]"


def test_help_imports_neither_numpy_nor_yaml_nor_rich():
    code = """
import sys
from meshwright.cli.main import run
sys.stdout = sys.stderr
code = run(["--help"])
sys.stdout = sys.__stdout__
print(code, sorted({"numpy", "yaml", "rich", "pandas"} & set(sys.modules)))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-1000:]
    assert result.stdout.strip() == "0 []"
