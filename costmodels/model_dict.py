"""A ``ModelSpec`` as a plain mapping and back: the schema of ``models/*.yaml`` and of the model inside plan.json.

Keys are the field names of ``ModelSpec``, ``AttentionSpec`` (under ``attention``) and ``MoeSpec`` (under ``moe``);
fields at their default may be left out. ``attention.head_dim`` may be left out too (``hidden / n_heads``),
``attention.v_head_dim`` (``head_dim``) and ``attention.n_kv_heads`` (``n_heads``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields
from typing import Any

from ..hardware_profiles.errors import InvalidProblemError, did_you_mean
from .model_spec import AttentionSpec, ModelSpec, MoeSpec

#: Integer fields that may be zero ("has none"); every other integer must be positive.
_MAY_BE_ZERO = frozenset(
    {
        "window",
        "windowed_layers",
        "q_lora_rank",
        "kv_lora_rank",
        "qk_rope_head_dim",
        "shared_ffn_hidden",
        "n_moe_layers",
        "norm_vectors",
        "norms_per_layer",
        "learned_positions",
        "mtp_layers",
        "max_seq_len",
    }
)
_CHOICES = {"kind": ("mha", "mla"), "norm": ("rmsnorm", "layernorm")}
_INNER: dict[str, type[Any]] = {"attention": AttentionSpec, "moe": MoeSpec}


def model_to_dict(model: ModelSpec) -> dict[str, Any]:
    """Every field of the model, nested as in the dataclasses; ``model_from_dict`` gives the same model back."""
    return asdict(model)


def model_from_dict(data: Mapping[str, Any], where: str = "model") -> ModelSpec:
    """Build a model from a mapping in the schema above.

    Args:
        data: the mapping; not changed.
        where: what to call it in errors, for example the file name.

    Raises:
        InvalidProblemError: unknown or missing key, wrong type, non-positive dimension, or dimensions that contradict.
    """
    if not isinstance(data, Mapping):
        raise InvalidProblemError(f"{where} must hold a mapping of model fields, not {_kind(data)}.")
    top = dict(data)
    attention = dict(_mapping(top, "attention", where))
    attention.setdefault("n_kv_heads", attention.get("n_heads"))
    if "head_dim" not in attention:
        attention["head_dim"] = derived_head_dim(top.get("hidden"), attention.get("n_heads"), where)
    attention.setdefault("v_head_dim", attention["head_dim"])
    top["attention"] = _build(AttentionSpec, attention, where, "attention.")
    if top.get("moe") is not None:
        top["moe"] = _build(MoeSpec, _mapping(top, "moe", where), where, "moe.")
    model: ModelSpec = _build(ModelSpec, top, where, "")
    check_model(model, where)
    return model


def derived_head_dim(hidden: Any, n_heads: Any, where: str) -> int:
    """``hidden / n_heads``, or an error that names both."""
    for key, value in (("hidden", hidden), ("n_heads", n_heads)):
        if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
            raise InvalidProblemError(f"{where}: {key} must be a positive integer, not {value!r}.")
    if hidden % n_heads:
        raise InvalidProblemError(
            f"{where}: hidden={hidden} does not divide by n_heads={n_heads}; state head_dim or mend one of them."
        )
    return int(hidden // n_heads)


def check_model(model: ModelSpec, where: str) -> None:
    """Raise ``InvalidProblemError`` where dimensions contradict each other."""
    a, m = model.attention, model.moe
    rules = [
        (a.n_heads % a.n_kv_heads == 0, f"n_heads={a.n_heads} must be a multiple of n_kv_heads={a.n_kv_heads}"),
        (a.windowed_layers <= model.n_layers, f"windowed_layers={a.windowed_layers} exceeds n_layers={model.n_layers}"),
        (a.windowed_layers == 0 or a.window > 0, "windowed_layers needs a positive window"),
        (a.kind != "mla" or a.kv_lora_rank > 0, "attention kind mla needs a positive kv_lora_rank"),
        (
            a.kind != "mla" or 0 < a.qk_rope_head_dim < a.head_dim,
            f"qk_rope_head_dim={a.qk_rope_head_dim} must lie between 0 and head_dim={a.head_dim}",
        ),
        (
            a.kind != "mla" or not (a.qkv_bias or a.qk_norm),
            "attention kind mla is modelled without qkv_bias and qk_norm",
        ),
    ]
    if m is not None:
        rules += [
            (m.top_k <= m.n_experts, f"top_k={m.top_k} exceeds n_experts={m.n_experts}"),
            (m.n_moe_layers <= model.n_layers, f"n_moe_layers={m.n_moe_layers} exceeds n_layers={model.n_layers}"),
        ]
    for holds, text in rules:
        if not holds:
            raise InvalidProblemError(f"{where}: {text}.")


def _build(cls: type[Any], data: Mapping[str, Any], where: str, prefix: str) -> Any:
    known = {f.name: f for f in fields(cls)}
    for key in data:
        if key not in known:
            hint = did_you_mean(str(key), known)
            raise InvalidProblemError(f"{where}: unknown key {prefix}{key}.{hint}")
    for name, f in known.items():
        if name not in data:
            if f.default is MISSING:
                raise InvalidProblemError(f"{where}: key {prefix}{name} is missing.")
        elif name not in _INNER:
            _check_value(str(f.type), name, data[name], f"{where}: {prefix}{name}")
    return cls(**data)


def _check_value(annotation: str, name: str, value: Any, what: str) -> None:
    if value is None and annotation.endswith("| None"):
        return
    if annotation == "bool":
        if not isinstance(value, bool):
            raise InvalidProblemError(f"{what} must be true or false, not {value!r}.")
    elif annotation == "str":
        if not isinstance(value, str):
            raise InvalidProblemError(f"{what} must be a text, not {value!r}.")
        if name in _CHOICES and value not in _CHOICES[name]:
            raise InvalidProblemError(f"{what} must be one of {', '.join(_CHOICES[name])}, not {value!r}.")
    else:
        least = 0 if name in _MAY_BE_ZERO else 1
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InvalidProblemError(
                f"{what} must be a {'whole' if least == 0 else 'positive'} number, not {value!r}."
            )


def _mapping(data: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    value = data.get(key)
    if value is None:
        raise InvalidProblemError(f"{where}: key {key} is missing.")
    if not isinstance(value, Mapping):
        raise InvalidProblemError(f"{where}: {key} must be a mapping, not {_kind(value)}.")
    return value


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"
