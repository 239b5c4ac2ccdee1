"""Context parallelism: every rank holds a part of the sequence and needs the others' keys and values."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...hardware_profiles.types import Cluster
from ..collectives import collective_time_s, p2p_time_s
from ..compute import memory_bound_time_s
from ..model_spec import ModelSpec
from ..parallel import CpComm
from .sequence import ulysses_s


def cp_layer_s(
    cluster: Cluster, model: ModelSpec, tokens: Any, element_bytes: float, attention_s: Any, c: Any, *, backward: bool
) -> Any:
    """Exposed communication of one layer's attention.

    Ring (Liu et al., arXiv 2310.01889): ``cp - 1`` steps, each sends one rank's keys and values while the previous
    block is computed; a step costs what the transfer takes beyond ``attention_s / cp``, and merging its partial
    output (log-sum-exp correction). Backward also sends their
    gradients (twice the bytes). All-gather (Llama 3, arXiv 2407.21783): one gather of keys and values forward; again
    plus a reduce-scatter of their gradients backward. Ulysses: see ``sequence.ulysses_s``.
    """
    a = model.attention
    kv_heads = np.maximum(a.n_kv_heads / c.tp, 1.0)
    kv_bytes = tokens * kv_heads * (a.head_dim + a.v_head_dim) * element_bytes
    times = 2.0 if backward else 1.0
    step = p2p_time_s(cluster, kv_bytes * times, c.tp, c.cp)
    # each step merges its partial output with the running one: two fp32 reads and a write, and their statistics
    partial = 12.0 * tokens * (a.n_heads / c.tp) * a.v_head_dim
    merge = memory_bound_time_s(cluster.gpu, partial, 3.0)
    ring = (c.cp - 1) * (np.maximum(step - attention_s / c.cp, 0.0) + merge)
    gather = collective_time_s(cluster, "all_gather", kv_bytes * c.cp, c.cp, c.tp)
    scatter = collective_time_s(cluster, "reduce_scatter", kv_bytes * c.cp, c.cp, c.tp)
    gathered = gather + scatter if backward else gather
    ulysses = ulysses_s(cluster, model, tokens, element_bytes, c)
    out = np.where(c.cp_comm == CpComm.ALL_GATHER, gathered, ring)
    out = np.where(c.cp_comm == CpComm.ULYSSES, ulysses, out)
    return np.where(c.cp > 1, out, 0.0)
