"""Facts that a source states outside its table, from ``source_facts.yaml``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

_TABLE = Path(__file__).resolve().parent / "source_facts.yaml"


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFacts:
    """Overrides by kind of object; ``why`` names the place that states them (empty: nothing known).

    ``where_stated`` says what a word of the row's own cell means with that source's scripts; ``instead`` contradicts
    what the row says, for the reason ``instead_why``.
    """

    model: Mapping[str, Any] = field(default_factory=dict)
    workload: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, int] = field(default_factory=dict)
    where_stated: Mapping[str, int] = field(default_factory=dict)
    instead: Mapping[str, int] = field(default_factory=dict)
    software: Mapping[str, Any] = field(default_factory=dict)
    heads_by_hidden: Mapping[int, int] = field(default_factory=dict)
    why: str = ""
    instead_why: str = ""


@cache
def _entries() -> Any:
    return yaml.safe_load(_TABLE.read_text(encoding="utf-8"))


@cache
def facts_of(source: str, address: str = "") -> SourceFacts:
    """Facts of one source id and address (``source_url_or_repo_path``)."""
    words = f"{source} {address}".lower()
    for entry in _entries():
        if re.search(entry["match"], words):
            return SourceFacts(**{kind: said for kind, said in entry.items() if kind != "match"})
    return SourceFacts()
