"""Walks through a bash script and lists the commands that it would run, expanded; it runs none of them.

Conditions are decided where the script itself decides them (``[ -z "$X" ]``, ``[[ $A == b ]]``, ``(( N > 1 ))``);
one that only a machine can decide counts as false, and a note says so. Loop bodies are walked once.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from .bash_lexer import Lexer, Token
from .bash_values import Values, is_unknown, show

_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)(\+?)=(.*)", re.S)
_DECLARE = frozenset({"export", "declare", "local", "readonly", "typeset"})


@dataclass(frozen=True, slots=True)
class Command:
    """One expanded command and its line."""

    words: tuple[str, ...]
    line: int


@dataclass(slots=True)
class _Branch:
    """An ``if`` or ``case`` that is open: ``active``: its commands count; ``done``: one branch was taken."""

    kind: str
    active: bool
    done: bool
    outer: bool
    subject: str = ""


@dataclass(slots=True)
class Script:
    """Result of the walk."""

    commands: list[Command] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    values: Values = field(default_factory=Values)


def walk(text: str, env: Mapping[str, str] | None = None) -> Script:
    """Commands of a script in order.

    Raises:
        BashSyntaxError: quotes or brackets do not close.
    """
    return _Walker(Lexer(text).run(), Values(env)).run()


def rewalk(text: str, values: Values) -> Script:
    """Commands of a text inside a script (``bash -c "$CMD"``), with the variables of that script."""
    return _Walker(Lexer(text).run(), values).run()


class _Walker:
    def __init__(self, tokens: list[Token], values: Values) -> None:
        self.tokens, self.at = tokens, 0
        self.script = Script(values=values)
        self.values = values
        self.stack: list[_Branch] = []
        self.active = True
        self.status: bool | None = True  # None: nobody knows
        self.join = ";"
        self.condition: _Branch | None = None

    def run(self) -> Script:
        while self.at < len(self.tokens):
            token = self.tokens[self.at]
            if token.kind == "op":
                self._operator(token.text)
            elif token.kind == "heredoc":
                self.at += 1
                if self.active:
                    self.script.commands.append(Command(("<<", self.values.document(token.text)), token.line))
            elif token.kind == "word" and self._keyword(token):
                pass
            else:
                self._command()
        return self.script

    def _operator(self, text: str) -> None:
        self.at += 1
        if text in ("&&", "||"):
            self.join = text
        elif text == ";;" and self.stack and self.stack[-1].kind == "case":
            self.stack[-1].active = False
            self._pattern()
        else:
            self.join = ";"

    # -- control flow -----------------------------------------------------------------------------
    def _keyword(self, token: Token) -> bool:
        """Handle a reserved word; False if it is none."""
        action = getattr(self, f"_do_{token.text}", None) if token.text.isalpha() else None
        if action is None:
            if token.text in ("{", "}", "!"):
                self.at += 1
                return True
            return False
        self.at += 1
        action(token)
        return True

    def _do_if(self, token: Token) -> None:
        self.stack.append(_Branch("if", self.active, False, self.active))
        self.join = ";"

    def _do_then(self, token: Token) -> None:
        branch = self.stack[-1] if self.stack else _Branch("if", True, False, True)
        if branch.outer and not branch.done and self.status is None:
            self.script.notes.append(f"the condition before line {token.line} depends on the machine; taken as false.")
        branch.active = branch.outer and not branch.done and self.status is True
        branch.done = branch.done or branch.active
        self.active, self.join = branch.active, ";"

    def _do_elif(self, token: Token) -> None:
        if self.stack:
            self.active = self.stack[-1].outer and not self.stack[-1].done
        self.join = ";"

    def _do_else(self, token: Token) -> None:
        if self.stack:
            self.active = self.stack[-1].outer and not self.stack[-1].done
        self.join = ";"

    def _do_fi(self, token: Token) -> None:
        self._leave()

    def _do_esac(self, token: Token) -> None:
        self._leave()

    def _leave(self) -> None:
        if self.stack:
            self.active = self.stack.pop().outer
        self.status, self.join = True, ";"

    def _do_case(self, token: Token) -> None:
        words = []
        while self.at < len(self.tokens) and self.tokens[self.at].text != "in":
            words.append(self.tokens[self.at].text)
            self.at += 1
        self.at += 1
        subject = " ".join(" ".join(self.values.expand(w)) for w in words)
        self.stack.append(_Branch("case", False, False, self.active, subject))
        self._pattern()

    def _pattern(self) -> None:
        """Read ``a|b)`` and decide whether its branch is walked."""
        branch, patterns = self.stack[-1], []
        while self.at < len(self.tokens) and self.tokens[self.at].kind == "op" and self.tokens[self.at].text in "\n(":
            self.at += 1
        if self.at < len(self.tokens) and self.tokens[self.at].text == "esac":
            return
        while self.at < len(self.tokens) and self.tokens[self.at].text != ")":
            if self.tokens[self.at].kind == "word":
                patterns.append(self.values.text(self.tokens[self.at].text))
            self.at += 1
        self.at += 1
        hit = any(fnmatch.fnmatchcase(branch.subject, p) for p in patterns)
        branch.active = branch.outer and not branch.done and hit
        branch.done = branch.done or branch.active
        self.active, self.join = branch.active, ";"

    def _do_for(self, token: Token) -> None:
        words = []
        while self.at < len(self.tokens) and self.tokens[self.at].kind != "op":
            words.append(self.tokens[self.at].text)
            self.at += 1
        if len(words) > 2 and words[1] == "in" and self.active:
            items = [item for raw in words[2:] for item in self.values.expand(raw)]
            self.values.set(words[0], items[:1])
            if len(items) > 1:
                self.script.notes.append(f"the loop in line {token.line} was read for its first value only.")

    def _do_while(self, token: Token) -> None:
        self._skip_to("do")

    _do_until = _do_while

    def _do_do(self, token: Token) -> None:
        self.join = ";"

    _do_done = _do_do
    _do_time = _do_do

    def _do_function(self, token: Token) -> None:
        self._skip_to("{")

    def _skip_to(self, word: str) -> None:
        while self.at < len(self.tokens) and self.tokens[self.at].text != word:
            self.at += 1

    # -- commands ---------------------------------------------------------------------------------
    def _command(self) -> None:
        start = self.tokens[self.at]
        group: list[Token] = []
        while self.at < len(self.tokens) and self.tokens[self.at].kind != "op":
            group.append(self.tokens[self.at])
            self.at += 1
        if self._is_function(group):
            self.at += 2
            return
        skip = (self.join == "&&" and self.status is not True) or (self.join == "||" and self.status is True)
        if not self.active or skip:
            return
        self.status = self._execute(group, start)

    def _is_function(self, group: list[Token]) -> bool:
        following = [t.text for t in self.tokens[self.at : self.at + 2]]
        return len(group) == 1 and group[0].kind == "word" and following == ["(", ")"]

    def _execute(self, group: list[Token], start: Token) -> bool | None:
        if start.kind == "arith":
            return self._arith(start.text)
        if start.kind == "test":
            return self._test([w for raw in start.words for w in (self.values.text(raw),)], start.words)
        group = [t for t in group if not (t.kind == "word" and t.text in _DECLARE)]
        rest = self._assign(group)
        words = [field for token in rest for field in self._fields(token)]
        if not words:
            return True
        if words[0] in ("[", "test"):
            inner = words[1:-1] if words[0] == "[" else words[1:]
            return self._test(inner, tuple(inner))
        if words[0] in ("true", "false", ":"):
            return words[0] != "false"
        if words[0] in ("source", "."):
            self.script.notes.append(f"line {start.line} reads {show(' '.join(words[1:]))}, which was not followed.")
        self.script.commands.append(Command(tuple(words), start.line))
        return None if words[0] in ("grep", "command", "which", "type", "nvidia-smi", "ls") else True

    def _fields(self, token: Token) -> list[str]:
        return self.values.expand(token.text) if token.kind == "word" else []

    def _assign(self, group: list[Token]) -> list[Token]:
        """Apply leading assignments; return what follows them."""
        for i, token in enumerate(group):
            if token.kind == "array":
                elements = [f for raw in token.words for f in self.values.expand(raw)]
                self.values.set(token.text, elements, append=token.append)
                continue
            match = _ASSIGNMENT.fullmatch(token.text)
            if not match:
                return [] if token.text.startswith("-") and i == 0 else group[i:]
            text = self.values.text(match[3])
            if match[2]:
                self.values.extend_text(match[1], text)
            else:
                self.values.set(match[1], [text])
        return []

    # -- tests ------------------------------------------------------------------------------------
    def _arith(self, text: str) -> bool | None:
        step = re.fullmatch(r"\s*([A-Za-z_]\w*)\s*([-+*/]?)=(?!=)(.*)", text)
        if step:
            value = self.values.arithmetic(f"{step[1]} {step[2]} ({step[3]})" if step[2] else step[3])
            self.values.set(step[1], [value])
            return True
        result = self.values.arithmetic(text)
        return None if is_unknown(result) else result != "0"

    def _test(self, words: list[str], raw: tuple[str, ...]) -> bool | None:
        for joint, merge in (("||", any), ("-o", any), ("&&", all), ("-a", all)):
            if joint in raw and joint in words:
                i = words.index(joint)
                parts = [self._test(words[:i], raw[:i]), self._test(words[i + 1 :], raw[i + 1 :])]
                return None if None in parts else merge(bool(p) for p in parts)
        if words[:1] == ["!"]:
            inner = self._test(words[1:], raw[1:])
            return None if inner is None else not inner
        return self._primary(words, raw)

    def _primary(self, words: list[str], raw: tuple[str, ...]) -> bool | None:
        if len(words) == 2 and words[0] in ("-z", "-n"):
            empty = words[1] == "" or self._is_unset(words[1])
            return empty if words[0] == "-z" else not empty
        if len(words) == 2 and words[0].startswith("-"):
            return None  # files of the machine
        if len(words) == 1:
            return words[0] != "" and not self._is_unset(words[0])
        if len(words) != 3:
            return None
        left, operator, right = ("" if self._is_unset(w) else w for w in words)
        if is_unknown(left) or is_unknown(right):
            return None
        if operator in ("=", "==", "!="):
            same = left == right or ("*" in right and fnmatch.fnmatchcase(left, right))
            return same != (operator == "!=")
        numbers = {"-eq": "==", "-ne": "!=", "-lt": "<", "-le": "<=", "-gt": ">", "-ge": ">=", "<": "<", ">": ">"}
        if operator not in numbers:
            return None
        result = self.values.arithmetic(f"({left or 0}) {numbers[operator]} ({right or 0})")
        return None if is_unknown(result) else result != "0"

    def _is_unset(self, word: str) -> bool:
        """Whether a word is just a variable that the script never sets."""
        return is_unknown(word) and show(word).lstrip("$") in self.values.missing
