"""Layers per stage where the head counts for what it costs: the longest stage as short as whole layers allow.

arXiv 2411.05288 calls it layer redistribution ("redis"). It fails where the head alone outweighs a stage.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..model_spec import ModelSpec


def head_in_layers(model: ModelSpec) -> float:
    """The head's GEMM FLOPs in layers of the model: vocabulary x hidden over a layer's active parameters."""
    per_layer = float(model.dense_layer_params)
    if model.moe is not None:
        experts = model.expert_layer_params * model.moe.top_k / model.moe.n_experts
        per_layer = model.moe_layer_shared_params + experts
    return float(model.vocab * model.hidden / per_layer)


def balanced_last(n_layers: int, pp: Any, head_layers: float) -> Any:
    """Layers of the last stage that make the longest stage shortest (the most of equals).

    Minimises ``max(ceil((n - l) / (pp - 1)), l + head_layers)`` over l; works for arrays of ``pp``.
    """
    others = np.maximum(pp - 1, 1)
    best, longest = np.zeros_like(np.asarray(pp)), np.full(np.shape(pp), np.inf)
    for last in range(n_layers // 2 + 1):
        cost = np.maximum(-(-(n_layers - last) // others), last + head_layers)
        better = cost <= longest
        best, longest = np.where(better, last, best), np.where(better, cost, longest)
    return best
