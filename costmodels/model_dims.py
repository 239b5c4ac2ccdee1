"""A model from the columns of a measured run: names where they are known, documented defaults where cells are empty.

Order of what decides: the row's own dimensions; a shipped model of the same name and dimensions (for what a table
has no column for: MLA, shared experts, norms, windows); the defaults below. Every default that was used is returned
as a sentence, so that a prediction can say what it assumed.
"""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

from ..hardware_profiles.errors import InvalidProblemError
from .load_model import find_model, load_model
from .model_dict import check_model
from .model_spec import AttentionSpec, ModelSpec, MoeSpec

#: Vocabulary where a table names none: GPT-2's BPE padded as Megatron does for tp 8, BLOOM's, llm-foundry's, Llama 2's.
_VOCAB = {"gpt": 51200, "bloom": 250880, "mpt": 50368, "llama": 32000}
#: Head widths tried in this order for a hidden size of 2048 or more; heads must then come in multiples of 8.
_HEAD_DIMS = (128, 96, 64, 112, 120, 80, 144, 160, 192, 256)
FAMILIES = ("gpt", "bloom", "mpt", "llama")


def model_from_dims(
    *,
    name: str,
    n_layers: Any = None,
    hidden: Any = None,
    n_heads: Any = None,
    n_kv_heads: Any = None,
    ffn_hidden: Any = None,
    vocab: Any = None,
    n_experts: Any = None,
    top_k: Any = None,
    moe_ffn_hidden: Any = None,
    n_moe_layers: Any = None,
    seq_len: Any = None,
    family: str | None = None,
    dropout: bool | None = None,
) -> tuple[ModelSpec, tuple[str, ...]]:
    """Build a model from a row; None and NaN mean an empty cell.

    Args:
        name: the row's model name, in any spelling that ``load_model`` knows.
        n_layers, hidden: may be empty only if ``name`` is a shipped model.
        seq_len: rows of the learned position table of GPT and MPT models.
        family: ``gpt`` (GELU with two matrices, LayerNorm, biases, learned positions, tied embeddings), ``bloom``
            (the same with ALiBi and an embedding norm), ``mpt`` (as ``gpt``) or ``llama`` (gated, RMSNorm, rotary,
            no biases, untied). Without it: ``gpt`` where the feed-forward is ``4 * hidden`` or unknown.
        dropout: overrides the model's own setting (GPT-style rows: on, as Megatron-LM's default).

    Returns:
        The model, and one sentence for each thing that was assumed.

    Raises:
        InvalidProblemError: dimensions missing or contradictory.
    """
    given = {
        "n_layers": n_layers,
        "hidden": hidden,
        "n_heads": n_heads,
        "n_kv_heads": n_kv_heads,
        "ffn_hidden": ffn_hidden,
        "vocab": vocab,
        "n_experts": n_experts,
        "top_k": top_k,
        "moe_ffn_hidden": moe_ffn_hidden,
        "n_moe_layers": n_moe_layers,
        "seq_len": seq_len,
    }
    row = {key: _cell(value, key, name) for key, value in given.items()}
    notes: list[str] = []
    model = _from_shipped(name, row, notes) or _from_row(name, row, family, notes)
    if dropout is not None:
        model = replace(model, dropout=dropout)
    check_model(model, f"model {name!r}")
    return model, tuple(notes)


def _cell(value: Any, key: str, name: str) -> int | None:
    if value is None or (isinstance(value, float) and math.isnan(value)) or value == "":
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not (number > 0 and number == int(number)):
        raise InvalidProblemError(f"model {name!r}: {key} must be a positive number, not {value!r}.")
    return int(number)


def _shipped_name(name: str) -> str | None:
    """Shipped model behind a row's name; what stands in parentheses or behind a blank describes the run."""
    bare = re.sub(r"\(.*?\)", " ", name).strip()
    return find_model(bare) or (find_model(bare.split()[0]) if bare else None)


def _from_shipped(name: str, row: dict[str, int | None], notes: list[str]) -> ModelSpec | None:
    shipped = _shipped_name(name)
    if shipped is None:
        return None
    model = load_model(shipped)
    moe = model.moe
    known = {
        "n_layers": model.n_layers,
        "hidden": model.hidden,
        "n_kv_heads": model.attention.n_kv_heads,
        "n_experts": moe.n_experts if moe else None,
        "top_k": moe.top_k if moe else None,
        "moe_ffn_hidden": moe.ffn_hidden if moe else None,
        "n_moe_layers": moe.n_moe_layers if moe else None,
        "ffn_hidden": model.ffn_hidden,
    }
    same_heads = row["n_heads"] in (None, model.attention.n_heads)
    for key, value in known.items():
        if key == "n_kv_heads" and not same_heads:
            continue
        if row[key] is not None and row[key] != value:
            return None
    if row["n_layers"] is None or row["hidden"] is None:
        notes.append(f"dimensions of {shipped}")
    changes: dict[str, Any] = {}
    if row["vocab"] is None:
        notes.append(f"vocab={model.vocab} of {shipped}")
    elif row["vocab"] != model.vocab:
        changes["vocab"] = row["vocab"]
    heads = row["n_heads"]
    if heads is not None and not same_heads:
        if model.attention.kind == "mla" or model.hidden % heads:
            return None
        width = model.hidden // heads
        changes["attention"] = replace(
            model.attention, n_heads=heads, n_kv_heads=row["n_kv_heads"] or heads, head_dim=width, v_head_dim=width
        )
    if model.learned_positions and row["seq_len"] is not None:
        changes["learned_positions"] = row["seq_len"]
    return replace(model, **changes)


def _from_row(name: str, row: dict[str, int | None], family: str | None, notes: list[str]) -> ModelSpec:
    layers, hidden = row["n_layers"], row["hidden"]
    if layers is None or hidden is None:
        missing = "n_layers" if layers is None else "hidden"
        raise InvalidProblemError(
            f"model {name!r} is no shipped model and {missing} is empty; give n_layers and hidden or a known name."
        )
    if family is not None and family not in FAMILIES:
        raise InvalidProblemError(f"model {name!r}: family must be one of {', '.join(FAMILIES)}, not {family!r}.")
    style = family or _guess_family(name, row, notes)
    llama = style == "llama"
    ffn = row["ffn_hidden"] or row["moe_ffn_hidden"]
    if ffn is None:
        ffn = _llama_ffn(hidden) if llama else 4 * hidden
        notes.append(f"ffn_hidden={ffn}")
    vocab = row["vocab"]
    if vocab is None:
        vocab = _VOCAB[style]
        notes.append(f"vocab={vocab}")
    learned = style in ("gpt", "mpt")
    positions = (row["seq_len"] or 2048) if learned else 0
    if style == "gpt":
        notes.append("dropout on")  # Megatron-LM's and Megatron-DeepSpeed's default of 0.1
    return ModelSpec(
        name=name,
        family=style,
        n_layers=layers,
        hidden=hidden,
        ffn_hidden=ffn,
        vocab=vocab,
        attention=_attention(name, row, hidden, biases=not llama, notes=notes),
        moe=_experts(name, row, layers, ffn, notes),
        gated_ffn=llama,
        tied_embeddings=not llama,
        norm="rmsnorm" if llama else "layernorm",
        learned_positions=positions,
        embedding_norm=style == "bloom",
        ffn_bias=not llama,
        dropout=style == "gpt",
        max_seq_len=row["seq_len"] or 0,
        source="columns of a measured run",
    )


def _guess_family(name: str, row: dict[str, int | None], notes: list[str]) -> str:
    ffn, hidden = row["ffn_hidden"], row["hidden"] or 0
    lower = name.lower()
    gated = row["n_experts"] is not None or (ffn is not None and ffn != 4 * hidden)
    if ffn is None and "gpt" not in lower:
        gated = gated or re.search(r"llama|mistral|qwen|gemma|olmo", lower) is not None
    bloom = "tr11" in lower or "bloom" in lower
    style = "bloom" if bloom else ("llama" if gated else "gpt")
    notes.append(f"{style}-style layers")
    return style


def _llama_ffn(hidden: int) -> int:
    """Llama's rule: two thirds of 4h, rounded up to a multiple of 256."""
    return -(-(8 * hidden // 3) // 256) * 256


def _attention(name: str, row: dict[str, int | None], hidden: int, *, biases: bool, notes: list[str]) -> AttentionSpec:
    heads = row["n_heads"]
    if heads is None:
        heads = default_heads(hidden)
        notes.append(f"n_heads={heads}")
    if hidden % heads:
        raise InvalidProblemError(f"model {name!r}: hidden={hidden} does not divide by n_heads={heads}.")
    kv = row["n_kv_heads"] or heads
    width = hidden // heads
    return AttentionSpec(
        n_heads=heads, n_kv_heads=kv, head_dim=width, v_head_dim=width, qkv_bias=biases, out_bias=biases
    )


def default_heads(hidden: int) -> int:
    """Number of heads where a source names none.

    Below a hidden size of 2048 heads are 64 wide (GPT-2). From there on the first width of 128, 96, 64, 112, ...
    that divides ``hidden`` into a multiple of 8 heads, so that tp 8 stays possible; else the divisor nearest to 128.
    """
    if hidden < 2048 and hidden % 64 == 0:
        return hidden // 64
    for width in _HEAD_DIMS:
        if hidden % width == 0 and (hidden // width) % 8 == 0:
            return hidden // width
    widths = [w for w in range(1, hidden + 1) if hidden % w == 0]
    return hidden // min(widths, key=lambda w: (abs(w - 128), w))


def _experts(name: str, row: dict[str, int | None], layers: int, ffn: int, notes: list[str]) -> MoeSpec | None:
    n = row["n_experts"]
    if n is None:
        return None
    if row["top_k"] is None:
        notes.append(f"top_k={min(2, n)}")
    if row["moe_ffn_hidden"] is None:
        notes.append(f"moe_ffn_hidden={ffn}")
    if row["n_moe_layers"] is None:
        notes.append("every layer has experts")
    return MoeSpec(
        n_experts=n,
        top_k=row["top_k"] or min(2, n),
        ffn_hidden=row["moe_ffn_hidden"] or ffn,
        n_moe_layers=row["n_moe_layers"] or layers,
    )
