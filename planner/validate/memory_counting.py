"""How a source counts peak memory (unit and method), from ``memory_counting.yaml``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from ...costmodels.estimate import MemoryBreakdown
from .runs import Run

_TABLE = Path(__file__).resolve().parent / "memory_counting.yaml"
_UNIT_BYTES = {"gib": float(2**30), "gb": 1e9}


@dataclass(frozen=True, slots=True)
class Counting:
    """Unit and method of a measured peak.

    Attributes:
        unit_bytes: bytes that one unit of the table's number stands for.
        method: ``allocated``, ``reserved`` or ``device``.
        known: the source itself is in the table (not only the default).
    """

    unit_bytes: float
    method: str
    known: bool
    why: str


@cache
def _rules() -> Any:
    return yaml.safe_load(_TABLE.read_text(encoding="utf-8"))


def counting_of(run: Run) -> Counting:
    """How this run's ``peak_memory_gb`` is counted: by source id, then by words of the row, then the default."""
    rules = _rules()
    words = f"{run.text('framework')} {run.text('notes')}".lower()
    for text, group in ((run.source.lower(), "by_source"), (words, "by_words")):
        for rule in rules[group]:
            if re.search(rule["match"], text):
                return Counting(_UNIT_BYTES[rule["unit"]], rule["method"], True, rule["why"])
    rule = rules["default"]
    return Counting(_UNIT_BYTES[rule["unit"]], rule["method"], False, rule["why"])


def counted_bytes(memory: MemoryBreakdown, method: str) -> Any:
    """The predicted peak as ``method`` would show it: without the context and, if allocated, without slack."""
    total = memory.total
    if method == "device":
        return total
    total = total - memory.context_bytes
    return total - memory.slack_bytes if method == "allocated" else total
