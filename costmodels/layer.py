"""Time of one transformer layer on one rank for one micro-batch, forward and backward, in named parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..hardware_profiles.types import Cluster, Gpu
from . import ops
from .compute import attention_time_s, gemm_time_s, grouped_gemm_time_s, memory_bound_time_s
from .model_spec import ModelSpec
from .parallel import CpComm, Recompute
from .parallelism.context import cp_layer_s
from .parallelism.expert import dispatch_s, expert_load, permute_bytes, sparse_host_s
from .parallelism.tensor import TpWindows, tp_block_s
from .software import Software
from .workload import Workload


@dataclass(slots=True)
class LayerTime:
    """Seconds of one layer and micro-batch.

    Attributes:
        forward_s, backward_s, recompute_s: device time of kernels (backward without recomputation).
        host_forward_s, host_backward_s, recompute_host_s: time in which the host launches each.
        tp_forward_s ... ep_backward_s: exposed collectives; ``*_recompute_s``: those repeated by recomputation.
    """

    forward_s: Any
    backward_s: Any
    recompute_s: Any
    host_forward_s: Any
    host_backward_s: Any
    recompute_host_s: Any
    tp_forward_s: Any
    tp_backward_s: Any
    tp_recompute_s: Any
    cp_forward_s: Any
    cp_backward_s: Any
    cp_recompute_s: Any
    ep_forward_s: Any
    ep_backward_s: Any
    ep_recompute_s: Any


@dataclass(slots=True)
class _Part:
    """Device time of one part of a layer: forward, backward."""

    forward_s: Any
    backward_s: Any


def matmuls_s(gpu: Gpu, workload: Workload, software: Software, tokens: Any, matmuls: list[ops.Matmul]) -> _Part:
    """Forward GEMMs, and per GEMM its input gradient and weight gradient in backward.

    LoRA: frozen weights have no weight gradient; adapted ones add the two thin products of the adapter and their
    gradients.
    """
    kind, derate = workload.gemm_type, software.coefficient("gemm_derate")
    # adding a weight gradient to that of earlier micro-batches: read, read the sum, write it
    add = memory_bound_time_s(gpu, 2.0 + 2.0 * workload.grad_dtype_bytes, 0) if software.separate_grad_add else 0.0
    forward: Any = 0.0
    backward: Any = 0.0
    for mm in matmuls:
        forward = forward + gemm_time_s(gpu, kind, tokens, mm.n, mm.k)
        backward = backward + gemm_time_s(gpu, kind, tokens, mm.k, mm.n)
        if workload.task != "lora":
            backward = backward + gemm_time_s(gpu, kind, mm.n, mm.k, tokens) + add * mm.n * mm.k
        if ops.lora_on(workload, mm.target):
            r = workload.lora_rank
            adapter = gemm_time_s(gpu, "bf16", tokens, r, mm.k) + gemm_time_s(gpu, "bf16", tokens, mm.n, r)
            forward = forward + adapter
            backward = backward + 2 * adapter
    return _Part(forward / derate, backward / derate)


def attention_s(
    gpu: Gpu,
    model: ModelSpec,
    workload: Workload,
    software: Software,
    c: Any,
    micro: Any,
    *,
    backward: bool,
    windowed: bool | None = None,
) -> Any:
    """Core attention of one layer: with the sliding window, without, or the mean over the model's layers (None)."""
    a = model.attention
    dtype = workload.wide_gemm_type
    ulysses = c.cp_comm == CpComm.ULYSSES
    head_split = c.tp * np.where(ulysses, c.cp, 1)
    seq_q = workload.seq_len / np.where(ulysses, 1, c.cp)

    def one(window: int) -> Any:
        return attention_time_s(
            gpu,
            software.attention,
            dtype,
            batch=micro,
            seq_q=seq_q,
            seq_kv=workload.seq_len,
            n_heads=a.n_heads / head_split,
            n_kv_heads=np.maximum(a.n_kv_heads / head_split, 1),
            head_dim=a.head_dim,
            v_head_dim=a.v_head_dim,
            # context ranks hold queries spread over the whole sequence: on average half of all keys
            causal=np.where(ulysses, 1, c.cp),
            window=window,
            backward=backward,
            dropout=model.dropout,
        )

    share = a.windowed_layers / model.n_layers if windowed is None else float(windowed)
    if not a.window or a.window >= workload.seq_len:
        share = 0.0
    time = one(0) * (1 - share) + (one(a.window) * share if share else 0.0)
    return time / software.coefficient("attention_derate")


def layer_time(
    cluster: Cluster,
    model: ModelSpec,
    workload: Workload,
    software: Software,
    c: Any,
    *,
    moe: bool,
    windowed: bool | None = None,
) -> LayerTime:
    """One dense or sparse layer. ``c``: one configuration or a table; ``windowed``: see ``attention_s``."""
    gpu = cluster.gpu
    width = workload.activation_bytes
    tokens = c.micro_batch_size * workload.seq_len / c.cp
    elementwise = _elementwise(gpu, software)
    a_mm = ops.attention_matmuls(model, c.tp)
    projections = matmuls_s(gpu, workload, software, tokens, a_mm)
    core_f = attention_s(gpu, model, workload, software, c, c.micro_batch_size, backward=False, windowed=windowed)
    core_b = attention_s(gpu, model, workload, software, c, c.micro_batch_size, backward=True, windowed=windowed)
    a_bytes = ops.attention_elementwise_bytes(model, software, c, tokens, width)
    a_bytes = a_bytes + ops.plain_softmax_bytes(model, workload, software, c)
    a_cast = elementwise(ops.fp8_cast_bytes(workload, tokens, a_mm), 0)
    a_light = elementwise(a_bytes, 4)
    attention = _Part(
        projections.forward_s + core_f + a_light + a_cast,
        projections.backward_s + core_b + 1.5 * a_light + a_cast,
    )
    show = np.where(c.tp_overlap == 1, 1.0 - software.coefficient("tp_overlap"), 1.0)
    tp_f, tp_b = _tp_times(cluster, model, workload, software, c, tokens)
    tp_f, tp_b = tp_f * show, tp_b * show
    cp_f = cp_layer_s(cluster, model, tokens, width, core_f, c, backward=False)
    cp_b = cp_layer_s(cluster, model, tokens, width, core_b, c, backward=True)
    if moe:
        ffn, up_f, norm_act_f, ep_one, tp_blocks = _moe_ffn(cluster, model, workload, software, c, tokens)
    else:
        ffn, up_f, norm_act_f = _dense_ffn(gpu, model, workload, software, c, tokens, model.ffn_hidden / c.tp)
        ep_one, tp_blocks = 0.0 * tokens, 2.0
    ep_one = ep_one / software.coefficient("comm_derate")
    kernels = ops.kernels_per_layer(model, workload, software, moe=moe, c=c)
    sparse_f, sparse_b, stall = sparse_host_s(model, workload, software, c) if moe else (0.0, 0.0, 0.0)
    # every collective waits for the slowest host of its group
    skew = 1.0 + software.coefficient("tp_host_skew") * np.log2(c.tp)
    launch, per_pass = software.coefficient("launch_s") * skew, software.coefficient("layer_s") * skew
    per_backward = software.coefficient("layer_backward_s") * skew

    mask = c.recompute

    def has(bit: Recompute) -> Any:
        return (mask & int(bit)) != 0

    full = has(Recompute.FULL)
    rc_ffn = has(Recompute.FFN)
    part = np.where(has(Recompute.CORE_ATTENTION), core_f, 0.0)
    part = part + np.where(has(Recompute.NORM), norm_act_f[0], 0.0)
    part = part + np.where(has(Recompute.FFN_ACTIVATION) & ~rc_ffn, norm_act_f[1], 0.0)
    part = part + np.where(has(Recompute.MLA_UP_PROJECTION), _mla_up_s(gpu, model, workload, software, c, tokens), 0.0)
    part = part + np.where(rc_ffn, up_f + norm_act_f[1] + (ffn.forward_s - up_f if moe else 0.0), 0.0)
    gaps = kernels * software.coefficient("kernel_s")
    forward = attention.forward_s + ffn.forward_s + gaps
    if software.moe_overlap:
        # the forward of one micro-batch runs beside the backward of another: all compute of a layer can hide them
        window = 0.25 * (forward + attention.backward_s + ffn.backward_s)
        ep_one = ep_one - np.minimum(software.coefficient("ep_overlap") * ep_one, window)
    return LayerTime(
        forward_s=forward,
        backward_s=attention.backward_s + ffn.backward_s + 2.0 * gaps,
        recompute_s=np.where(full, forward, part),
        # backward launches about twice the kernels of forward; a recomputed module is one more small pass
        host_forward_s=kernels * launch + per_pass + sparse_f * skew,
        host_backward_s=2.0 * kernels * launch + per_backward + sparse_b * skew,
        recompute_host_s=np.where(full, kernels * launch + per_pass, np.where(mask > 0, 3.0 * launch, 0.0)),
        tp_forward_s=tp_blocks * tp_f,
        tp_backward_s=tp_blocks * tp_b,
        tp_recompute_s=np.where(full, tp_blocks * tp_f, 0.0),
        cp_forward_s=cp_f,
        cp_backward_s=cp_b,
        cp_recompute_s=np.where(full | has(Recompute.CORE_ATTENTION), cp_f, 0.0),
        ep_forward_s=2 * ep_one + stall,
        ep_backward_s=2 * ep_one,
        ep_recompute_s=np.where(full | (rc_ffn & moe), 2 * ep_one + stall, 0.0),
    )


def _tp_times(
    cluster: Cluster, model: ModelSpec, workload: Workload, software: Software, c: Any, tokens: Any
) -> tuple[Any, Any]:
    """Exposed TP collectives of one block, forward and backward, with what hidden traffic costs the GEMM beside it."""
    derate = software.coefficient("comm_derate")
    share = software.coefficient("tp_grad_overlap")
    if not software.tp_grad_overlap or software.launch_blocking or workload.task == "lora":
        share = 0.0
    # the block's column-parallel linear: query-key-value, as good as the up-projection
    qkv = ops.attention_matmuls(model, c.tp)[0]
    kind, rate = workload.gemm_type, software.coefficient("gemm_derate") / derate
    windows = TpWindows(
        gemm_time_s(cluster.gpu, kind, tokens, qkv.k, qkv.n) / rate,
        gemm_time_s(cluster.gpu, kind, qkv.n, qkv.k, tokens) / rate,
        share,
    )
    forward, backward, hidden = tp_block_s(cluster, model.hidden, tokens, workload.activation_bytes, c, windows)
    slow = software.coefficient("overlap_slowdown")
    wait = tp_wait_s(software, c)
    return forward / derate + wait, (backward + slow * hidden) / derate + wait


def tp_wait_s(software: Software, c: Any) -> Any:
    """Device time for which the collectives of one block and pass wait until all ranks have launched them.

    Ranks run the same kernels, but their hosts drift apart between collectives; one all-reduce, or a gather and a
    scatter with sequence parallelism. Replayed graphs and blocking launches (whose host time is charged whole) wait
    for nothing.
    """
    if software.cuda_graphs or software.launch_blocking:
        return 0.0 * c.tp
    return software.coefficient("tp_wait_s") * np.where(c.tp > 1, np.where(c.sequence_parallel == 1, 2.0, 1.0), 0.0)


def _elementwise(gpu: Gpu, software: Software) -> Callable[[Any, Any], Any]:
    derate = software.coefficient("memory_derate")

    def time_s(n_bytes: Any, kernels: Any) -> Any:
        return memory_bound_time_s(gpu, n_bytes, kernels) / derate

    return time_s


def _dense_ffn(
    gpu: Gpu, model: ModelSpec, workload: Workload, software: Software, c: Any, tokens: Any, inner: Any
) -> tuple[_Part, Any, tuple[Any, Any]]:
    """Feed-forward of per-rank width ``inner``: its time, that of the up-projection, of norm and activation."""
    elementwise = _elementwise(gpu, software)
    width = workload.activation_bytes
    mm = ops.ffn_matmuls(model, inner)
    up = matmuls_s(gpu, workload, software, tokens, mm[:1])
    down = matmuls_s(gpu, workload, software, tokens, mm[1:])
    light = elementwise(ops.ffn_elementwise_bytes(model, software, c, tokens, inner, width), 3)
    cast = elementwise(ops.fp8_cast_bytes(workload, tokens, mm), 0)
    activation = elementwise((3 if model.gated_ffn else 2) * width * tokens * inner, 1)
    norm = elementwise(2 * width * tokens * model.hidden / ops.sequence_split(c), 1)
    part = _Part(
        up.forward_s + down.forward_s + light + cast,
        up.backward_s + down.backward_s + 1.5 * light + cast,
    )
    return part, up.forward_s, (2 * norm, activation)


def _moe_ffn(
    cluster: Cluster, model: ModelSpec, workload: Workload, software: Software, c: Any, tokens: Any
) -> tuple[_Part, Any, tuple[Any, Any], Any, Any]:
    """Router, permutation, routed and shared experts; also one dispatch's time and the TP blocks of the layer."""
    gpu, moe = cluster.gpu, model.moe
    if moe is None:
        raise ValueError("a sparse layer needs a model with experts")
    elementwise = _elementwise(gpu, software)
    width = workload.activation_bytes
    load = expert_load(model, workload, tokens, c)
    per_expert = load.routed * c.ep / moe.n_experts
    mm = ops.ffn_matmuls(model, load.inner)
    experts, up_f = _experts_s(gpu, workload, software, per_expert, load.local_experts, mm)
    router = gemm_time_s(
        gpu, "bf16" if "bf16" in gpu.peak_flops else "fp16", load.entering, moe.n_experts, model.hidden
    )
    permute = elementwise(permute_bytes(software, load, model.hidden, width, c), 6)
    activation = elementwise((3 if model.gated_ffn else 2) * width * load.routed * load.inner, 1)
    split = ops.sequence_split(c)
    norm = elementwise(2 * width * tokens * model.hidden / split, 1)
    residual = elementwise(3 * width * tokens * model.hidden / split, 1)
    unfused = elementwise(
        ops.expert_unfused_bytes(model, workload, software, load.routed, load.inner),
        ops.expert_kernels(workload, software, load.local_experts),
    )
    light = permute + norm + residual + unfused + (0.0 if software.moe_fused_mlp else activation)
    part = _Part(experts.forward_s + router + light, experts.backward_s + 2 * router + 1.5 * light)
    tp_blocks: Any = 1.0
    if moe.shared_ffn_hidden:
        shared, _, _ = _dense_ffn(gpu, model, workload, software, c, tokens, moe.shared_ffn_hidden / c.tp)
        part = _Part(part.forward_s + shared.forward_s, part.backward_s + shared.backward_s)
        tp_blocks = 2.0
    # without sequence parallelism every tp rank needs all tokens back: the block's all-reduce stays
    tp_blocks = np.where(c.sequence_parallel == 1, tp_blocks, 2.0)
    ep_one = dispatch_s(cluster, model, load, width, c, software.moe_dispatcher)
    return part, up_f, (2 * norm, activation), ep_one, tp_blocks


def _experts_s(
    gpu: Gpu, workload: Workload, software: Software, per_expert: Any, local_experts: Any, mm: list[ops.Matmul]
) -> tuple[_Part, Any]:
    """Grouped GEMMs of the routed experts; also the up-projection's forward. The weight gradient contracts over the
    tokens of an expert: its inner dimension is short, and it reads the gradient that it adds to."""
    kind, derate = workload.gemm_type, software.coefficient("gemm_derate")
    grad_s = workload.grad_dtype_bytes / (gpu.hbm_bytes_per_s * gpu.memory_bound["efficiency"])
    forward: Any = 0.0
    backward: Any = 0.0
    up_f: Any = 0.0
    for one in mm:
        f = grouped_gemm_time_s(gpu, kind, per_expert, local_experts, one.n, one.k) / derate
        backward = backward + grouped_gemm_time_s(gpu, kind, per_expert, local_experts, one.k, one.n) / derate
        if workload.task != "lora":
            wgrad = grouped_gemm_time_s(gpu, kind, one.n, local_experts, one.k, per_expert) / derate
            backward = backward + wgrad + grad_s * local_experts * one.n * one.k
        forward = forward + f
        up_f = f if one is mm[0] else up_f
    return _Part(forward, backward), up_f


def _mla_up_s(gpu: Gpu, model: ModelSpec, workload: Workload, software: Software, c: Any, tokens: Any) -> Any:
    if model.attention.kind != "mla":
        return 0.0 * tokens
    ups = [m for m in ops.attention_matmuls(model, c.tp) if m.name in ("q_up", "kv_up")]
    return matmuls_s(gpu, workload, software, tokens, ups).forward_s
