"""What every reader of training logs returns, and what they share: clean lines, warm-up, numbers.

A reader is a module with ``FRAMEWORK``, ``matches(text) -> bool`` and ``read(text) -> LogFacts``; it takes the text as
``clean`` returns it and raises nothing for lines that it does not know.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from ....costmodels.model_spec import ModelSpec

Quantity = Literal["step_s", "tokens_per_s_per_gpu", "samples_per_s"]
#: log value beyond which a line still belongs to warm-up, or is an outlier however calm the others are.
_SETTLED = 0.10
#: an outlier is this many (normal) standard deviations from the median, found from the median deviation.
_OUTLIER = 5.0
_LEAST_SPREAD = 0.01
#: lines that a log must have: two of them are always taken for warm-up.
LEAST_LINES = 3
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(slots=True)
class LogFacts:
    """What one log says.

    Attributes:
        framework: text of the ``framework`` column.
        quantity: what ``values`` are: seconds of a step, tokens per second and GPU, or sequences per second of the
            whole run. One value for each line, in the log's order.
        memory_gib: largest peak of any process that printed one (2^30 bytes), with how it is counted.
        cells: configuration as columns of a table of runs; only what the log states.
        model: the exact model, where the log spells out its arguments.
        words: further notes of the row (``torch.compile``, ``set(...)``).
        notes: sentences for the user about what was assumed or left aside.
    """

    framework: str
    quantity: Quantity = "step_s"
    values: list[float] = field(default_factory=list)
    memory_gib: float | None = None
    memory_method: Literal["", "allocated", "reserved", "device"] = ""
    cells: dict[str, str] = field(default_factory=dict)
    model: ModelSpec | None = None
    words: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def peak(self, gib: float, method: Literal["allocated", "reserved", "device"]) -> None:
        """Take a peak if it is larger than what was seen so far."""
        if self.memory_gib is None or gib > self.memory_gib:
            self.memory_gib, self.memory_method = gib, method

    def state(self, **cells: object) -> None:
        """Take cells that the log states; ``None`` is not stated."""
        self.cells.update({name: str(value) for name, value in cells.items() if value is not None})


@dataclass(frozen=True, slots=True)
class Settled:
    """Median of the lines that count, and how many were left out."""

    median: float
    used: int
    warm_up: int
    outliers: int


def clean(text: str) -> str:
    """The log without colours, with progress bars that overwrite themselves as lines of their own."""
    return _ANSI.sub("", text).replace("\r\n", "\n").replace("\r", "\n")


def settle(values: Sequence[float], warm_up: int | None = None) -> Settled:
    """The median of what a run does once it runs.

    Args:
        values: positive figures, one for each line in order, at least ``LEAST_LINES`` (more than ``warm_up``).
        warm_up: lines to leave out at the start; by default the first tenth and at least two, and after them those
            that are a tenth away from the second half's median, as long as half of the lines remain.
    """
    logs = np.log(np.asarray(values, dtype=float))
    if warm_up is None:
        first = max(2, math.ceil(0.1 * len(logs)))
        usual = float(np.median(logs[max(first, len(logs) // 2) :]))
        while first < len(logs) // 2 and abs(logs[first] - usual) > _SETTLED:
            first += 1
    else:
        first = warm_up
    kept = logs[first:]
    middle = float(np.median(kept))
    spread = max(1.4826 * float(np.median(np.abs(kept - middle))), _LEAST_SPREAD)
    inside = kept[np.abs(kept - middle) <= max(_OUTLIER * spread, _SETTLED)]
    return Settled(float(np.exp(np.median(inside))), len(inside), first, len(kept) - len(inside))


def number(text: str) -> float | None:
    """A positive finite number, written with or without thousands separators, else ``None``."""
    try:
        value = float(text.replace(",", ""))
    except ValueError:
        return None
    return value if 0.0 < value < math.inf else None


def year_of(text: str) -> int | None:
    """Year of the first time stamp (``2025-08-01 07:19``)."""
    found = re.search(r"\b(20[12]\d)-\d\d-\d\d[ T]\d\d:\d\d", text)
    return int(found.group(1)) if found else None


def last_of(pairs: Iterable[tuple[int, float]]) -> list[float]:
    """One value for each step in the order of steps; of lines repeated by several ranks or redraws the last counts."""
    by_step: dict[int, float] = dict(pairs)
    return [by_step[step] for step in sorted(by_step)]


def settings(text: str, names: Iterable[str]) -> dict[str, str]:
    """Values of ``name: value``, ``name=value`` and ``"name": value`` lines; the first that is not null counts.

    Configuration dumps of Hydra, OmegaConf and dataclasses are of this form, whatever their indentation.
    """
    wanted = "|".join(re.escape(name) for name in names)
    found: dict[str, str] = {}
    pattern = rf"(?<![\w.])['\"]?({wanted})['\"]?\s*[:=]\s*['\"]?([\w.+-]+)"
    for match in re.finditer(pattern, text):
        name, value = match.group(1), match.group(2)
        if value.lower() not in ("null", "none"):
            found.setdefault(name, value)
    return found


def whole(found: Mapping[str, str], name: str) -> int | None:
    """A setting as a positive whole number, ``None`` where it is absent or something else."""
    text = found.get(name, "")
    return int(text) if text.isdigit() and int(text) > 0 else None


def flag(found: Mapping[str, str], name: str) -> bool:
    """Whether a setting is on."""
    return found.get(name, "").lower() in ("true", "1", "yes", "on")
