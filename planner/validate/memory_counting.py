"""How a source counts peak memory (unit and method), from ``memory_counting.yaml``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
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
        first_stage: the number was read on the first pipeline stage only.
    """

    unit_bytes: float
    method: str
    known: bool
    why: str
    first_stage: bool = False


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
                first = rule.get("stage") == "first"
                return Counting(_UNIT_BYTES[rule["unit"]], rule["method"], True, rule["why"], first)
    rule = rules["default"]
    return Counting(_UNIT_BYTES[rule["unit"]], rule["method"], False, rule["why"])


def counted_bytes(memory: MemoryBreakdown, method: str, capacity_bytes: float) -> Any:
    """The predicted peak as ``method`` would show it on a device of ``capacity_bytes``.

    ``allocated`` lacks context and slack; ``reserved`` lacks the context and ``device`` nothing, and both show what
    the allocator only keeps (``cached_bytes``) as far as the device has room for it: a full one gets it back.
    """
    if method == "allocated":
        return memory.total - memory.slack_bytes - memory.context_bytes
    needed = memory.total - memory.slack_bytes
    shown = needed + np.clip(capacity_bytes - needed, 0.0, memory.slack_bytes + memory.cached_bytes)
    return shown if method == "device" else shown - memory.context_bytes
