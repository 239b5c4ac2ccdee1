"""Bash text: quoting, comments that cannot break out, and arrays of options one per line."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence

#: One option with its values, e.g. ``("--lr", "3e-4")`` or ``("--bf16",)``.
Flag = tuple[str, ...]
HEADER = "#!/usr/bin/env bash"


def flag(name: str, *values: object) -> Flag:
    """One option as text; numbers are written as Python writes them."""
    return (name, *(str(v) for v in values))


def quote(value: object) -> str:
    """One shell word, whatever the text holds (newlines and quotes included; commas too, for linters)."""
    text = str(value)
    word = shlex.quote(text)
    return f"'{text}'" if word == text and "," in text else word


def comment(text: str, *, width: int = 110) -> list[str]:
    """Comment lines; control characters become spaces, so that no text leaves its comment."""
    clean = "".join(c if c.isprintable() else " " for c in text)
    lines: list[str] = []
    line = "#"
    for word in clean.split():
        if len(line) + 1 + len(word) > width and line != "#":
            lines.append(line)
            line = "#"
        line += " " + word
    return [*lines, line]


def array(name: str, flags: Iterable[Flag]) -> list[str]:
    """``NAME=( ... )`` with one option per line."""
    rows = ["  " + " ".join(quote(word) for word in item) for item in flags]
    return [f"{name}=(", *rows, ")"]


def default(name: str, value: object) -> str:
    """``NAME=${NAME:-value}``: the environment wins, any text is safe as the default."""
    text = quote(value)
    if text == str(value):
        return f'{name}="${{{name}:-{value}}}"'
    return f'{name}_DEFAULT={text}\n{name}="${{{name}:-$' + f'{name}_DEFAULT}}"'


def export(name: str, value: object) -> str:
    """``export NAME=value``."""
    return f"export {name}={quote(value)}"


def script(lines: Sequence[str]) -> str:
    """The text of a bash script: shebang, strict mode, the lines, one newline at the end."""
    return "\n".join([HEADER, *lines]) + "\n"
