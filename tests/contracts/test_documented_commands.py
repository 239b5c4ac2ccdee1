"""Every `meshwright ...` line in a code block of the documentation is a command line that parses."""

import re
import shlex
from pathlib import Path

import pytest

from meshwright.cli.main import COMMANDS, load_command

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "examples").glob("*.sh"))]


def command_lines() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S) if page.suffix == ".md" else [text]
        for line in (line for block in blocks for line in block.splitlines()):
            match = re.match(r"\s*(?:\$ )?(?:\.venv/bin/)?meshwright (\S.*)", line)
            if match and "..." not in match.group(1) and match.group(1).split()[0] in COMMANDS:
                found.append((page.name, match.group(1)))
    return found


@pytest.mark.parametrize(("page", "line"), command_lines())
def test_it_parses(page, line):
    words = shlex.split(line, comments=True)
    command = load_command(words[0])
    context = command.make_context(words[0], words[1:])
    assert context.params


def test_there_are_some_of_every_command():
    assert {line.split()[0] for _, line in command_lines()} >= set(COMMANDS)


@pytest.mark.parametrize(
    "page", [p for p in [*PAGES, ROOT / "CONTRIBUTING.md"] if p.suffix == ".md"], ids=lambda p: p.name
)
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    assert not [t for t in targets if "://" not in t and not (page.parent / t).exists()]
