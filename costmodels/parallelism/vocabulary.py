"""Vocabulary parallelism: embedding and head split over the pipeline's ranks (Yeung et al., arXiv 2411.05288).

Every stage computes 1/p of the logits in passes between its layers' passes, so that the last stage no longer waits for
a whole head. S (local logits and their statistics) needs the last layer's output on every rank, T (gradients) the
statistics of all ranks. With two barriers the input gradient is reduced after T; with one, S computes it before it is
normalised and it is reduced with the statistics. ``INTERLACED`` runs the head as one synchronous tensor-parallel
operation of all ranks per micro-batch.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...hardware_profiles.types import Cluster
from ..collectives import collective_time_s
from ..model_spec import ModelSpec
from ..parallel import VocabParallel
from ..software import Software
from ..workload import Workload

#: Fields that the traffic of a split vocabulary depends on.
TRAFFIC_FIELDS = ("tp", "cp", "pp", "micro_batch_size", "vocab_parallel")


def is_split(c: Any) -> Any:
    """Where the vocabulary is split over the pipeline."""
    return (c.vocab_parallel != VocabParallel.NONE) & (c.pp > 1)


def shard_rows(model: ModelSpec, c: Any, multiple: int) -> Any:
    """Rows of the vocabulary on one rank: of tp * pp ranks, padded to twice their number, or over tp alone."""
    alone = model.rank_vocab(c.tp, multiple)
    ranks = c.tp * c.pp
    return np.where(is_split(c), -(-model.vocab // (2 * ranks)) * 2, alone)


def barriers(c: Any) -> Any:
    """Barriers between the last layer's forward and its backward."""
    one = 1.0 * (c.vocab_parallel == VocabParallel.ONE_BARRIER)
    return np.where(is_split(c), 2.0 * (c.vocab_parallel == VocabParallel.TWO_BARRIERS) + one, 0.0)


def in_flight_split(c: Any, stage: Any) -> Any:
    """Micro-batches that stage ``stage`` holds: 1F1B's and one for each barrier; 1.5 p on the first where interlaced.

    ``1 + k + ceil(k / 2)`` with k stages behind: backward moves one stage per interval, forward two. The simulator
    holds the same (tests/costmodels/schedules).
    """
    behind = c.pp - 1 - stage
    interlaced = 1 + behind + (behind + 1) // 2
    return np.where(c.vocab_parallel == VocabParallel.INTERLACED, interlaced, behind + 1 + barriers(c))


def bubble_change_s(c: Any, vocabulary_s: Any, layers_s: Any) -> Any:
    """What a split vocabulary changes of 1F1B's bubble.

    Its passes fill and drain nothing: while the pipeline fills they have no work yet, so that ``(p - 1)`` of them leave
    the bubble of a stage that counts them: exact where interlaced. Each barrier puts off the first backward by about
    half of what a stage's layers take; the simulator's makespans lie within 2.5% of that where a step has four rounds
    of micro-batches or more (worst of 4,000 random ones 2.34%, four stages; tests/costmodels/test_vocabulary.py).

    Args:
        vocabulary_s, layers_s: of one micro-batch on a stage, both ways.
    """
    return np.where(is_split(c), barriers(c) * 0.5 * layers_s - (c.pp - 1) * vocabulary_s, 0.0)


def traffic_s(cluster: Cluster, model: ModelSpec, workload: Workload, software: Software, c: Any) -> Any:
    """Collectives of a split vocabulary that show, seconds of one micro-batch.

    Over all p ranks: the last layer's output to all (broadcast), three statistics per token (all-reduce), the input
    gradient (all-reduce), the embedding's output (all-reduce) and its gradient (broadcast). Interlaced they stand
    between passes; else they run beside passes and slow them down by ``overlap_slowdown`` of their time.
    """
    if not np.any(is_split(c)):
        return 0.0
    tokens = c.micro_batch_size * workload.seq_len / c.cp
    stride = np.maximum(cluster.n_gpus // c.pp, 1)  # tp * cp * dp
    whole = tokens * model.hidden * workload.activation_bytes

    def over_all(op: str, n_bytes: Any) -> Any:
        return collective_time_s(cluster, op, n_bytes, c.pp, stride)

    each = 2.0 * over_all("broadcast", whole) + 2.0 * over_all("all_reduce", whole)
    total = (each + 3.0 * over_all("all_reduce", 4.0 * tokens)) / software.coefficient("comm_derate")
    shown = np.where(c.vocab_parallel == VocabParallel.INTERLACED, 1.0, software.coefficient("overlap_slowdown"))
    return np.where(is_split(c), shown * total, 0.0)


def rescaling_bytes(c: Any, tokens: Any, hidden: int, rows: Any) -> Any:
    """Memory traffic of putting local results right once the statistics of all ranks are known.

    T scales the local softmax in fp32 (8 bytes of each local logit). With one barrier S has computed the input gradient
    before: it is scaled by each token's sum, and the row of each token's label taken from it (two reads and two writes
    of tokens x hidden in fp32). Interlaced ranks wait for the statistics instead.
    """
    apart = is_split(c) & (c.vocab_parallel != VocabParallel.INTERLACED)
    one = is_split(c) & (c.vocab_parallel == VocabParallel.ONE_BARRIER)
    return np.where(apart, 8.0 * tokens * rows, 0.0) + np.where(one, 16.0 * tokens * hidden, 0.0)


def embedding_gradient_bytes(c: Any, hidden: int, rows: Any) -> Any:
    """Memory traffic of a shard's dense weight gradient in every micro-batch: zeros written in 16 bits, read, and added
    to the fp32 gradient (12 bytes of each of the shard's weights). Where the vocabulary is not split the cost model
    counts no such pass, as its coefficients were fitted without it."""
    return np.where(is_split(c), 12.0 * rows * hidden, 0.0)
