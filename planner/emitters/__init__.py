"""Launch files, one framework per module; ``get`` and ``available`` are the registry.

Modules are imported only when asked for. Other packages add emitters through the entry-point group
``meshwright.emitters`` (name -> ``package.module:Class``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, cast

from ...hardware_profiles.errors import InvalidProblemError, UnsupportedByFrameworkError, did_you_mean
from ..mixed.plan import MixedPlan, MixedPlanSet
from .base import Emitter, LaunchBundle, LaunchOptions, Proof, write_bundle

__all__ = [
    "Emitter",
    "LaunchBundle",
    "LaunchOptions",
    "Proof",
    "Target",
    "available",
    "get",
    "get_mixed",
    "targets",
    "write_bundle",
]

ENTRY_POINT_GROUP = "meshwright.emitters"

_BUILT_IN = {
    "megatron-lm": "megatron_lm:MegatronLm",
    "torchtitan": "torchtitan:TorchTitan",
    "deepspeed": "deepspeed:DeepSpeed",
    "pytorch": "pytorch_fsdp:PytorchFsdp",
    "accelerate": "accelerate:Accelerate",
}
#: Frameworks with launch files for plans on mixed clusters.
_MIXED = {"megatron-lm": "megatron_mixed", "flagscale": "flagscale"}
MixedEmitter = Callable[[MixedPlanSet, MixedPlan, LaunchOptions], LaunchBundle]
#: Kinds of plan: on one cluster of equal nodes, on a cluster of pools.
ONE_CLUSTER, POOLS = "one cluster", "pools"


@dataclass(frozen=True, slots=True)
class Target:
    """A framework that launch files are written for.

    Attributes:
        versions, proof: as of its ``Emitter``; plans: ``ONE_CLUSTER``, ``POOLS`` or both.
    """

    name: str
    versions: str
    proof: Proof
    plans: tuple[str, ...]


def _plugins() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}


def available() -> tuple[str, ...]:
    """Names that ``get`` knows, sorted."""
    return tuple(sorted({*_BUILT_IN, *_plugins()}))


def targets() -> tuple[Target, ...]:
    """Everything that launch files are written for, by name."""
    found = {}
    for name in available():
        emitter = get(name)
        plans = (ONE_CLUSTER, POOLS) if name in _MIXED else (ONE_CLUSTER,)
        found[name] = Target(name, emitter.versions, emitter.proof, plans)
    for name in _MIXED:
        if name not in found:
            module = _mixed_module(name)
            found[name] = Target(name, module.VERSIONS, module.PROOF, (POOLS,))
    return tuple(found[name] for name in sorted(found))


def get(name: str) -> Emitter:
    """The emitter of a name (built-in ones first).

    Raises:
        InvalidProblemError: no emitter has this name; UnsupportedByFrameworkError: it writes mixed plans only.
    """
    if name in _BUILT_IN:
        module, _, cls = _BUILT_IN[name].partition(":")
        return cast(Emitter, getattr(import_module(f".{module}", __name__), cls)())
    plugins = _plugins()
    if name in plugins:
        return cast(Emitter, plugins[name].load()())
    known = available()
    if name in _MIXED:
        raise UnsupportedByFrameworkError(f"{name} is written for plans on a cluster of pools only (docs/mixed.md).")
    raise InvalidProblemError(f"there is no emitter {name!r} (there is {', '.join(known)}).{did_you_mean(name, known)}")


def get_mixed(name: str) -> MixedEmitter:
    """What writes the launch files of plans on mixed clusters for a framework.

    Raises:
        UnsupportedByFrameworkError: the framework has none; InvalidProblemError: there is no such framework.
    """
    if name not in _MIXED:
        known = ", ".join(_MIXED)
        if name in available():
            raise UnsupportedByFrameworkError(f"plans on mixed clusters are written for {known}, not for {name}.")
        raise InvalidProblemError(f"there is no emitter {name!r} (there is {known}).{did_you_mean(name, _MIXED)}")
    return cast(MixedEmitter, _mixed_module(name).emit)


def _mixed_module(name: str) -> Any:
    return import_module(f".{_MIXED[name]}", __name__)
