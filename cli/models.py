"""``meshwright models``: list the models that ship, or describe one."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from . import options as o
from .output import print_json


def models(
    name: Annotated[str | None, typer.Argument(metavar="[MODEL]", help="A name, or a config.json.")] = None,
    as_json: o.JsonOpt = False,
) -> None:
    """List the models that ship, or describe one: a shipped name, or any config.json of their families."""
    from ..costmodels.load_model import list_models, load_model

    if name is not None:
        _describe(name, as_json)
        return
    found = [load_model(n) for n in list_models()]
    rows = [_facts(m) for m in found]
    if as_json:
        print_json(rows)
        return
    from .table import render

    header = ["model", "family", "params", "active", "layers", "hidden", "heads", "kv", "ffn", "vocab", "experts"]
    print(render(header, [_cells(m) for m in found], left=(0, 1)))


def _describe(name: str, as_json: bool) -> None:
    from dataclasses import asdict

    from ..costmodels.load_model import load_model

    model = load_model(name)
    facts = asdict(model) | {"params": model.params(), "active_params": model.active_params()}
    if as_json:
        print_json(facts)
        return
    for key, value in facts.items():
        inner = value if isinstance(value, dict) else {}
        text = ", ".join(f"{k}={v}" for k, v in inner.items()) if inner else str(value)
        print(f"{key:<16} {text}")


def _facts(model: Any) -> dict[str, Any]:
    return {
        "name": model.name,
        "family": model.family,
        "params": model.params(),
        "active_params": model.active_params(),
        "n_layers": model.n_layers,
        "hidden": model.hidden,
        "n_heads": model.attention.n_heads,
        "n_kv_heads": model.attention.n_kv_heads,
        "attention": model.attention.kind,
        "ffn_hidden": model.ffn_hidden,
        "vocab": model.vocab,
        "n_experts": model.moe.n_experts if model.moe else 0,
        "top_k": model.moe.top_k if model.moe else 0,
    }


def _cells(model: Any) -> list[str]:
    attention, moe = model.attention, model.moe
    return [
        model.name,
        model.family,
        _billions(model.params()),
        _billions(model.active_params()) if moe else "-",
        str(model.n_layers),
        str(model.hidden),
        str(attention.n_heads),
        "mla" if attention.kind == "mla" else str(attention.n_kv_heads),
        str(moe.ffn_hidden if moe else model.ffn_hidden),
        str(model.vocab),
        f"{moe.top_k}/{moe.n_experts}" if moe else "-",
    ]


def _billions(count: float) -> str:
    return f"{count / 1e9:.2f}B" if count < 1e11 else f"{count / 1e9:.0f}B"
