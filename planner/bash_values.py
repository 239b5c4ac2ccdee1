"""Variables of a bash script and the expansion of its words, without running anything.

What only a run can tell (``$(hostname)``) becomes a marker that travels with the text: ``is_unknown`` finds it.
"""

from __future__ import annotations

import ast
import fnmatch
import re
from collections.abc import Callable, Mapping

_MARK = "\ue000"
_NAME = re.compile(r"[A-Za-z_]\w*")


def unknown(what: str) -> str:
    """A value that stands for ``what`` (a command or variable of the running machine)."""
    return f"{_MARK}{what}{_MARK}"


def is_unknown(text: str) -> bool:
    """Whether a value depends on the running machine."""
    return _MARK in text


def show(text: str) -> str:
    """The text for messages, without markers."""
    return text.replace(_MARK, "")


class Values:
    """Scalars and arrays by name; ``missing`` collects names that were read but never set."""

    def __init__(self, env: Mapping[str, str] | None = None) -> None:
        self.names: dict[str, list[str]] = {name: [value] for name, value in (env or {}).items()}
        self.missing: set[str] = set()

    def set(self, name: str, values: list[str], *, append: bool = False) -> None:
        """Assign an array (a scalar is an array of one)."""
        self.names[name] = [*self.names.get(name, []), *values] if append else list(values)

    def extend_text(self, name: str, text: str) -> None:
        """``NAME+=text``."""
        old = self.names.get(name, [""])
        self.names[name] = [(old[0] if old else "") + text, *old[1:]]

    def get(self, name: str) -> str | None:
        """First element, None if the name is not set."""
        values = self.names.get(name)
        return None if values is None else (values[0] if values else "")

    # -- expansion --------------------------------------------------------------------------------
    def expand(self, raw: str) -> list[str]:
        """Fields of one raw word after expansion, splitting and the removal of quotes."""
        fields, current, touched = [], "", False
        for text, quoted, many in self._pieces(raw):
            if many is not None:
                parts = many
            elif quoted:
                parts = [text]
            else:
                parts = self._split(text)
                if text[:1].isspace() and touched:
                    fields.append(current)
                    current, touched = "", False
            if not parts:
                continue
            for part in parts[:-1]:
                fields.append(current + part)
                current = ""
            current, touched = current + parts[-1], True
            if many is None and not quoted and text[-1:].isspace():
                fields.append(current)
                current, touched = "", False
        return [*fields, current] if touched else fields

    def text(self, raw: str) -> str:
        """One raw word as in an assignment: expanded, not split."""
        return "".join(" ".join(many) if many is not None else text for text, _, many in self._pieces(raw))

    def document(self, body: str) -> str:
        """A here-document: expanded, but quotes are ordinary characters."""
        marked = body.replace("'", "\ue001").replace('"', "\ue002").replace("`", "\ue003")
        return self.text(marked).replace("\ue001", "'").replace("\ue002", '"').replace("\ue003", "`")

    @staticmethod
    def _split(text: str) -> list[str]:
        """Split at blanks, but not inside a marker."""
        parts = re.findall(rf"(?:{_MARK}[^{_MARK}]*{_MARK}|\S)+", text)
        return parts

    def _pieces(self, raw: str) -> list[tuple[str, bool, list[str] | None]]:
        """(text, quoted, elements of ``"${A[@]}"``) from left to right."""
        out: list[tuple[str, bool, list[str] | None]] = []
        i, quoted = 0, False
        while i < len(raw):
            char = raw[i]
            if char == "\\":
                escaped = raw[i + 1 : i + 2]
                out.append((escaped if not quoted or escaped in '$`"\\' else "\\" + escaped, True, None))
                i += 2
            elif char == "'" and not quoted:
                end = _find(raw, "'", i + 1)
                out.append((raw[i + 1 : end], True, None))
                i = end + 1
            elif char == '"':
                quoted = not quoted
                out.append(("", True, None))
                i += 1
            elif char == "`":
                end = _find(raw, "`", i + 1)
                out.append((self._command(raw[i + 1 : end]), True, None))
                i = end + 1
            elif char == "$":
                text, many, i = self._dollar(raw, i, quoted)
                out.append((text, quoted, many))
            else:
                out.append((char, True, None))
                i += 1
        return out

    def _dollar(self, raw: str, i: int, quoted: bool) -> tuple[str, list[str] | None, int]:
        if raw.startswith("$((", i):
            end = _closing(raw, i + 1, "(", ")")
            return self.arithmetic(raw[i + 3 : end - 1]), None, end + 1
        if raw.startswith("$(", i):
            end = _closing(raw, i + 1, "(", ")")
            return self._command(raw[i + 2 : end]), None, end + 1
        if raw.startswith("${", i):
            end = _closing(raw, i + 1, "{", "}")
            text, many = self._braces(raw[i + 2 : end])
            return text, many if quoted else None, end + 1
        match = _NAME.match(raw, i + 1)
        if match:
            return self._scalar(match.group()), None, match.end()
        if raw[i + 1 : i + 2] in tuple("@*#?$!-0123456789"):
            return "", ([] if raw[i + 1] == "@" and quoted else None), i + 2
        return "$", None, i + 1

    def _scalar(self, name: str) -> str:
        value = self.get(name)
        if value is None:
            self.missing.add(name)
            return unknown(f"${name}")
        return value

    def _command(self, text: str) -> str:
        match = re.fullmatch(r"\s*echo\s+([^|;&<>]*)", text)
        if match:
            return " ".join(w for raw in match[1].split() for w in self.expand(raw) if not raw.startswith("-"))
        return unknown(f"$({text.strip()})")

    def _braces(self, body: str) -> tuple[str, list[str] | None]:
        match = re.match(r"(#|!)?([A-Za-z_]\w*|[@*\d])(?:\[([^\]]*)\])?", body)
        if not match:
            return unknown(f"${{{body}}}"), None
        prefix, name, index = match.groups()
        rest = body[match.end() :]
        values = self.names.get(name)
        if prefix == "#":
            return str(len(values or []) if index in ("@", "*") else len(self.get(name) or "")), None
        if prefix == "!":
            return (self._scalar(self.get(name) or "_"), None) if not rest else (unknown(f"${{{body}}}"), None)
        if name in "@*0123456789":
            return (self.text(rest[2:]) if rest.startswith(":-") else ""), ([] if name == "@" else None)
        if index in ("@", "*") and not rest:
            return " ".join(values or []), list(values or [])
        value = self._element(values, index)
        return self._operator(name, value, rest), None

    def _element(self, values: list[str] | None, index: str | None) -> str | None:
        if values is None:
            return None
        if index in (None, "", "@", "*"):
            return values[0] if values else ""
        number = self.arithmetic(index or "0")
        return values[int(number)] if number.isdigit() and int(number) < len(values) else None

    def _operator(self, name: str, value: str | None, rest: str) -> str:
        if not rest:
            return self._scalar(name) if value is None else value
        empty = value is None or (rest.startswith(":") and value == "")
        kind, tail = rest.lstrip(":")[:1], rest.lstrip(":")[1:]
        if kind in ("-", "=", "?"):
            if not empty:
                return value or ""
            text = unknown(f"${name}") if kind == "?" else self.text(tail)
            if kind == "=":
                self.set(name, [text])
            return text
        if kind == "+":
            return "" if empty else self.text(tail)
        change = _CHANGES.get(rest[:2]) or _CHANGES.get(rest[:1])
        if change is None or value is None:
            return unknown(f"${{{name}{rest}}}")
        return change(value, self.text(rest.lstrip(rest[0])))

    # -- arithmetic -------------------------------------------------------------------------------
    def arithmetic(self, text: str) -> str:
        """Integer arithmetic as text; unknown where a name is unknown or the text is beyond this reader."""
        plain = self.text(re.sub(r"\$\{([A-Za-z_]\w*)\}", r"$\1", text))
        if is_unknown(plain):
            return unknown(f"$(({show(plain)}))")
        for name in set(_NAME.findall(plain)):
            value = self.get(name)
            if value is None or is_unknown(value):
                return unknown(f"$(({text.strip()}))")
            plain = re.sub(rf"\b{name}\b", f"({value or 0})", plain)
        plain = plain.replace("&&", " and ").replace("||", " or ")
        plain = re.sub(r"!(?!=)", " not ", plain)
        try:
            return str(int(_evaluate(ast.parse(plain.strip() or "0", mode="eval").body)))
        except (SyntaxError, ValueError, ZeroDivisionError, OverflowError, RecursionError):
            return unknown(f"$(({text.strip()}))")


def _find(raw: str, mark: str, at: int) -> int:
    """Offset of a closing mark; the end of the text where it is missing."""
    end = raw.find(mark, at)
    return len(raw) if end < 0 else end


def _closing(raw: str, at: int, opening: str, closing: str) -> int:
    depth = 0
    for i in range(at, len(raw)):
        depth += (raw[i] == opening) - (raw[i] == closing)
        if depth == 0:
            return i
    return len(raw) - 1


def _cut_end(value: str, pattern: str) -> str:
    for i in range(len(value), -1, -1):
        if fnmatch.fnmatchcase(value[i:], pattern):
            return value[:i]
    return value


def _cut_start(value: str, pattern: str) -> str:
    for i in range(len(value) + 1):
        if fnmatch.fnmatchcase(value[:i], pattern):
            return value[i:]
    return value


def _cut_start_longest(value: str, pattern: str) -> str:
    for i in range(len(value), -1, -1):
        if fnmatch.fnmatchcase(value[:i], pattern):
            return value[i:]
    return value


_CHANGES: dict[str, Callable[[str, str], str]] = {
    "%": _cut_end,
    "#": _cut_start,
    "##": _cut_start_longest,
    ",,": lambda value, _: value.lower(),
    "^^": lambda value, _: value.upper(),
}

_BINARY: dict[type[ast.AST], Callable[[int, int], int]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: int(a / b) if b else 1 // b,
    ast.FloorDiv: lambda a, b: a // b,
    ast.Mod: lambda a, b: a % b,
    ast.Eq: lambda a, b: int(a == b),
    ast.NotEq: lambda a, b: int(a != b),
    ast.Lt: lambda a, b: int(a < b),
    ast.LtE: lambda a, b: int(a <= b),
    ast.Gt: lambda a, b: int(a > b),
    ast.GtE: lambda a, b: int(a >= b),
}


def _evaluate(node: ast.expr) -> int:
    """Value of an integer expression; anything but numbers and operators is refused."""
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.BinOp):
        a, b = _evaluate(node.left), _evaluate(node.right)
        if isinstance(node.op, ast.Pow):
            if not 0 <= b <= 62 or abs(a) > 2**20:
                raise ValueError("exponent")
            return int(a**b)
        if type(node.op) in _BINARY:
            return _BINARY[type(node.op)](a, b)
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in _BINARY:
        return _BINARY[type(node.ops[0])](_evaluate(node.left), _evaluate(node.comparators[0]))
    if isinstance(node, ast.BoolOp):
        values = [_evaluate(v) != 0 for v in node.values]
        return int(all(values) if isinstance(node.op, ast.And) else any(values))
    if isinstance(node, ast.UnaryOp):
        value = _evaluate(node.operand)
        return -value if isinstance(node.op, ast.USub) else int(not value) if isinstance(node.op, ast.Not) else value
    if isinstance(node, ast.IfExp):
        return _evaluate(node.body) if _evaluate(node.test) else _evaluate(node.orelse)
    raise ValueError("not an integer expression")
