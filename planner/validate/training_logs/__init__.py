"""Readers of training logs, one file per framework; each log gives the cells of one row of measured runs."""

from __future__ import annotations

import math
from pathlib import Path
from types import ModuleType

from ....hardware_profiles.errors import InvalidProblemError
from . import deepspeed, megatron_lm, nemo, torchtitan
from .base import LEAST_LINES, LogFacts, clean

#: Most particular first: NeMo and Megatron-Bridge print Megatron's lines too, Megatron-DeepSpeed DeepSpeed's.
READERS: tuple[ModuleType, ...] = (nemo, torchtitan, megatron_lm, deepspeed)


def find_reader(text: str) -> ModuleType | None:
    """The reader whose iteration lines the text holds."""
    return next((reader for reader in READERS if reader.matches(text)), None)


def read_log(path: str | Path) -> LogFacts:
    """Facts of one log.

    Raises:
        InvalidProblemError: the file cannot be read, no reader knows its lines, or it has too few of them.
    """
    try:
        text = clean(Path(path).read_text(encoding="utf-8", errors="replace"))
    except OSError as error:
        raise InvalidProblemError(f"{path} cannot be read: {error.strerror or error}.") from None
    reader = find_reader(text)
    if reader is None:
        names = ", ".join(sorted(reader.FRAMEWORK for reader in READERS))
        raise InvalidProblemError(
            f"{path} has no iteration lines that can be read (of {names}), and is no table of runs (.csv); give the "
            "output of the rank that prints the step times."
        )
    facts: LogFacts = reader.read(text)
    facts.values = [value for value in facts.values if 0.0 < value < math.inf]
    if len(facts.values) < LEAST_LINES:
        raise InvalidProblemError(
            f"{path} has {len(facts.values)} iteration lines; at least {LEAST_LINES} are needed, for the first two are "
            "warm-up."
        )
    return facts
