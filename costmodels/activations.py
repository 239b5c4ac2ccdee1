"""Activation bytes of one layer: what each operator saves for backward.

For GPT layers without flash attention they reduce to Korthikanti et al., arXiv 2205.05198, Table 2:
``sbh(34 + 5as/h)`` without parallelism and ``sbh/t (34 + 5as/h)`` with tensor and sequence parallelism.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .model_spec import ModelSpec
from .ops import sequence_split
from .parallel import Recompute
from .parallelism.expert import expert_load
from .software import Software
from .workload import Workload


@dataclass(slots=True)
class LayerActivations:
    """Bytes that one layer keeps per micro-batch: ``kept`` under the recompute mode, ``whole`` without any,
    ``input`` only the layer input, ``temporary`` the largest short-lived tensors of its backward."""

    kept: Any
    whole: Any
    input: Any
    temporary: Any


def layer_activations(
    model: ModelSpec, workload: Workload, software: Software, c: Any, *, moe: bool
) -> LayerActivations:
    """Stored tensors of one layer (bytes per micro-batch and rank)."""
    a, h, w = model.attention, model.hidden, workload.activation_bytes
    tokens = c.micro_batch_size * workload.seq_len / c.cp
    sp = sequence_split(c)
    x = tokens * h * w / sp
    mask = c.recompute

    def keep(bit: Recompute, n: Any) -> Any:
        return np.where((mask & int(bit)) != 0, 0.0, n)

    norm_out = 2 * x
    if model.norm == "rmsnorm":
        norm_out = norm_out + 2 * x / w * software.coefficient("norm_copy_bytes")
    qkv = tokens * (a.n_heads * a.head_dim + np.maximum(a.n_kv_heads, c.tp) * (a.head_dim + a.v_head_dim)) / c.tp * w
    latent: Any = 0.0
    if a.kind == "mla":
        qkv = tokens * a.n_heads * (2 * a.head_dim + a.v_head_dim) / c.tp * w
        latent = tokens * (a.q_lora_rank + a.kv_lora_rank + a.qk_rope_head_dim) * 2 * w
    if a.qk_norm:
        qkv = qkv + tokens * (a.n_heads + np.maximum(a.n_kv_heads, c.tp)) * a.head_dim / c.tp * w
    attention_out = tokens * a.n_heads * a.v_head_dim / c.tp * w
    scores = _score_bytes(model, workload, software, c)
    masks = 2 * tokens * h / sp if model.dropout else 0.0 * x
    if moe:
        inputs, hidden_bytes, down_in, extra = _moe_bytes(model, workload, c, tokens, w)
    else:
        up = (2 if model.gated_ffn else 1) * tokens * model.ffn_hidden / c.tp * w
        inputs, hidden_bytes, down_in, extra = 0.0 * x, up, tokens * model.ffn_hidden / c.tp * w, 0.0 * x
    if model.gated_ffn:
        down_in = down_in * (1.0 + software.coefficient("gated_copy"))
    if workload.task == "lora":
        norm_out, attention_out, inputs, down_in = _lora_inputs(workload, norm_out, attention_out, inputs, down_in)
    fixed = 2 * x + latent + attention_out + masks + extra
    whole = fixed + norm_out + qkv + scores + inputs + hidden_bytes + down_in
    ffn_off = (mask & int(Recompute.FFN)) != 0
    kept = (
        fixed
        + keep(Recompute.NORM, norm_out)
        + (keep(Recompute.MLA_UP_PROJECTION, qkv) if a.kind == "mla" else qkv)
        + keep(Recompute.CORE_ATTENTION, scores)
        + np.where(ffn_off, 0.0, inputs + hidden_bytes + keep(Recompute.FFN_ACTIVATION, down_in))
    )
    # backward holds the gradient of the widest intermediate beside the intermediate itself, and whole x under SP
    temporary = hidden_bytes + down_in + np.where(c.sequence_parallel == 1, 2 * x * c.tp, x)
    return LayerActivations(kept, whole, x, temporary)


def _lora_inputs(workload: Workload, norm_out: Any, attention_out: Any, inputs: Any, down_in: Any) -> tuple[Any, ...]:
    """Inputs of linear layers under LoRA: a frozen weight keeps none; an adapter keeps its input after dropout and
    the dropout's mask (one byte for two); what attention itself keeps stays."""
    if workload.lora_targets == "all":
        return 1.5 * norm_out, 2.5 * attention_out, 1.5 * inputs, 1.5 * down_in
    return 0.5 * 1.5 * norm_out, 2.5 * attention_out, 0.0 * inputs, 0.0 * down_in


def _score_bytes(model: ModelSpec, workload: Workload, software: Software, c: Any) -> Any:
    """What core attention saves: softmax output (2 bytes), and with dropout its mask (1) and output (2) for every
    score (unfused), or one fp32 statistic per query and head (flash)."""
    heads = model.attention.n_heads / c.tp
    if software.attention != "unfused":
        return 4.0 * c.micro_batch_size * heads * workload.seq_len / c.cp
    per_score = 5.0 if model.dropout else workload.activation_bytes
    return per_score * c.micro_batch_size * heads * workload.seq_len * (workload.seq_len / c.cp)


def _moe_bytes(model: ModelSpec, workload: Workload, c: Any, tokens: Any, w: float) -> tuple[Any, Any, Any, Any]:
    """Sparse layer: dispatched inputs, expert hidden, down input, and shared experts with the combined output.

    Routed copies are divided by tp (each sequence-parallel rank sends its own tokens), not by ep.
    """
    moe = model.moe
    if moe is None:
        raise ValueError("a sparse layer needs a model with experts")
    load = expert_load(model, workload, tokens, c)
    inputs = load.routed * model.hidden * w
    hidden_bytes = (2 if model.gated_ffn else 1) * load.routed * load.inner * w
    down_in = load.routed * load.inner * w
    shared = (3 if model.gated_ffn else 2) * tokens * moe.shared_ffn_hidden / c.tp * w
    combined = load.routed / c.etp * model.hidden * w  # expert outputs, kept for the gradient of router weights
    return inputs, hidden_bytes, down_in, shared + combined
