"""Launch files, one framework per module; ``get`` and ``available`` are the registry.

Modules are imported only when asked for. Other packages add emitters through the entry-point group
``meshwright.emitters`` (name -> ``package.module:Class``).
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import cast

from ...hardware_profiles.errors import InvalidProblemError, did_you_mean
from .base import Emitter, LaunchBundle, LaunchOptions, Proof, write_bundle

__all__ = ["Emitter", "LaunchBundle", "LaunchOptions", "Proof", "available", "get", "write_bundle"]

ENTRY_POINT_GROUP = "meshwright.emitters"

_BUILT_IN = {
    "megatron-lm": "megatron_lm:MegatronLm",
    "torchtitan": "torchtitan:TorchTitan",
    "deepspeed": "deepspeed:DeepSpeed",
    "pytorch": "pytorch_fsdp:PytorchFsdp",
    "accelerate": "accelerate:Accelerate",
}


def _plugins() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}


def available() -> tuple[str, ...]:
    """Names that ``get`` knows, sorted."""
    return tuple(sorted({*_BUILT_IN, *_plugins()}))


def get(name: str) -> Emitter:
    """The emitter of a name (built-in ones first).

    Raises:
        InvalidProblemError: no emitter has this name.
    """
    if name in _BUILT_IN:
        module, _, cls = _BUILT_IN[name].partition(":")
        return cast(Emitter, getattr(import_module(f".{module}", __name__), cls)())
    plugins = _plugins()
    if name in plugins:
        return cast(Emitter, plugins[name].load()())
    known = available()
    raise InvalidProblemError(f"there is no emitter {name!r} (there is {', '.join(known)}).{did_you_mean(name, known)}")
