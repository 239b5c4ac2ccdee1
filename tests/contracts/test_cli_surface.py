"""Commands, arguments, options and their defaults are frozen in ``tests/golden/cli_surface.txt``.

A change of the surface is a change for users: run with MESHWRIGHT_UPDATE_GOLDEN=1 and say it in CHANGELOG.md.
"""

import os
from pathlib import Path
from typing import Any

import pytest

from meshwright.cli.main import COMMANDS, load_command, run

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "cli_surface.txt"


def describe(parameter: Any) -> str:
    """One line of an argument or option, independent of the wording of its help."""
    names = "/".join([*parameter.opts, *parameter.secondary_opts])
    default = parameter.default
    default = getattr(default, "value", default)
    kind = "argument" if parameter.param_type_name == "argument" else "option"
    traits = [kind, "required" if parameter.required else f"default={default!r}"]
    if getattr(parameter, "multiple", False) or getattr(parameter, "nargs", 1) == -1:
        traits.append("repeats")
    return f"  {names}: {', '.join(traits)}"


def surface() -> str:
    lines = []
    for name in COMMANDS:
        lines.append(name)
        lines += sorted(describe(p) for p in load_command(name).params)
    return "\n".join(lines) + "\n"


def test_surface_is_frozen():
    text = surface()
    if os.environ.get("MESHWRIGHT_UPDATE_GOLDEN") == "1":
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(text, encoding="utf-8")
    assert text == GOLDEN.read_text(encoding="utf-8")


def test_help_lists_every_command(capsys):
    assert run(["--help"]) == 0
    out = capsys.readouterr().out
    for name, text in COMMANDS.items():
        assert f"  {name} " in out
        assert text in " ".join(out.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_json(name, capsys):
    assert run([name, "--help"]) == 0
    out = capsys.readouterr().out
    assert "--json" in out
    assert "Usage: meshwright " + name in out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_says_what_it_does(name):
    for parameter in load_command(name).params:
        assert getattr(parameter, "help", None), f"{name} {parameter.name}"
