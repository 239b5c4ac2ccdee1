"""Reading of YAML with errors that name the file, the key and the way out.

A figure is a mapping ``{value: 3350, source: "..."}``; in a user's own file a bare number will do.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from .errors import InvalidProblemError, did_you_mean

_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml reads ten times faster
# libyaml recurses per level and overruns the stack some tens of thousands deep, which no handler can catch
_MAX_BRACKETS = 5_000
_INLINE_NESTING = re.compile(rb"(?:[-?:][ \t]+){100}")


class _UniqueKeyLoader(_Base):  # type: ignore[misc]
    """A safe loader that refuses a key written twice, which YAML would silently let win."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, _ in node.value:
                if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                    continue
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"key {key.value!r} stands there twice", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file; the caller must not change it (it is kept for the next call).

    Raises:
        InvalidProblemError: the file is missing, unreadable, not YAML or not a mapping.
    """
    try:
        stat = path.stat()
        return _read_yaml(path, stat.st_mtime_ns, stat.st_size)
    except FileNotFoundError:
        raise InvalidProblemError(f"{path}: no such file; check the path.") from None
    except OSError as error:
        raise InvalidProblemError(f"{path}: cannot be read ({error.strerror}); check the path.") from None


@lru_cache(maxsize=256)
def _read_yaml(path: Path, _mtime_ns: int, _size: int) -> dict[str, Any]:
    raw = path.read_bytes()
    if raw.count(b"[") + raw.count(b"{") > _MAX_BRACKETS or _INLINE_NESTING.search(raw):
        raise InvalidProblemError(f"{path}: is nested too deeply to be a hardware file.")
    try:
        data = yaml.load(raw, Loader=_UniqueKeyLoader)
    except UnicodeDecodeError:
        raise InvalidProblemError(f"{path}: is not UTF-8 text; save it as a YAML text file.") from None
    except ValueError as error:  # a date such as 2024-99-99
        raise InvalidProblemError(f"{path}: holds a value that YAML cannot read ({error}).") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "garbled text"
        raise InvalidProblemError(f"{path}: is not valid YAML{where} ({problem}).") from None
    if not isinstance(data, dict):
        raise InvalidProblemError(f"{path}: holds {_kind(data)}, expected a mapping of keys.")
    return data


def _kind(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return f"the flag {str(value).lower()}"
    if isinstance(value, str):
        return f"the text {value!r}"
    if isinstance(value, Mapping):
        return "a mapping"
    return "a list" if isinstance(value, list) else f"{value!r}"


@dataclass(frozen=True, slots=True)
class Section:
    """One mapping of a file, with the place for messages and the sources that were read.

    Attributes:
        data: the raw mapping; place: file name for messages; path: keys that lead here, with a dot after each;
        sources: figure path -> source text, shared by all sections of the file.
    """

    data: Mapping[str, Any]
    place: str
    path: str = ""
    sources: dict[str, str] = field(default_factory=dict)

    def error(self, key: str, what: str) -> InvalidProblemError:
        """Return the error for one key, to be raised by the caller."""
        return InvalidProblemError(f"{self.place}: {self.path}{key} {what}.")

    def check_keys(self, required: Iterable[str], optional: Iterable[str] = ()) -> None:
        """Refuse unknown and missing keys.

        Raises:
            InvalidProblemError: names the file, the key and the nearest known key.
        """
        needed = tuple(required)
        known = {*needed, *optional}
        for key in self.data:
            if key not in known:
                near = did_you_mean(str(key), known) or f" Known keys are {', '.join(sorted(known))}."
                raise InvalidProblemError(f"{self.place}: unknown key {self.path}{key}.{near}")
        for key in needed:
            if key not in self.data:
                raise InvalidProblemError(f"{self.place}: key {self.path}{key} is missing; add it.")

    def text(self, key: str, default: str | None = None) -> str:
        """Return a text; a missing key gives ``default`` if there is one."""
        if key not in self.data and default is not None:
            return default
        value = self._get(key)
        if not isinstance(value, str):
            raise self.error(key, f"is {_kind(value)}, expected text")
        return value

    def flag(self, key: str, default: bool) -> bool:
        """Return true or false."""
        value = self.data.get(key, default)
        if not isinstance(value, bool):
            raise self.error(key, f"is {_kind(value)}, expected true or false")
        return value

    def section(self, key: str) -> Section:
        """Return the mapping under ``key``."""
        value = self._get(key)
        if not isinstance(value, Mapping):
            raise self.error(key, f"is {_kind(value)}, expected a mapping")
        return Section(value, self.place, f"{self.path}{key}.", self.sources)

    def sections(self, key: str) -> list[Section]:
        """Return the list of mappings under ``key``."""
        value = self._get(key)
        if not isinstance(value, list):
            raise self.error(key, f"is {_kind(value)}, expected a list")
        out = []
        for i, item in enumerate(value):
            if not isinstance(item, Mapping):
                raise self.error(f"{key}[{i}]", f"is {_kind(item)}, expected a mapping")
            out.append(Section(item, self.place, f"{self.path}{key}[{i}].", self.sources))
        return out

    def number(self, key: str) -> float:
        """Return a finite number of any sign."""
        return self._number(key, self._get(key))

    def figure(self, key: str, default: float | None = None, *, zero_allowed: bool = False) -> float:
        """Return a positive figure, with its source noted under this section's path."""
        if key not in self.data and default is not None:
            return default
        raw = self._get(key)
        if isinstance(raw, Mapping):
            inner = Section(raw, self.place, f"{self.path}{key}.", self.sources)
            inner.check_keys(("value", "source"))
            self.sources[f"{self.path}{key}"] = inner.text("source")
            raw = raw["value"]
        value = self._number(key, raw)
        if value < 0 or (value == 0 and not zero_allowed):
            raise self.error(key, f"is {value:g}, expected {'zero or more' if zero_allowed else 'more than zero'}")
        return value

    def count(self, key: str, default: int | None = None) -> int:
        """Return a positive whole number."""
        value = self.figure(key, default)
        if value != int(value):
            raise self.error(key, f"is {value:g}, expected a whole number")
        return int(value)

    def _get(self, key: str) -> Any:
        if key not in self.data:
            raise InvalidProblemError(f"{self.place}: key {self.path}{key} is missing; add it.")
        return self.data[key]

    def _number(self, key: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            hint = " (YAML reads 1e12 as text; write 1.0e+12)" if isinstance(value, str) and _is_number(value) else ""
            raise self.error(key, f"is {_kind(value)}, expected a number{hint}")
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise self.error(key, f"is {number}, expected a finite number")
        return number


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
