"""What a release's own recipes set where a user or a table says nothing: recompute, CUDA graphs, FP8 weights.

Kept in ``software/recipes/<era>.yaml``, one file for each era that has them. A recipe is a default of the release
like those in the era's profile, only keyed by model, GPU and precision, as the vendor's recipe files are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from ..hardware_profiles.errors import InvalidProblemError
from .parallel import Recompute

_FOLDER = Path(__file__).resolve().parent / "software" / "recipes"
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_MATCHED = ("model", "gpu", "precision", "notes")
#: Megatron's module names; ``moe_act`` is the activation of the experts.
MODULES = {
    "core_attn": Recompute.CORE_ATTENTION,
    "layernorm": Recompute.NORM,
    "moe_act": Recompute.FFN_ACTIVATION,
    "mla_up_proj": Recompute.MLA_UP_PROJECTION,
    "moe": Recompute.FFN,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Defaults of one kind of run: fields of ``ParallelConfig``, ``Software`` and ``Workload``."""

    config: Mapping[str, int] = field(default_factory=dict)
    software: Mapping[str, Any] = field(default_factory=dict)
    workload: Mapping[str, Any] = field(default_factory=dict)


def _mask(value: Any, place: str) -> int:
    if value == "full":
        return int(Recompute.FULL)
    mask = Recompute.NONE
    for name in value:
        if name not in MODULES:
            raise InvalidProblemError(f"{place}: unknown recompute module {name!r}; known are {', '.join(MODULES)}.")
        mask |= MODULES[name]
    return int(mask)


@cache
def _table(era: str) -> Any:
    path = _FOLDER / f"{era}.yaml"
    return yaml.load(path.read_text(encoding="utf-8"), Loader=_LOADER) if path.is_file() else {}


def recipe_for(era: str, *, model: str, gpu: str, precision: str, notes: str = "") -> Recipe:
    """Defaults that the era's recipes set for such a run (empty where the era has none).

    Args:
        era: name of the software profile; model, gpu, precision: as they are called here; notes: other words of the
            run, in which a release such as ``26.04`` may stand.
    """
    table = _table(era)
    words = {"model": model.lower(), "gpu": gpu.lower(), "precision": precision, "notes": notes.lower()}
    workload = {"fp8_params": True} if precision in table.get("fp8_params", ()) else {}
    software = dict(_first(table.get("sparse", ()), words).get("software", {}))
    entry = _first(table.get("recipes", ()), words)
    if not entry:
        return Recipe(software=software, workload=workload)
    config = {"recompute": _mask(entry["recompute"], f"recipes/{era}.yaml")}
    config["recompute_layers"] = int(entry.get("recompute_layers", 0))
    return Recipe(config=config, software={**software, **entry.get("software", {})}, workload=workload)


def _first(entries: Any, words: Mapping[str, str]) -> Mapping[str, Any]:
    """The first entry whose every pattern is found in the run's words (empty if none is)."""
    for entry in entries:
        if all(re.search(str(entry[key]), words[key]) for key in _MATCHED if key in entry):
            return dict(entry)
    return {}
