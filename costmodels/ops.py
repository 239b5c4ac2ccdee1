"""Operators of one transformer layer on one rank for one micro-batch: matrix shapes, bytes moved, kernels launched.

``tokens`` is the number of tokens of the micro-batch that the rank's linear layers see,
``micro_batch_size * seq_len / cp``. Weights are split over ``tp`` (Megatron's column/row scheme), norms and
residuals over ``tp`` too where sequence parallelism is on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .model_spec import ModelSpec
from .software import Software
from .workload import Workload


@dataclass(frozen=True, slots=True)
class Matmul:
    """Y[m, n] = X[m, k] W[k, n]; ``m`` is implied by the caller (tokens).

    Attributes:
        n, k: per-rank widths (scalars or arrays).
        target: LoRA target group, ``attention`` or ``ffn``.
    """

    name: str
    n: Any
    k: Any
    target: str = "attention"


def attention_matmuls(model: ModelSpec, tp: Any) -> list[Matmul]:
    """Projections of attention. KV heads fewer than tp are replicated (Megatron's rule)."""
    a, h = model.attention, model.hidden
    heads = a.n_heads / tp
    if a.kind == "mla":
        nope = a.head_dim - a.qk_rope_head_dim
        q = (
            [Matmul("q_down", a.q_lora_rank, h), Matmul("q_up", heads * a.head_dim, a.q_lora_rank)]
            if a.q_lora_rank
            else [Matmul("q", heads * a.head_dim, h)]
        )
        return [
            *q,
            Matmul("kv_down", a.kv_lora_rank + a.qk_rope_head_dim, h),
            Matmul("kv_up", heads * (nope + a.v_head_dim), a.kv_lora_rank),
            Matmul("attention_out", h, heads * a.v_head_dim),
        ]
    kv_heads = np.maximum(a.n_kv_heads / tp, 1.0)
    return [
        Matmul("qkv", (heads + 2 * kv_heads) * a.head_dim, h),
        Matmul("attention_out", h, heads * a.v_head_dim),
    ]


def ffn_matmuls(model: ModelSpec, inner: Any) -> list[Matmul]:
    """Up (with gate where gated) and down projection of a feed-forward of per-rank width ``inner``."""
    up = (2 if model.gated_ffn else 1) * inner
    return [Matmul("ffn_up", up, model.hidden, "ffn"), Matmul("ffn_down", model.hidden, inner, "ffn")]


def lora_on(workload: Workload, target: str) -> bool:
    """Whether linears of this group carry an adapter."""
    return workload.task == "lora" and (workload.lora_targets == "all" or target == "attention")


def sequence_split(c: Any) -> Any:
    """Ranks over which norms, residuals and dropout divide the tokens: tp with sequence parallelism, else none."""
    return np.where(c.sequence_parallel == 1, c.tp, 1)


def attention_elementwise_bytes(model: ModelSpec, software: Software, c: Any, tokens: Any, width: float) -> Any:
    """Forward bytes of the attention half: norm (read, write), rotary (read, write), residual add (2 reads, write).

    ``width``: bytes of an element. An unfused stack passes over bias, dropout and transposes separately: about
    twice the traffic. Dropout masks add one byte per element.
    """
    a = model.attention
    split = sequence_split(c)
    norm = 2 * width * tokens * model.hidden / split
    residual = (3 * width + (1 if model.dropout else 0)) * tokens * model.hidden / split
    qk = tokens * (a.n_heads + np.maximum(a.n_kv_heads, c.tp)) * a.head_dim / c.tp
    rotary = 0.0 if model.learned_positions else 2 * width * qk
    inner_norm = 2 * width * qk if a.qk_norm else 0.0
    latent = 4 * width * tokens * (a.q_lora_rank + a.kv_lora_rank) if a.kind == "mla" else 0.0
    concat = 4 * width * qk if a.kind == "mla" else 0.0  # joining rope and non-rope parts of q and k
    total = norm + residual + rotary + inner_norm + latent + concat
    return total * (1.0 if software.fused_elementwise else 2.0)


def ffn_elementwise_bytes(model: ModelSpec, software: Software, c: Any, tokens: Any, inner: Any, width: float) -> Any:
    """Forward bytes of the feed-forward half: norm, residual, activation (gated: read 2 write 1, else 1 and 1)."""
    split = sequence_split(c)
    norm = 2 * width * tokens * model.hidden / split
    residual = (3 * width + (1 if model.dropout else 0)) * tokens * model.hidden / split
    activation = (3 if model.gated_ffn else 2) * width * tokens * inner
    return (norm + residual + activation) * (1.0 if software.fused_elementwise else 2.0)


def fp8_cast_bytes(workload: Workload, tokens: Any, matmuls: list[Matmul]) -> Any:
    """Bytes of quantising each linear's input (read 16 bit, write 8 bit and its transpose); 0 without FP8/FP4."""
    if not workload.quantised:
        return 0.0
    return sum((4.0 * tokens * mm.k for mm in matmuls), start=0.0)


def cast_bytes(workload: Workload) -> float:
    """Bytes per element of quantising a 16-bit tensor for a GEMM: read, write rows and columns in 8 bit. Per-tensor
    current scaling (``fp8``) reads it once more to find its largest value. 0 without FP8/FP4."""
    return {"fp8": 6.0, "mxfp8": 4.0, "nvfp4": 4.0}.get(workload.precision, 0.0)


def expert_kernels(workload: Workload, software: Software, local_experts: Any) -> Any:
    """Kernels between and around the experts' GEMMs in forward: four, and per expert those that Transformer Engine
    launches in a loop over four streams: two GEMMs; for each of their inputs a cast and a swizzle of its scales
    (block scaling), or largest value, scale and cast (current scaling)."""
    if software.moe_fused_mlp or workload.token_drop:
        return 4.0 + 0.0 * local_experts
    each = {"fp8": 8.0, "mxfp8": 6.0, "nvfp4": 8.0}.get(workload.precision, 2.0)
    return 4.0 + each * local_experts


def expert_unfused_bytes(model: ModelSpec, workload: Workload, software: Software, routed: Any, inner: Any) -> Any:
    """Forward bytes of what separate kernels do between the experts' GEMMs (backward moves 1.5 times as much).

    FP8 recipes: copies padded to the block size and back (8 bytes per hidden element; HybridEP pads on arrival) and
    both GEMM inputs quantised (read 16 bit, write 8 bit and its transpose). Biases of the experts (gpt-oss): the
    down-projection's bias is weighted, added and concatenated expert by expert in fp32 (24 bytes per element), the
    clamped up-projection is copied (8 bytes). Fused grouped MLP: quantised input only.
    Source: Megatron-LM core 0.15 ``experts.py`` (``TEGroupedMLP``) and ``fused_bias_geglu.py``.
    """
    h, up = model.hidden, (2 if model.gated_ffn else 1) * inner
    quantise = cast_bytes(workload)
    if software.moe_fused_mlp:
        return quantise * h * routed
    pad = 8.0 * h if workload.quantised and software.moe_dispatcher != "hybridep" else 0.0
    cast = quantise * (h + inner) + pad
    bias = 24.0 * h + 8.0 * up if model.ffn_bias else 0.0
    return (cast + bias) * routed


def weight_cast_bytes(workload: Workload, weights: Any) -> Any:
    """Bytes of casting 16-bit weights to FP8 and their transpose, once per step."""
    if not workload.quantised or workload.fp8_params:
        return 0.0
    return 4.0 * weights


def fused_softmax(model: ModelSpec, c: Any) -> Any:
    """Whether Megatron's fused scale-mask-softmax kernel applies: it takes four score matrices at a time, so
    ``heads / tp * micro-batch`` must be a multiple of 4 (Megatron-LM ``fused_softmax.py``, ``is_kernel_available``)."""
    return (model.attention.n_heads // c.tp * c.micro_batch_size) % 4 == 0


def plain_softmax_bytes(model: ModelSpec, workload: Workload, software: Software, c: Any) -> Any:
    """Bytes that separate scale, mask and softmax kernels move beyond the fused one: two more reads and writes of
    the 16-bit scores (0 where the fused kernel, or flash attention, applies)."""
    if software.attention != "unfused":
        return 0.0
    scores = c.micro_batch_size * model.attention.n_heads / c.tp * workload.seq_len * (workload.seq_len / c.cp)
    return np.where(fused_softmax(model, c), 0.0, 8.0 * scores)


def kernels_per_layer(model: ModelSpec, workload: Workload, software: Software, *, moe: bool, c: Any) -> Any:
    """Kernels launched in one layer's forward (backward launches about twice as many).

    Counted from the operator list: norms, projections, attention (one fused kernel, or batched GEMMs, scale-mask-
    softmax, dropout and transposes), residual adds, activation; TP collectives; shared experts; casts of FP8 recipes.
    Router, dispatch and routed experts are in ``parallelism.expert.sparse_host_s``. Leaves out autograd bookkeeping.
    """
    n: Any = 2 + 2 + 2 + (0 if model.learned_positions else 2)  # norms, projections, residual adds, rotary
    n += 1 if software.attention != "unfused" else 6
    n += 6 if model.attention.kind == "mla" else 0
    n += 2 if model.attention.qk_norm else 0
    n += 0 if software.fused_elementwise else 8
    if moe and "attention" in software.graphed:
        n = 2
    if software.attention == "unfused":
        n = n + np.where(fused_softmax(model, c), 0, 5)
    shared = 3 if model.moe is not None and model.moe.shared_ffn_hidden else 0
    n = n + (4 + shared if moe else 3)
    if workload.quantised:
        n = n + 10
    if workload.task == "lora":
        n = n + (8 if workload.lora_targets == "attention" else 16)
    return n + np.where(c.tp > 1, np.where(c.sequence_parallel == 1, 4, 2), 0) + np.where(c.cp > 1, c.cp, 0)
