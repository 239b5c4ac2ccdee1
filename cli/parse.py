"""Texts of the command line as numbers: ``15T``, ``70GB``, ``90%``, ``1..64``.

Every function takes the flag that the text came from, and names it in the one sentence that it raises.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from ..hardware_profiles.errors import InvalidProblemError

COUNT_SUFFIXES = {"": 1.0, "K": 1e3, "M": 1e6, "B": 1e9, "G": 1e9, "T": 1e12}
BYTE_UNITS = {
    "B": 1.0,
    "KB": 1e3,
    "MB": 1e6,
    "GB": 1e9,
    "TB": 1e12,
    "KIB": 2.0**10,
    "MIB": 2.0**20,
    "GIB": 2.0**30,
    "TIB": 2.0**40,
}
_NUMBER = r"\d+(?:\.\d+)?(?:[eE][+]?\d+)?"


def parse_count(text: str, flag: str) -> float:
    """Read a positive count: ``15T``, ``300B``, ``1.5e12``, ``4_000_000``."""
    match = re.fullmatch(rf"({_NUMBER})\s*([A-Za-z]?)", text.strip().replace("_", ""))
    suffix = match.group(2).upper() if match else ""
    if match is None or suffix not in COUNT_SUFFIXES:
        raise InvalidProblemError(f"{flag}: '{text}' is not a count; write it like 15T, 300B or 1.5e12.")
    return _positive(float(match.group(1)) * COUNT_SUFFIXES[suffix], text, flag)


def parse_memory(text: str, flag: str, *, device_bytes: float) -> float:
    """Read a memory size in bytes: ``70GB``, ``64GiB``, or ``90%`` of ``device_bytes``."""
    match = re.fullmatch(rf"({_NUMBER})\s*([A-Za-z%]+)", text.strip())
    unit = match.group(2).upper() if match else ""
    if match is None or (unit != "%" and unit not in BYTE_UNITS):
        raise InvalidProblemError(f"{flag}: '{text}' is not a memory size; write it like 70GB, 64GiB or 90%.")
    value = float(match.group(1))
    if unit == "%":
        if value > 100.0:
            raise InvalidProblemError(f"{flag}: '{text}' is more than the whole device; at most 100%.")
        return _positive(value / 100.0 * device_bytes, text, flag)
    return _positive(value * BYTE_UNITS[unit], text, flag)


def parse_range(text: str, flag: str) -> tuple[int, int]:
    """Read ``8`` as ``(8, 8)`` and ``1..64`` as ``(1, 64)``."""
    match = re.fullmatch(r"(\d{1,9})(?:\.\.(\d{1,9}))?", text.strip())
    if match is None:
        raise InvalidProblemError(f"{flag}: '{text}' is neither a whole number nor a range like 1..64.")
    low, high = int(match.group(1)), int(match.group(2) or match.group(1))
    if low < 1:
        raise InvalidProblemError(f"{flag}: '{text}' must be at least 1.")
    if high < low:
        raise InvalidProblemError(f"{flag}: '{text}' runs backwards; write the smaller number first.")
    return low, high


def parse_words(texts: Sequence[str]) -> tuple[str, ...]:
    """Split comma-separated words, in order, without repeats."""
    words = (w.strip() for text in texts for w in text.split(","))
    return tuple(dict.fromkeys(w for w in words if w))


def _positive(value: float, text: str, flag: str) -> float:
    if not math.isfinite(value) or value <= 0.0:
        raise InvalidProblemError(f"{flag}: '{text}' must be a finite number above zero.")
    return value
