"""What every piece of a model costs under one configuration: embedding, each layer, multi-token prediction, head.

The same formulas as ``stage_time`` and ``memory`` sum per kind of stage, kept apart per piece, so that a layout of
pieces on stages can be priced (``stage_pricing``) or chosen (``planner.solvers.partition``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..hardware_profiles.types import Cluster
from .activations import layer_activations
from .candidates import CandidateTable
from .layer import LayerTime, layer_time
from .layer_order import sparse_layers, windowed_layers
from .memory import logits_bytes, piece_parameters
from .model_spec import ModelSpec
from .parallel import ParallelConfig, Recompute
from .software import Software
from .stage_time import EMBEDDING_LAUNCHES, HEAD_LAUNCHES, embedding_time, head_time
from .states import model_states
from .workload import Workload

Floats = NDArray[np.float64]
#: Columns of every ``(n, 2)`` array: the plan's recompute mode without whole layers, and whole-layer recompute.
PARTIAL, FULL = 0, 1


class Piece(IntEnum):
    """Kinds of piece."""

    EMBEDDING = 0
    DENSE = 1
    SPARSE = 2
    MTP = 3
    HEAD = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerCosts:
    """Costs of ``n`` pieces in the order of the model: embedding, layers, multi-token-prediction blocks, head.

    Times are seconds of one micro-batch on one rank, bytes are of one rank. Arrays of shape ``(n, 2)`` have the cost
    with the plan's own recompute mode (``PARTIAL``: its modules, or nothing) and with the piece recomputed whole
    (``FULL``); embedding and head have the same in both. The head is final norm, LM head and loss; a
    multi-token-prediction block is a layer and another pass of the head.

    Attributes:
        kind, windowed: ``Piece`` and whether its attention sees a sliding window, shape ``(n,)``.
        forward_s, backward_s ``(n,)``, recompute_s ``(n, 2)``: device time of kernels.
        host_forward_s, host_backward_s ``(n,)``, recompute_host_s ``(n, 2)``: time in which the host launches a
            layer; launches ``(n,)``: of a piece that is no layer (``host_wait_s`` takes them apart).
        comm_forward_s ``(n,)``: exposed tp, cp and ep traffic of forward alone.
        tp_s, cp_s, ep_s ``(n, 2)``: exposed collectives of forward, backward and recomputation.
        dense_params, expert_params, vocab_params ``(n,)``: parameters of one rank before ZeRO; ``vocab_params`` is a
            part of ``dense_params``.
        weight_bytes, gradient_bytes, optimizer_bytes ``(n,)``: states after sharding.
        kept_bytes ``(n, 2)``: activations kept per micro-batch in flight. Multi-token-prediction blocks and the head
            count none, as in ``memory``.
        temporary_bytes, whole_bytes ``(n,)``: short-lived tensors of a layer's backward, and of a whole layer while it
            is recomputed; logits_bytes ``(n,)``: at the peak of the loss.
        boundary_bytes: the activation between two pieces; largest_layer_params, largest_tensor_params: of one rank.
    """

    kind: NDArray[np.int64]
    windowed: NDArray[np.bool_]
    forward_s: Floats
    backward_s: Floats
    recompute_s: Floats
    host_forward_s: Floats
    host_backward_s: Floats
    recompute_host_s: Floats
    launches: Floats
    comm_forward_s: Floats
    tp_s: Floats
    cp_s: Floats
    ep_s: Floats
    dense_params: Floats
    expert_params: Floats
    vocab_params: Floats
    weight_bytes: Floats
    gradient_bytes: Floats
    optimizer_bytes: Floats
    kept_bytes: Floats
    temporary_bytes: Floats
    whole_bytes: Floats
    logits_bytes: Floats
    boundary_bytes: float
    largest_layer_params: float
    largest_tensor_params: float

    @property
    def n(self) -> int:
        """Number of pieces."""
        return len(self.kind)

    @property
    def layer(self) -> NDArray[np.bool_]:
        """Which pieces are transformer layers (no multi-token prediction)."""
        found: NDArray[np.bool_] = (self.kind == Piece.DENSE) | (self.kind == Piece.SPARSE)
        return found

    @property
    def device_s(self) -> Floats:
        """Device time of a piece, both ways with recomputation and exposed collectives: ``(n, 2)``."""
        both = (self.forward_s + self.backward_s)[:, None]
        total: Floats = both + self.recompute_s + self.tp_s + self.cp_s + self.ep_s
        return total

    @property
    def state_bytes(self) -> Floats:
        """Weights, gradients and optimizer of a piece."""
        return self.weight_bytes + self.gradient_bytes + self.optimizer_bytes


def layer_costs(
    model: ModelSpec, workload: Workload, cluster: Cluster, software: Software, config: ParallelConfig
) -> LayerCosts:
    """Price every piece of a model under one configuration.

    Layers differ where the model says so: dense and sparse, full and sliding-window attention (which of them are
    which: ``layer_order``). ``config.pp``, ``vp`` and ``layer_split`` play no part but for tied embeddings, which one
    stage holds once.
    """
    sparse = np.asarray(sparse_layers(model), dtype=bool)
    narrow = np.asarray(windowed_layers(model), dtype=bool)
    block = Piece.SPARSE if model.moe is not None else Piece.DENSE
    kinds = [Piece.EMBEDDING, *np.where(sparse, Piece.SPARSE, Piece.DENSE), *[Piece.MTP] * model.mtp_layers, Piece.HEAD]
    kind = np.asarray(kinds, dtype=np.int64)
    windowed = np.concatenate([[False], narrow, np.zeros(model.mtp_layers + 1, dtype=bool)])
    # a multi-token-prediction block runs a layer of the model's main kind
    runs = np.where(kind == Piece.MTP, block, kind)
    columns: dict[str, Any] = {**_times(model, workload, cluster, software, config, runs, windowed, kind)}
    columns |= _memory(model, workload, software, config, kind)
    return LayerCosts(kind=kind, windowed=windowed, **columns)


def _times(
    model: ModelSpec,
    workload: Workload,
    cluster: Cluster,
    software: Software,
    config: ParallelConfig,
    runs: NDArray[np.int64],
    windowed: NDArray[np.bool_],
    kind: NDArray[np.int64],
) -> dict[str, Floats]:
    n = len(runs)
    one = {name: np.zeros(n) for name in ("forward_s", "backward_s", "host_forward_s", "host_backward_s", "launches")}
    one["comm_forward_s"] = np.zeros(n)
    two = {name: np.zeros((n, 2)) for name in ("recompute_s", "recompute_host_s", "tp_s", "cp_s", "ep_s")}
    modes = recompute_modes(config)
    for moe in (False, True):
        for narrow in (False, True):
            mine = (runs == (Piece.SPARSE if moe else Piece.DENSE)) & (windowed == narrow)
            if not mine.any():
                continue
            t: LayerTime = layer_time(cluster, model, workload, software, modes, moe=moe, windowed=narrow)
            for name in ("forward_s", "backward_s", "host_forward_s", "host_backward_s"):
                one[name][mine] = _first(getattr(t, name))
            one["comm_forward_s"][mine] = _first(t.tp_forward_s + t.cp_forward_s + t.ep_forward_s)
            for name in ("recompute_s", "recompute_host_s"):
                two[name][mine] = getattr(t, name)
            for axis in ("tp", "cp", "ep"):
                parts = (getattr(t, f"{axis}_{way}_s") for way in ("forward", "backward", "recompute"))
                two[f"{axis}_s"][mine] = sum(parts)
    embedding, head = kind == Piece.EMBEDDING, (kind == Piece.HEAD) | (kind == Piece.MTP)
    head_f, head_b, head_tp = head_time(cluster, model, workload, software, config)
    embed_f, embed_b = embedding_time(cluster, model, workload, config)
    one["forward_s"] += embedding * float(embed_f) + head * float(head_f)
    one["backward_s"] += embedding * float(embed_b) + head * float(head_b)
    one["launches"] += embedding * EMBEDDING_LAUNCHES + head * HEAD_LAUNCHES
    two["tp_s"] += (head * float(head_tp))[:, None]
    return one | two


def recompute_modes(config: ParallelConfig) -> CandidateTable:
    """Two rows: the configuration without whole-layer recompute, and with it on all layers."""
    partial = replace(config, recompute=int(config.recompute) & ~int(Recompute.FULL), recompute_layers=0)
    return CandidateTable.from_configs([partial, replace(config, recompute=int(Recompute.FULL), recompute_layers=0)])


def _first(value: Any) -> float:
    """A quantity that recompute does not change."""
    return float(np.ravel(value)[0])


def _memory(
    model: ModelSpec,
    workload: Workload,
    software: Software,
    config: ParallelConfig,
    kind: NDArray[np.int64],
) -> dict[str, Any]:
    n, one_of = len(kind), piece_parameters(model, config)
    dense, expert, vocab = np.zeros(n), np.zeros(n), np.zeros(n)
    dense[kind == Piece.DENSE], dense[kind == Piece.SPARSE] = one_of.dense_layer, one_of.sparse_layer
    dense[kind == Piece.EMBEDDING], dense[kind == Piece.HEAD] = one_of.embedding, one_of.head
    expert[kind == Piece.SPARSE] = one_of.expert_layer
    vocab[kind == Piece.EMBEDDING], vocab[kind == Piece.HEAD] = one_of.vocab, one_of.head_vocab
    if model.mtp_layers:
        dense[kind == Piece.MTP] = one_of.mtp_dense / model.mtp_layers
        expert[kind == Piece.MTP] = one_of.mtp_expert / model.mtp_layers
    weights, gradients, optimizer = model_states(workload, software, config, dense, expert, vocab)
    kept, temporary, whole, modes = np.zeros((n, 2)), np.zeros(n), np.zeros(n), recompute_modes(config)
    boundary = 0.0
    for moe in (False, True):
        if moe and model.moe is None:
            continue
        acts = layer_activations(model, workload, software, modes, moe=moe)
        boundary, mine = _first(acts.input), kind == (Piece.SPARSE if moe else Piece.DENSE)
        kept[mine, PARTIAL], kept[mine, FULL] = _first(acts.kept), boundary
        # a multi-token-prediction block without layers beside it takes a dense layer's room, as in ``memory``
        mine |= (kind == Piece.MTP) & (not moe)
        temporary[mine], whole[mine] = _first(acts.temporary), _first(acts.whole)
    kept[kind == Piece.EMBEDDING] = boundary
    logits = np.where(kind == Piece.HEAD, float(logits_bytes(model, workload, software, config)), 0.0)
    return {
        "dense_params": dense,
        "expert_params": expert,
        "vocab_params": vocab,
        "weight_bytes": weights + np.zeros(n),
        "gradient_bytes": gradients + np.zeros(n),
        "optimizer_bytes": optimizer + np.zeros(n),
        "kept_bytes": kept,
        "temporary_bytes": temporary,
        "whole_bytes": whole,
        "logits_bytes": logits,
        "boundary_bytes": boundary,
        "largest_layer_params": float(one_of.largest_layer),
        "largest_tensor_params": float(one_of.largest_tensor),
    }
