"""Memory of one device as a ledger of named tensors, on each kind of pipeline stage.

Model states by ZeRO stage, activations by operator (``activations``) times the micro-batches in flight, logits, what
the optimizer's step allocates, fixed buckets, context and what the caching allocator keeps. docs/memory.md tells
what each part counts, from where, and what is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .activations import layer_activations
from .candidates import distinct_rows
from .estimate import MemoryBreakdown
from .model_spec import ModelSpec
from .parallel import Recompute
from .parallelism.balance import head_in_layers
from .parallelism.pipeline import Stages, in_flight, moe_layers_of, stage_layers
from .parallelism.vocabulary import is_split, shard_rows
from .software import Software
from .states import bucket_bytes, gathered_parameters, model_states, update_bytes
from .workload import Workload

#: Fields that the parameters of a stage and their sharding depend on.
STATE_FIELDS = (
    "tp", "cp", "ep", "etp", "pp", "vp", "dp", "dp_shard", "zero_stage", "layer_split", "vocab_parallel", "hpz",
)  # fmt: skip
#: Fields that the layers of a stage depend on.
SPLIT_FIELDS = ("pp", "vp", "layer_split")
#: Fields that a micro-batch's activations in one layer depend on.
ACTIVATION_FIELDS = ("tp", "cp", "ep", "etp", "micro_batch_size", "recompute", "sequence_parallel")
#: Fields that a micro-batch's activations on a stage depend on.
HELD_FIELDS = (*ACTIVATION_FIELDS, *SPLIT_FIELDS, "recompute_layers", "vocab_parallel")


@dataclass(slots=True)
class StageParameters:
    """Parameters per rank on each kind of stage: dense (attention, FFN, embeddings, norms) and routed experts.

    Attributes:
        vocab: embedding and head, a part of ``dense``; largest_layer: of one layer; largest_tensor: of one weight.
    """

    dense: Stages
    expert: Stages
    largest_layer: Any
    vocab: Stages
    largest_tensor: Any


def stage_parameters(model: ModelSpec, c: Any) -> StageParameters:
    """Parameters of one rank before ZeRO sharding (weights over tp, experts over ep*etp)."""
    layers = stage_layers(model.n_layers, c, model.mtp_layers, head_in_layers(model))
    moe = moe_layers_of(model, layers, c)
    one_of = piece_parameters(model, c)
    expert_layer, mtp_expert, vocab = one_of.expert_layer, one_of.mtp_expert, one_of.vocab
    embedding, last_extra = one_of.embedding, one_of.head + one_of.mtp_dense

    def stack(n: Any, sparse: Any) -> Any:
        return (n - sparse) * one_of.dense_layer + sparse * one_of.sparse_layer

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
    zero, in_head = 0.0 * vocab, one_of.head_vocab
    in_vocab = layers.like(vocab + np.where(one, in_head, 0.0), zero, in_head + zero, zero)
    split = is_split(c)
    if np.any(split):  # a share of embedding and head on every stage instead
        shards = shard_rows(model, c, 128) * model.hidden * (1.0 if model.tied_embeddings else 2.0)
        change = layers.like(*(np.where(split, shards - whole, 0.0) for whole in (vocab, zero, in_head, zero)))
        dense, in_vocab = dense + change, in_vocab + change
    return StageParameters(dense, expert, one_of.largest_layer, in_vocab, one_of.largest_tensor)


@dataclass(slots=True)
class PieceParameters:
    """Parameters per rank of each kind of piece: dense ones (over tp) and routed experts (over ep * etp).

    Attributes:
        sparse_layer: what is no expert in a sparse layer; expert_layer: its experts.
        embedding, head: with what stands beside the vocabulary there; vocab, head_vocab: the vocabulary in each.
        mtp_dense, mtp_expert: all multi-token-prediction blocks; largest_layer, largest_tensor: of one layer, weight.
    """

    dense_layer: Any
    sparse_layer: Any
    expert_layer: Any
    embedding: Any
    head: Any
    vocab: Any
    head_vocab: Any
    mtp_dense: Any
    mtp_expert: Any
    largest_layer: Any
    largest_tensor: Any


def piece_parameters(model: ModelSpec, c: Any) -> PieceParameters:
    """Parameters of one rank in each piece of the model. On one stage tied embeddings are held once."""
    dense_layer = model.dense_layer_params / c.tp
    sparse_layer = model.moe_layer_shared_params / c.tp if model.moe else 0.0 * dense_layer
    expert_layer = model.expert_layer_params / (c.ep * c.etp)
    vocab = model.padded_vocab(c.tp) * model.hidden / c.tp
    head_vocab = np.where((c.pp == 1) & model.tied_embeddings, 0.0, vocab)
    mtp_dense, mtp_expert = _mtp_parameters(model, c)
    ffn = model.hidden * model.ffn_hidden * (2 if model.gated_ffn else 1) / c.tp
    return PieceParameters(
        dense_layer=dense_layer,
        sparse_layer=sparse_layer,
        expert_layer=expert_layer,
        embedding=vocab + model.learned_positions * model.hidden,
        head=head_vocab + model.norm_params,
        vocab=vocab,
        head_vocab=head_vocab,
        mtp_dense=mtp_dense,
        mtp_expert=mtp_expert,
        largest_layer=np.maximum(dense_layer, sparse_layer + expert_layer if model.moe else dense_layer),
        largest_tensor=np.maximum(vocab, ffn),
    )


def _mtp_parameters(model: ModelSpec, c: Any) -> tuple[Any, Any]:
    if not model.mtp_layers:
        return 0.0 * c.tp, 0.0 * c.tp
    expert = model.mtp_layers * model.expert_layer_params / (c.ep * c.etp)
    dense = (model.mtp_params - model.mtp_layers * model.expert_layer_params) / c.tp
    return dense, expert


def memory_breakdown(
    model: ModelSpec,
    workload: Workload,
    software: Software,
    c: Any,
    n_micro: Any,
    *,
    first_stage: bool = False,
    with_cached: bool = False,
) -> tuple[MemoryBreakdown, Any]:
    """Ledger of the fullest stage (or of the first, where asked) and that stage's number (0: first).

    The candidates for the fullest are the first stage (most micro-batches in flight), the second (one fewer, maybe
    more layers) and the last (logits).

    Args:
        with_cached: fullest by what a tool shows that counts cached blocks too. Where the optimizer's step sets the
            peak, stages of equal parameters peak alike, yet the first keeps the blocks of more activations.
    """
    held = _Grouped(lambda t: stage_activations(model, workload, software, t), c, HELD_FIELDS)
    states = _Grouped(lambda t: stage_states(model, workload, software, t), c, (*STATE_FIELDS, "optimizer_offload"))
    a, s = held.value, states.value
    slack, lost = software.coefficient("allocator_slack"), software.coefficient("gradient_slack")
    in_use, working_sets = _in_use(software, c, n_micro, held)
    # activations are gone when the optimizer's step allocates
    total = [
        states.full(state + lost * g) + np.maximum((1.0 + slack) * m, states.full(u))
        for state, g, m, u in zip(s.total, s.gradients, in_use, s.update, strict=True)
    ]
    if with_cached:
        kept = [_cached(software, states.full(u), m) for m, u in zip(in_use, s.update, strict=True)]
        total = [t + k for t, k in zip(total, kept, strict=True)]
    second, last = np.where(c.pp > 2, total[1], -1.0), np.where(c.pp > 1, total[2], -1.0)
    is_first = (total[0] >= second) & (total[0] >= last) | first_stage
    stage = np.where(is_first, 0, np.where(second >= last, 1, 2))

    working, logits = _at(working_sets, stage) * held.at(a.working, stage), held.at(a.logits, stage)
    moving, update, gradients = _at(in_use, stage), states.at(s.update, stage), states.at(s.gradients, stage)
    parts = ledger(
        model,
        workload,
        software,
        c,
        states=(states.at(s.weights, stage), gradients, states.at(s.optimizer, stage)),
        gathered=states.full(s.gathered) + 0.0,
        in_use=(moving, working, logits),
        update=update,
        buckets=states.full(s.buckets),
    )
    return parts, np.where(stage == 2, c.pp - 1, stage)


def ledger(
    model: ModelSpec,
    workload: Workload,
    software: Software,
    c: Any,
    *,
    states: tuple[Any, Any, Any],
    gathered: Any,
    in_use: tuple[Any, Any, Any],
    update: Any,
    buckets: Any,
) -> MemoryBreakdown:
    """The named parts of a stage's peak.

    Args:
        states: bytes of weights, gradients, optimizer; gathered, update, buckets: see ``states``.
        in_use: bytes of all activations at their peak, and of those the temporaries and the logits.
    """
    slack, lost = software.coefficient("allocator_slack"), software.coefficient("gradient_slack")
    weights, gradients, optimizer = states
    moving, working, logits = in_use
    raises = np.maximum(update - (1.0 + slack) * moving, 0.0)
    tokens = c.micro_batch_size * workload.seq_len / c.cp
    sent = tokens * model.hidden * workload.activation_bytes
    groups = (c.tp > 1) + 1.0 * (c.cp > 1) + (c.pp > 1) + (c.dp > 1) + (c.ep > 1)
    return MemoryBreakdown(
        weights_bytes=weights,
        gradients_bytes=gradients,
        optimizer_bytes=optimizer,
        gathered_bytes=gathered,
        activations_bytes=moving - working - logits,
        working_bytes=working,
        logits_bytes=logits,
        # the gathered input of a sequence-parallel block; two sends and two receives of the pipeline
        buffers_bytes=sent * (c.sequence_parallel + 4.0 * (c.pp > 1) / c.tp) + buckets + raises,
        context_bytes=software.coefficient("context_bytes") + software.coefficient("communicator_bytes") * groups,
        slack_bytes=slack * (moving + gathered) + lost * gradients,
        cached_bytes=_cached(software, update, moving),
    )


def _cached(software: Software, update: Any, in_use: Any) -> Any:
    """Blocks of the optimizer's step that stay cached: those that activations did not leave (``update_reuse``), as
    far as they do not raise the peak already."""
    raises = np.maximum(update - (1.0 + software.coefficient("allocator_slack")) * in_use, 0.0)
    return np.maximum((1.0 - software.coefficient("update_reuse")) * update - raises, 0.0)


def _in_use(software: Software, c: Any, n_micro: Any, held: _Grouped) -> tuple[list[Any], list[Any]]:
    """Bytes of activations on the first, the second and the last stage at their peak, and how many working sets each
    holds."""
    a, sets = held.value, [1.0, 1.0, 1.0]
    live = [micro_batches_held(software, c, n_micro, stage) for stage in (0, 1, c.pp - 1)]
    in_use = [
        n * held.full(per) + held.full(short) for n, per, short in zip(live, a.per_micro_batch, a.short, strict=True)
    ]
    if software.coefficient("unshared_working"):
        more = [more_working_sets(software, c, n_micro, stage) for stage in (0, 1)]
        sets[:2] = [1.0 + k for k in more]
        in_use[:2] = [m + k * held.full(w) for m, k, w in zip(in_use[:2], more, a.working[:2], strict=True)]
    return in_use, sets


def _at(stages: list[Any], stage: Any) -> Any:
    """A quantity of the first, second and last stage of every row, read at stage 0, 1 or 2 of it."""
    return np.where(stage == 0, stages[0], np.where(stage == 1, stages[1], stages[2]))


class _Grouped:
    """A cost of few fields, computed once per distinct combination and read per row, whole or at one of three stages
    (``factored`` without expanding what is not needed)."""

    __slots__ = ("inverse", "value")

    def __init__(self, cost: Callable[[Any], Any], c: Any, names: tuple[str, ...]) -> None:
        rows, self.inverse = distinct_rows(c, names)
        self.value: Any = cost(rows)

    def full(self, value: Any) -> Any:
        """One quantity for every row."""
        return value if self.inverse is None or np.ndim(value) == 0 else value[self.inverse]

    def at(self, stages: tuple[Any, Any, Any], stage: Any) -> Any:
        """A quantity of the first, second and last stage, read at stage 0, 1 or 2 of every row."""
        if self.inverse is None:
            return np.where(stage == 0, stages[0], np.where(stage == 1, stages[1], stages[2]))
        three = np.stack(np.broadcast_arrays(*stages))
        return three[stage] if three.ndim == 1 else three[stage, self.inverse]


def micro_batches_held(software: Software, c: Any, n_micro: Any, stage: Any) -> Any:
    """Micro-batches whose activations stage ``stage`` holds: the schedule's, or a static number of buffers on all
    stages but the last, and the one in use."""
    live = in_flight(c, n_micro, stage)
    slots = software.coefficient("pipeline_slots")
    return np.where(c.pp > stage + 1, slots * c.pp + 1.0, live) if slots else live


def more_working_sets(software: Software, c: Any, n_micro: Any, stage: Any) -> Any:
    """Sets of temporaries beyond one: another where forward and backward of different micro-batches do not share one
    (the last stage runs them in turn)."""
    return software.coefficient("unshared_working") * (c.pp > stage + 1) * (n_micro > 1)


def layers_of(model: ModelSpec, c: Any) -> tuple[Stages, Stages]:
    """All layers and sparse layers per kind of stage."""
    layers = stage_layers(model.n_layers, c, model.mtp_layers, head_in_layers(model))
    return layers, moe_layers_of(model, layers, c)


def recomputed_share(c: Any, n: Any) -> Any:
    """Share of a stage's ``n`` layers that recomputes: ``recompute_layers`` of them under ``FULL``, else all."""
    full = (c.recompute & int(Recompute.FULL)) != 0
    part = np.minimum(c.recompute_layers, n) / np.maximum(n, 1e-9)
    return np.where(full & (c.recompute_layers > 0), part, 1.0)


@dataclass(slots=True)
class StageActivations:
    """Bytes on the first, the second and the last stage: kept per micro-batch in flight, the widest layer's
    temporaries, logits, and the last two together."""

    per_micro_batch: tuple[Any, Any, Any]
    working: tuple[Any, Any, Any]
    logits: tuple[Any, Any, Any]
    short: tuple[Any, Any, Any]


def stage_activations(model: ModelSpec, workload: Workload, software: Software, c: Any) -> StageActivations:
    """Activations of one micro-batch on the first, the second and the last stage of each candidate."""
    layers, moe = layers_of(model, c)
    dense = layer_activations(model, workload, software, c, moe=False)
    sparse = layer_activations(model, workload, software, c, moe=True) if model.moe else dense
    full = (c.recompute & int(Recompute.FULL)) != 0
    kept, working = [], []
    for kind in ("first", "mid", "last"):
        n, m = getattr(layers, kind), getattr(moe, kind)
        share = recomputed_share(c, n) * full
        one_dense = share * dense.input + (1.0 - share) * dense.kept
        one_sparse = share * sparse.input + (1.0 - share) * sparse.kept
        embedded = dense.input if kind == "first" else 0.0
        sent = software.coefficient("pipeline_outputs") * np.where(c.pp > 1, dense.input, 0.0) * (kind != "last")
        kept.append((n - m) * one_dense + m * one_sparse + embedded + sent)
        whole = np.where(m > 0, np.maximum(sparse.whole, dense.whole * (n > m)), dense.whole)
        working.append(np.where(m > 0, sparse.temporary, dense.temporary) + np.where(share > 0, whole, 0.0))
    logits = logits_bytes(model, workload, software, c)
    one = c.pp == 1
    everywhere = is_split(c)
    on_stage = np.where(one | everywhere, logits, 0.0), np.where(everywhere, logits, 0.0), np.where(one, 0.0, logits)
    short = working[0] + on_stage[0], working[1] + on_stage[1], working[2] + on_stage[2]
    return StageActivations((kept[0], kept[1], kept[2]), (working[0], working[1], working[2]), on_stage, short)


@dataclass(slots=True)
class StageStates:
    """Weights, gradients, optimizer bytes and their sum on the first, second and last stage.

    Attributes:
        update: tensors that live during the update only; gathered: layers that ZeRO-3 holds whole;
        buckets: fixed communication buckets.
    """

    weights: tuple[Any, ...]
    gradients: tuple[Any, ...]
    optimizer: tuple[Any, ...]
    total: tuple[Any, ...]
    update: tuple[Any, ...]
    gathered: Any
    buckets: Any


def stage_states(model: ModelSpec, workload: Workload, software: Software, c: Any) -> StageStates:
    """Model states of one rank on the first, the second and the last stage of each candidate."""
    params = stage_parameters(model, c)
    total = params.dense.first + params.expert.first
    gathered = gathered_parameters(workload, software, c, total, params.largest_layer)
    kinds = ("first", "mid", "last")
    held = [(getattr(params.dense, k), getattr(params.expert, k), getattr(params.vocab, k)) for k in kinds]
    by_stage = [model_states(workload, software, c, *three) for three in held]
    update = tuple(
        update_bytes(
            workload, software, c, getattr(params.dense, kind), getattr(params.expert, kind), params.largest_tensor
        )
        for kind in kinds
    )
    weights, gradients, optimizer = zip(*by_stage, strict=True)
    buckets = bucket_bytes(software, c)
    return StageStates(weights, gradients, optimizer, tuple(sum(s) for s in by_stage), update, gathered, buckets)


def logits_bytes(model: ModelSpec, workload: Workload, software: Software, c: Any) -> Any:
    """Logits in 16 bits, their fp32 copy and its gradient at the peak of the loss; a fused loss keeps them in 16 bits
    and overwrites them with their gradient."""
    tokens = c.micro_batch_size * workload.seq_len / c.cp
    per_element = software.coefficient("logits_bytes") or (4.0 if software.fused_loss else 10.0)
    vocab = np.where(is_split(c), shard_rows(model, c, 128), model.padded_vocab(c.tp) / c.tp)
    return per_element * tokens * vocab
