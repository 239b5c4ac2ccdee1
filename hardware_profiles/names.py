"""Names of GPUs: what users and measured tables write -> the shipped profile."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from .errors import InvalidProblemError, did_you_mean
from .yaml_reader import read_yaml

ROOT = Path(__file__).resolve().parent
GPU_DIR = ROOT / "gpus"
CLUSTER_DIR = ROOT / "clusters"

_VENDOR_WORDS = {"nvidia", "amd", "instinct", "tesla", "geforce"}
_MEMORY = re.compile(r"(?:^|-)(\d+)(?:gb|gib|g)(?=-|$)")
_BARE_MEMORY = re.compile(r"-(\d+)$")
_MEMORY_TOLERANCE = 0.04  # 79.6 GiB as a tool prints it still means the 80 GB kind


def is_yaml_path(name: str) -> bool:
    """Whether a name stands for a user's own file rather than for something that ships."""
    return name.endswith((".yaml", ".yml"))


def list_gpus() -> list[str]:
    """Return the names of the shipped GPUs, sorted."""
    return sorted(path.stem for path in GPU_DIR.glob("*.yaml"))


def list_clusters() -> list[str]:
    """Return the names of the shipped clusters, sorted."""
    return sorted(path.stem for path in CLUSTER_DIR.glob("*.yaml"))


def resolve_gpu(name: str, memory_gb: float | None = None) -> str:
    """Return the shipped GPU that a user or a table means.

    Args:
        name: any usual spelling, e.g. ``H100``, ``NVIDIA A100-SXM4-80GB``, ``h100-sxm-80gb``.
        memory_gb: memory label in GB where it stands apart from the name.

    Raises:
        InvalidProblemError: unknown name (with the nearest ones), more than one kind possible (with all of
            them), or a memory that contradicts the name.
    """
    key = _normalise(name)
    if not key:
        raise InvalidProblemError("No GPU name given; name one of `meshwright hardware`.")
    aliases = read_yaml(ROOT / "aliases.yaml")
    if key in aliases["assumed"]:
        return str(aliases["assumed"][key]["gpu"])
    kinds: dict[str, dict[int, str]] = aliases["kinds"]
    family, memory = (key, None) if key in kinds else _split_memory(key, kinds)
    if memory is not None and memory_gb is not None and abs(memory - memory_gb) > _MEMORY_TOLERANCE * memory:
        raise InvalidProblemError(f"GPU {name!r} contradicts a memory of {memory_gb:g} GB; give one of the two.")
    if (GPU_DIR / f"{key}.yaml").is_file():
        return key
    if family not in kinds:
        near = did_you_mean(key, {*list_gpus(), *kinds}) or " `meshwright hardware` lists all."
        raise InvalidProblemError(f"Unknown GPU {name!r}.{near}")
    return _pick_kind(name, family, kinds[family], memory_gb if memory is None else memory)


def gpu_assumption(name: str) -> str:
    """Return why a GPU name is only assumed to mean its device, empty where the name is plain."""
    entry: dict[str, Any] = read_yaml(ROOT / "aliases.yaml")["assumed"].get(_normalise(name), {})
    return str(entry.get("reason", ""))


def _pick_kind(name: str, family: str, kinds: dict[int, str], memory_gb: float | None) -> str:
    listed = ", ".join(dict.fromkeys([*kinds.values(), *(g for g in list_gpus() if g.startswith(f"{family}-"))]))
    if memory_gb is None:
        if len(set(kinds.values())) > 1:
            raise InvalidProblemError(f"GPU {name!r} is ambiguous; name one of {listed}.")
        return next(iter(kinds.values()))
    label = min(kinds, key=lambda gb: abs(gb - memory_gb))
    if abs(label - memory_gb) > _MEMORY_TOLERANCE * label:
        raise InvalidProblemError(f"GPU {name!r} has no kind with {memory_gb:g} GB; name one of {listed}.")
    return kinds[label]


def _normalise(name: str) -> str:
    words = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-").split("-")
    return "-".join(word for word in words if word not in _VENDOR_WORDS)


def _split_memory(key: str, kinds: dict[str, dict[int, str]]) -> tuple[str, int | None]:
    """Take a memory label out of a name: ``a100-80gb-pcie`` -> (``a100-pcie``, 80)."""
    found = _MEMORY.search(key)
    if found is None:
        found = _BARE_MEMORY.search(key)  # "a100-80"
        if found is None or key[: found.start()] not in kinds:
            return key, None
    return (key[: found.start()] + key[found.end() :]).strip("-"), int(found.group(1))
