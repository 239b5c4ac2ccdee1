"""Memory of one device as a ledger of named tensors, on each kind of pipeline stage.

Activation bytes follow the operators (what each saves for backward). For GPT layers without flash attention they
reduce to Korthikanti et al., arXiv 2205.05198, Table 2: ``sbh(34 + 5as/h)`` without parallelism and
``sbh/t (34 + 5as/h)`` with tensor and sequence parallelism.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .candidates import factored
from .estimate import MemoryBreakdown
from .model_spec import ModelSpec
from .parallel import Recompute
from .parallelism.data import dense_group, expert_group
from .parallelism.expert import expert_load
from .parallelism.pipeline import Stages, in_flight, moe_layers_of, stage_layers
from .software import Software
from .workload import OPTIMIZER_BYTES, Workload

#: Fields that the parameters of a stage and their sharding depend on.
STATE_FIELDS = ("tp", "cp", "ep", "etp", "pp", "vp", "dp", "dp_shard", "zero_stage", "layer_split")
#: Fields that the layers of a stage depend on.
SPLIT_FIELDS = ("pp", "vp", "layer_split")
#: Fields that a micro-batch's activations in one layer depend on.
ACTIVATION_FIELDS = ("tp", "cp", "ep", "etp", "micro_batch_size", "recompute", "sequence_parallel")
#: Fields that a micro-batch's activations on a stage depend on.
HELD_FIELDS = (*ACTIVATION_FIELDS, *SPLIT_FIELDS, "recompute_layers")


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
    sp = np.where(c.sequence_parallel == 1, c.tp, 1)
    x = tokens * h * w / sp
    mask = c.recompute

    def keep(bit: Recompute, n: Any) -> Any:
        return np.where((mask & int(bit)) != 0, 0.0, n)

    norm_out = 2 * x
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


@dataclass(slots=True)
class StageParameters:
    """Parameters per rank on each kind of stage: dense (attention, FFN, embeddings, norms) and routed experts."""

    dense: Stages
    expert: Stages
    largest_layer: Any


def stage_parameters(model: ModelSpec, c: Any) -> StageParameters:
    """Parameters of one rank before ZeRO sharding (weights over tp, experts over ep*etp)."""
    layers = stage_layers(model.n_layers, c)
    moe = moe_layers_of(model, layers, c)
    dense_layer = model.dense_layer_params / c.tp
    sparse_layer = model.moe_layer_shared_params / c.tp if model.moe else 0.0 * dense_layer
    expert_layer = model.expert_layer_params / (c.ep * c.etp)
    vocab = model.padded_vocab(c.tp) * model.hidden / c.tp
    embedding = vocab + model.learned_positions * model.hidden
    head = np.where((c.pp == 1) & model.tied_embeddings, 0.0, vocab) + model.norm_params
    mtp_dense, mtp_expert = _mtp_parameters(model, c)
    last_extra = head + mtp_dense

    def stack(n: Any, sparse: Any) -> Any:
        return (n - sparse) * dense_layer + sparse * sparse_layer

    one = c.pp == 1
    dense = layers.like(
        stack(layers.first, moe.first) + embedding + np.where(one, last_extra, 0.0),
        stack(layers.mid, moe.mid),
        stack(layers.last, moe.last) + last_extra,
        stack(layers.mid_mean, moe.mid_mean),
    )
    expert = layers.like(
        moe.first * expert_layer + np.where(one, mtp_expert, 0.0),
        moe.mid * expert_layer,
        moe.last * expert_layer + mtp_expert,
        moe.mid_mean * expert_layer,
    )
    largest = np.maximum(dense_layer, sparse_layer + expert_layer if model.moe else dense_layer)
    return StageParameters(dense, expert, largest)


def _mtp_parameters(model: ModelSpec, c: Any) -> tuple[Any, Any]:
    if not model.mtp_layers:
        return 0.0 * c.tp, 0.0 * c.tp
    expert = model.mtp_layers * model.expert_layer_params / (c.ep * c.etp)
    dense = (model.mtp_params - model.mtp_layers * model.expert_layer_params) / c.tp
    return dense, expert


def memory_breakdown(
    model: ModelSpec, workload: Workload, software: Software, c: Any, n_micro: Any
) -> tuple[MemoryBreakdown, Any]:
    """Ledger of the fullest stage and that stage's number (0: first).

    The candidates for the fullest are the first stage (most micro-batches in flight), the second (one fewer, maybe
    more layers) and the last (logits).
    """
    held: StageActivations = factored(lambda t: _stage_activations(model, workload, software, t), c, HELD_FIELDS)
    states: StageStates = factored(lambda t: _stage_states(model, workload, t), c, (*STATE_FIELDS, "optimizer_offload"))
    slack = software.coefficient("allocator_slack")
    live = [in_flight(c, n_micro, stage) for stage in (0, 1, c.pp - 1)]
    moving = [n * a + w for n, a, w in zip(live, held.per_micro_batch, held.working, strict=True)]
    total = [
        state + (1.0 + slack) * (m + logits) for state, m, logits in zip(states.total, moving, held.logits, strict=True)
    ]
    second, last = np.where(c.pp > 2, total[1], -1.0), np.where(c.pp > 1, total[2], -1.0)
    is_first = (total[0] >= second) & (total[0] >= last)
    is_second = ~is_first & (second >= last)

    def fullest(parts: Any) -> Any:
        return np.where(is_first, parts[0], np.where(is_second, parts[1], parts[2]))

    working, logits = fullest(held.working), fullest(held.logits)
    activations = fullest(moving) - working
    tokens = c.micro_batch_size * workload.seq_len / c.cp
    sent = tokens * model.hidden * workload.activation_bytes
    return MemoryBreakdown(
        weights_bytes=fullest(states.weights),
        gradients_bytes=fullest(states.gradients),
        optimizer_bytes=fullest(states.optimizer),
        gathered_bytes=states.gathered + 0.0,
        activations_bytes=activations,
        working_bytes=working,
        logits_bytes=logits,
        # the gathered input of a sequence-parallel block; two sends and two receives of the pipeline
        buffers_bytes=sent * (c.sequence_parallel + 4.0 * (c.pp > 1) / c.tp),
        context_bytes=software.coefficient("context_bytes") + 0.0 * tokens,
        slack_bytes=slack * (activations + working + logits + states.gathered),
    ), np.where(is_first, 0, np.where(is_second, 1, c.pp - 1))


def layers_of(model: ModelSpec, c: Any) -> tuple[Stages, Stages]:
    """All layers and sparse layers per kind of stage."""
    layers = stage_layers(model.n_layers, c)
    return layers, moe_layers_of(model, layers, c)


@dataclass(slots=True)
class StageActivations:
    """Bytes on the first, the second and the last stage: kept per micro-batch in flight, short-lived, logits."""

    per_micro_batch: tuple[Any, Any, Any]
    working: tuple[Any, Any, Any]
    logits: tuple[Any, Any, Any]


def _stage_activations(model: ModelSpec, workload: Workload, software: Software, c: Any) -> StageActivations:
    layers, moe = layers_of(model, c)
    dense = layer_activations(model, workload, software, c, moe=False)
    sparse = layer_activations(model, workload, software, c, moe=True) if model.moe else dense
    full = (c.recompute & int(Recompute.FULL)) != 0
    kept, working = [], []
    for kind in ("first", "mid", "last"):
        n, m = getattr(layers, kind), getattr(moe, kind)
        some = np.minimum(c.recompute_layers, n) / np.maximum(n, 1e-9)
        share = np.where(c.recompute_layers == 0, 1.0, some) * full
        one_dense = share * dense.input + (1.0 - share) * dense.kept
        one_sparse = share * sparse.input + (1.0 - share) * sparse.kept
        embedded = dense.input if kind == "first" else 0.0
        kept.append((n - m) * one_dense + m * one_sparse + embedded)
        whole = np.where(m > 0, np.maximum(sparse.whole, dense.whole * (n > m)), dense.whole)
        working.append(np.where(m > 0, sparse.temporary, dense.temporary) + np.where(share > 0, whole, 0.0))
    logits = _logits_bytes(model, workload, software, c)
    one = c.pp == 1
    on_stage = np.where(one, logits, 0.0), 0.0 * logits, np.where(one, 0.0, logits)
    return StageActivations((kept[0], kept[1], kept[2]), (working[0], working[1], working[2]), on_stage)


@dataclass(slots=True)
class StageStates:
    """Weights, gradients, optimizer bytes and their sum on the first, second and last stage; ``gathered`` by ZeRO-3."""

    weights: tuple[Any, ...]
    gradients: tuple[Any, ...]
    optimizer: tuple[Any, ...]
    total: tuple[Any, ...]
    gathered: Any


def _stage_states(model: ModelSpec, workload: Workload, c: Any) -> StageStates:
    params = stage_parameters(model, c)
    # ZeRO-3 prefetches one layer beyond the one in use, and holds a layer's unsharded gradients
    gathered = np.where(c.zero_stage == 3, params.largest_layer * (2 * 2.0 + workload.grad_dtype_bytes), 0.0)
    by_stage = [
        _model_states(workload, c, getattr(params.dense, kind), getattr(params.expert, kind))
        for kind in ("first", "mid", "last")
    ]
    weights, gradients, optimizer = zip(*by_stage, strict=True)
    return StageStates(weights, gradients, optimizer, tuple(sum(s) for s in by_stage), gathered)


def _model_states(workload: Workload, c: Any, dense: Any, expert: Any) -> tuple[Any, Any, Any]:
    """Weights, gradients and optimizer bytes after ZeRO sharding.

    ZeRO-1 shards the optimizer, ZeRO-2 gradients too, ZeRO-3 weights too (arXiv 1910.02054). LoRA keeps gradients
    and optimizer for the adapters only (neglected here: below 1% of the weights).
    """
    d, e = dense_group(c), expert_group(c)
    dense_shard, expert_shard = np.maximum(d.shard, 1), np.maximum(e.shard, 1)
    weight_bytes = 1.0 if workload.fp8_params else (4.0 if workload.precision in ("fp32", "tf32") else 2.0)
    trained = 0.0 if workload.task == "lora" else 1.0

    def sharded(threshold: int) -> Any:
        return np.where(c.zero_stage >= threshold, dense / dense_shard + expert / expert_shard, dense + expert)

    weights = weight_bytes * sharded(3)
    gradients = trained * workload.grad_dtype_bytes * sharded(2)
    optimizer = trained * OPTIMIZER_BYTES[workload.optimizer] * sharded(1)
    return weights, gradients, np.where(c.optimizer_offload == 1, 0.0, optimizer)


def _logits_bytes(model: ModelSpec, workload: Workload, software: Software, c: Any) -> Any:
    """Logits in 16 bits, their fp32 copy and its gradient at the peak of the loss; a fused loss keeps them in 16 bits
    and overwrites them with their gradient."""
    tokens = c.micro_batch_size * workload.seq_len / c.cp
    per_element = 4.0 if software.fused_loss else 10.0
    vocab = model.padded_vocab(c.tp) / c.tp
    return per_element * tokens * vocab
