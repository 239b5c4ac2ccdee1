"""Splits bash text into tokens: words as written (quotes kept), operators, array assignments, tests, arithmetic.

Covers what launch scripts use: comments, continuations, quotes, here-documents, redirections (dropped),
``NAME=( ... )``, ``[[ ... ]]`` and ``(( ... ))``. It runs nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_ASSIGN = re.compile(r"([A-Za-z_]\w*)(\+?)=$")
#: Words after which a new command starts, as after an operator.
KEYWORDS = frozenset({"if", "then", "elif", "else", "while", "until", "do", "{", "!", "time"})


@dataclass(frozen=True, slots=True)
class Token:
    """One token.

    Attributes:
        kind: ``word``, ``op``, ``array``, ``test`` (``[[``), ``arith`` (``((``) or ``heredoc``.
        text: the raw word, the operator, the array's name, the arithmetic text or the body of a here-document.
        words: raw elements of an array or a test; append: the array is extended (``+=``).
        line: line of the script, from 1.
    """

    kind: str
    text: str
    line: int
    words: tuple[str, ...] = field(default=())
    append: bool = False


class BashSyntaxError(ValueError):
    """Quotes or brackets do not close; ``line`` is where they open."""

    def __init__(self, what: str, line: int) -> None:
        super().__init__(what)
        self.line = line


class Lexer:
    """One pass over the text of a script."""

    def __init__(self, text: str) -> None:
        self.text = text.replace("\r\n", "\n").replace("\\\n", "  ")
        # Continuations became two blanks, so line numbers are counted on the original text.
        self._breaks = [m.start() for m in re.finditer(r"\n|\\\n", text.replace("\r\n", "\n"))]
        self.at = 0
        self.tokens: list[Token] = []
        self._heredocs: list[str] = []

    def line(self, at: int) -> int:
        """Line number of an offset (a continuation counts as the end of a line)."""
        low, high = 0, len(self._breaks)
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if self._breaks[middle] < at else (low, middle)
        return low + 1

    def run(self) -> list[Token]:
        """All tokens.

        Raises:
            BashSyntaxError: a quote or bracket stays open.
        """
        while self.at < len(self.text):
            self._next()
        self._op("\n")
        return self.tokens

    # -- one token --------------------------------------------------------------------------------
    def _at_command_start(self) -> bool:
        if not self.tokens:
            return True
        last = self.tokens[-1]
        return last.kind == "op" or (last.kind == "word" and last.text in KEYWORDS)

    def _op(self, text: str) -> None:
        self.tokens.append(Token("op", text, self.line(self.at)))

    def _next(self) -> None:
        text, char = self.text, self.text[self.at]
        if char in " \t":
            self.at += 1
        elif char == "\n":
            self._op("\n")
            self.at += 1
            self._skip_heredocs()
        elif char == "#":
            end = text.find("\n", self.at)
            self.at = len(text) if end < 0 else end
        elif text.startswith("((", self.at) and self._at_command_start():
            self._arith()
        elif text.startswith(("&&", "||", ";;"), self.at):
            self._op(text[self.at : self.at + 2])
            self.at += 2
        elif text.startswith(("&>", ">&"), self.at) or char in "<>":
            self._redirection()
        elif char in ";|&()":
            self._op(char)
            self.at += 1
        else:
            self._word()

    def _arith(self) -> None:
        start = self.at
        end = self._close(self.at + 1, "(", ")")
        self.tokens.append(Token("arith", self.text[start + 2 : end - 1], self.line(start)))
        self.at = end + 1

    def _redirection(self) -> None:
        last = self.tokens[-1] if self.tokens else None
        if last and last.kind == "word" and last.text.isdigit() and self.text[self.at - 1].isdigit():
            self.tokens.pop()  # the 2 of 2>&1
        heredoc = self.text.startswith("<<", self.at) and not self.text.startswith("<<<", self.at)
        while self.at < len(self.text) and self.text[self.at] in "<>&|":
            self.at += 1
        if heredoc and self.text.startswith("-", self.at):
            self.at += 1
        while self.at < len(self.text) and self.text[self.at] in " \t":
            self.at += 1
        if self.text.startswith("(", self.at):  # process substitution
            self.at = self._close(self.at, "(", ")") + 1
            return
        target = self._raw_word()
        if heredoc:
            self._heredocs.append(target.strip("'\"\\"))

    def _skip_heredocs(self) -> None:
        for mark in self._heredocs:
            match = re.compile(rf"^\t*{re.escape(mark)}[ \t]*$", re.M).search(self.text, self.at)
            body = self.text[self.at : match.start() if match else len(self.text)]
            self.tokens.append(Token("heredoc", body, self.line(self.at)))
            self._op("\n")
            self.at = match.end() if match else len(self.text)
        self._heredocs.clear()

    def _word(self) -> None:
        start, first = self.at, self._at_command_start()
        raw = self._raw_word()
        line = self.line(start)
        match = _ASSIGN.match(raw)
        if match and self.text.startswith("(", self.at):
            words = self._until(")", self.at + 1, line)
            self.tokens.append(Token("array", match[1], line, tuple(words), append=bool(match[2])))
        elif raw == "[[" and first:
            words = self._until("]]", self.at, line)
            self.tokens.append(Token("test", "[[", line, tuple(words)))
        elif raw:
            self.tokens.append(Token("word", raw, line))
        else:  # a stray closing brace or the like
            self.at += 1

    def _until(self, end: str, at: int, line: int) -> list[str]:
        """Raw words up to a closing ``)`` or ``]]``."""
        self.at = at
        words: list[str] = []
        while self.at < len(self.text):
            char = self.text[self.at]
            if char in " \t\n":
                self.at += 1
            elif char == "#" and end == ")":
                stop = self.text.find("\n", self.at)
                self.at = len(self.text) if stop < 0 else stop
            elif char == ")" and end == ")":
                self.at += 1
                return words
            elif self.text.startswith(("&&", "||"), self.at):
                words.append(self.text[self.at : self.at + 2])
                self.at += 2
            elif char in "<>()&|;":
                words.append(char)
                self.at += 1
            else:
                word = self._raw_word()
                if word == end:
                    return words
                words.append(word)
        raise BashSyntaxError(f"an opening {'(' if end == ')' else '[['} is never closed", line)

    # -- raw words --------------------------------------------------------------------------------
    def _raw_word(self) -> str:
        start = self.at
        while self.at < len(self.text):
            char = self.text[self.at]
            if char in " \t\n;|&<>()":
                break
            self.at = self._skip(self.at)
        return self.text[start : self.at]

    def _skip(self, at: int) -> int:
        """Offset behind one character, quotation or expansion."""
        text = self.text
        char = text[at]
        if char == "\\":
            return min(at + 2, len(text))
        if char == "'":
            end = text.find("'", at + 1)
            if end < 0:
                raise BashSyntaxError("a single quote is never closed", self.line(at))
            return end + 1
        if char == '"':
            return self._quoted(at)
        if char == "`":
            end = text.find("`", at + 1)
            if end < 0:
                raise BashSyntaxError("a backquote is never closed", self.line(at))
            return end + 1
        if text.startswith("$(", at):
            return self._close(at + 1, "(", ")") + 1
        if text.startswith("${", at):
            return self._close(at + 1, "{", "}") + 1
        return at + 1

    def _quoted(self, at: int) -> int:
        i = at + 1
        while i < len(self.text):
            char = self.text[i]
            if char == '"':
                return i + 1
            i = i + 1 if char == "'" else self._skip(i)
        raise BashSyntaxError("a double quote is never closed", self.line(at))

    def _close(self, at: int, opening: str, closing: str) -> int:
        """Offset of the bracket that closes the one at ``at``."""
        depth, i = 0, at
        while i < len(self.text):
            char = self.text[i]
            if char == opening:
                depth += 1
            elif char == closing:
                depth -= 1
                if depth == 0:
                    return i
            elif char in '"\\`' or (char == "'" and opening == "(") or self.text.startswith(("$(", "${"), i):
                i = self._skip(i)
                continue
            i += 1
        raise BashSyntaxError(f"an opening {opening} is never closed", self.line(at))
