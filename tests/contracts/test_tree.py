"""What the checkout must look like: links that resolve, no path of one machine, files of one noun."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("cli", "costmodels", "hardware_profiles", "planner")
TEXT = {".py", ".md", ".toml", ".yaml", ".yml", ".json", ".sh", ".ipynb", ".txt", ".cfg", ""}
# Written in two pieces so that this file does not find itself.
MACHINE_PATHS = re.compile(r"/wo" r"rk/|/ro" r"ot/|/tmp/ve" r"nv|\.pye" r"nv/|/home/[a-z]+/")
MAX_LINES = 400


def tracked_files() -> list[Path]:
    """Files that git knows or would take up."""
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\0")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this tree is not a git checkout")
    return [ROOT / n for n in names if n and (ROOT / n).is_file() and not (ROOT / n).is_symlink()]


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_package_links_to_the_folders_of_the_root(folder):
    link = ROOT / "src" / "meshwright" / folder
    assert (link / "__init__.py").is_file(), f"{link} leads nowhere; see the note on Windows in CONTRIBUTING.md"
    assert link.resolve() == ROOT / folder
    assert link.is_symlink() and not link.readlink().is_absolute()


def test_the_package_holds_nothing_but_links():
    names = {p.name for p in (ROOT / "src" / "meshwright").iterdir()} - {"__pycache__"}
    assert names == {*FOLDERS, "__init__.py"}


@pytest.mark.parametrize("folder", FOLDERS)
def test_types_are_published(folder):
    assert (ROOT / folder / "py.typed").is_file()


def test_no_file_names_a_path_of_one_machine():
    found = []
    for path in tracked_files():
        if path.suffix in TEXT:
            text = path.read_text(encoding="utf-8", errors="replace")
            found += [f"{path.relative_to(ROOT)}: {m.group()}" for m in MACHINE_PATHS.finditer(text)]
    assert not found


def test_source_files_stay_short():
    long = [
        f"{path.relative_to(ROOT)}: {count} lines"
        for path in tracked_files()
        if path.suffix == ".py" and (count := len(path.read_text(encoding="utf-8").splitlines())) >= MAX_LINES
    ]
    assert not long


def test_commands_stay_thin():
    from meshwright.cli.main import COMMANDS

    for name in COMMANDS:
        assert len((ROOT / "cli" / f"{name}.py").read_text(encoding="utf-8").splitlines()) < 200, name


def test_examples_and_the_ci_script_run_under_strict_bash():
    scripts = [ROOT / ".ci" / "run", *sorted((ROOT / "examples").glob("*.sh"))]
    assert len(scripts) > 1
    for script in scripts:
        assert "set -euo pipefail" in script.read_text(encoding="utf-8"), script
        subprocess.run(["bash", "-n", str(script)], check=True)
