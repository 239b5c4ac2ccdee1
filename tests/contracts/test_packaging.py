"""What the wheel carries: every file of data that the package reads lies under a pattern of package-data."""

import fnmatch
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("cli", "costmodels", "hardware_profiles", "planner")


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_every_data_file_is_packaged():
    patterns = project()["tool"]["setuptools"]["package-data"]["*"]
    left_out = [
        str(path.relative_to(ROOT))
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*")
        if path.is_file()
        and path.suffix not in (".py", ".pyc")
        and not any(fnmatch.fnmatch(path.name, p) for p in patterns)
    ]
    assert not left_out


def test_the_command_is_declared():
    assert project()["project"]["scripts"] == {"meshwright": "meshwright.cli.main:main"}


def test_the_licence_is_whole():
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text and "APPENDIX: How to apply the Apache License" in text
    assert project()["project"]["license"] == "Apache-2.0"


def test_every_dependency_has_a_reason():
    """CONTRIBUTING.md says of each dependency why it is there."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").lower()
    meta = project()["project"]
    listed = [*meta["dependencies"], *(d for group in meta["optional-dependencies"].values() for d in group)]
    names = {d.split("[")[0].split(">")[0].split("<")[0].split("=")[0].strip().lower() for d in listed}
    assert not {n for n in names if n not in text}
