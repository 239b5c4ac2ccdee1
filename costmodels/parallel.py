"""One parallel configuration, in the field's own names, and the codes of its enumerated fields.

Enumerations are integers so that a column of them is an ordinary numpy array and
``config.schedule == Schedule.ZERO_BUBBLE_V`` means the same for one plan and for a million.
Rank order is Megatron's default: tp fastest, then cp, dp, pp.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import IntEnum, IntFlag


class Schedule(IntEnum):
    """Pipeline schedules; interleaving is ``vp > 1``."""

    ONE_F_ONE_B = 0
    GPIPE = 1
    ZERO_BUBBLE_H1 = 2
    ZERO_BUBBLE_V = 3


class CpComm(IntEnum):
    """How context-parallel ranks exchange keys and values."""

    RING = 0
    ALL_GATHER = 1
    ULYSSES = 2


class Recompute(IntFlag):
    """Modules whose activations are recomputed in backward (Megatron's ``--recompute-modules``).

    ``FULL`` recomputes whole layers: ``recompute_layers`` of them on each stage (0 means all).
    """

    NONE = 0
    CORE_ATTENTION = 1
    NORM = 2
    FFN_ACTIVATION = 4
    MLA_UP_PROJECTION = 8
    FFN = 16
    FULL = 32


class LayerSplit(IntEnum):
    """How layers are dealt to stages when they do not divide evenly (see ``parallelism.pipeline``)."""

    EVEN = 0
    EMBEDDING_AND_LOSS_COUNT = 1
    LAYOUT = 2
    BALANCED = 3


class VocabParallel(IntEnum):
    """Embedding and head split over the pipeline's ranks (see ``parallelism.vocabulary``)."""

    NONE = 0
    TWO_BARRIERS = 1
    ONE_BARRIER = 2
    INTERLACED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ParallelConfig:
    """Degrees and modes of one plan; world size is ``tp * cp * pp * dp``.

    Attributes:
        tp, cp, pp, dp: tensor, context, pipeline and data parallel degrees.
        ep, etp: expert and expert-tensor degrees; ``ep * etp`` divides ``tp * cp * dp``.
        vp: model chunks per pipeline rank (1: no interleaving).
        micro_batch_size: sequences per micro-batch and data-parallel rank.
        zero_stage: 0 (DDP), 1 (distributed optimizer), 2 or 3 (FSDP full shard).
        dp_shard: ranks over which ZeRO shards (``dp * cp`` by default; smaller is HSDP).
        hpz: ranks that hold a second, 16-bit copy of the ZeRO-3 parameters between them (ZeRO++ hpZ; 0: none).
        quantized_weights, quantized_gradients: ZeRO-3 gathers 8-bit weights, reduces 4-bit gradients (qwZ, qgZ).
        recompute, recompute_layers: see ``Recompute``.
        sequence_parallel: norms and residuals split along the sequence over tp.
        overlap_grad_reduce, overlap_param_gather: ZeRO-1/2 traffic behind compute.
        tp_overlap: TP collectives pipelined with their GEMMs (userbuffers, async TP).
        optimizer_offload: optimizer states and step on the host.
        layer_split: see ``LayerSplit``; vocab_parallel: see ``VocabParallel``.
    """

    tp: int = 1
    cp: int = 1
    ep: int = 1
    etp: int = 1
    pp: int = 1
    vp: int = 1
    dp: int = 1
    micro_batch_size: int = 1
    zero_stage: int = 1
    dp_shard: int = 0
    recompute: int = Recompute.NONE
    recompute_layers: int = 0
    sequence_parallel: int = 0
    schedule: int = Schedule.ONE_F_ONE_B
    cp_comm: int = CpComm.RING
    overlap_grad_reduce: int = 1
    overlap_param_gather: int = 1
    tp_overlap: int = 0
    optimizer_offload: int = 0
    layer_split: int = LayerSplit.EVEN
    vocab_parallel: int = VocabParallel.NONE
    hpz: int = 0
    quantized_weights: int = 0
    quantized_gradients: int = 0

    def __post_init__(self) -> None:
        if self.dp_shard == 0:
            object.__setattr__(self, "dp_shard", self.dp * self.cp)

    @property
    def world_size(self) -> int:
        """GPUs of the plan."""
        return self.tp * self.cp * self.pp * self.dp


CONFIG_FIELDS: tuple[str, ...] = tuple(f.name for f in fields(ParallelConfig))


def recompute_label(mask: int, layers: int = 0) -> str:
    """Short text of a recompute mode: ``none``, ``full``, ``full/12``, ``attn+act`` ..."""
    if mask & Recompute.FULL:
        return f"full/{layers}" if layers else "full"
    names = {
        Recompute.CORE_ATTENTION: "attn",
        Recompute.NORM: "norm",
        Recompute.FFN_ACTIVATION: "act",
        Recompute.MLA_UP_PROJECTION: "mla",
        Recompute.FFN: "ffn",
    }
    return "+".join(label for bit, label in names.items() if mask & bit) or "none"
