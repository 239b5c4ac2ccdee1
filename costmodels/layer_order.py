"""Which layers of a model are sparse and which attend to a window, where the model has both kinds.

``ModelSpec`` says how many, and for sparse layers whether the dense ones come first; the rest is the usual pattern.
"""

from __future__ import annotations

from .model_spec import ModelSpec


def spread(n: int, ones: int) -> list[int]:
    """``ones`` ones among ``n`` places, evenly, each group of zeros before its one (``[0,1]*k`` for a half)."""
    return [(i + 1) * ones // n - i * ones // n for i in range(n)]


def sparse_layers(model: ModelSpec) -> list[int]:
    """1 for every layer with routed experts, in the model's order."""
    if model.moe is None:
        return [0] * model.n_layers
    if model.moe.dense_first:
        return [0] * model.n_dense_layers + [1] * model.n_moe_layers
    return spread(model.n_layers, model.n_moe_layers)


def windowed_layers(model: ModelSpec) -> list[int]:
    """1 for every layer whose attention sees a sliding window: full layers stand evenly, each behind its windowed
    ones (as in Gemma, gpt-oss and Llama 4)."""
    attention = model.attention
    if not attention.window:
        return [0] * model.n_layers
    return [1 - full for full in spread(model.n_layers, model.n_layers - attention.windowed_layers)]
