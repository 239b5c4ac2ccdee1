"""Pipeline parallelism: which stage holds what, transfers between stages, and what the pipeline adds to a step.

Three kinds of stage are told apart: the first (embedding), the middle ones, the last (final norm, head, loss).
With ``pp == 1`` the first stage holds everything and the others do not exist.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...hardware_profiles.types import Cluster
from ..collectives import p2p_time_s
from ..model_spec import ModelSpec
from ..parallel import LayerSplit, ParallelConfig, Schedule, VocabParallel
from .balance import balanced_last
from .vocabulary import in_flight_split


@dataclass(frozen=True, slots=True)
class Stages:
    """A quantity per kind of stage; ``mid`` is the fullest of the middle stages.

    Attributes:
        n_mid: number of middle stages; has_last: 1 where ``pp >= 2``.
        mid_mean: mean over the middle stages (sums need it where layers are uneven).
    """

    first: Any
    mid: Any
    last: Any
    mid_mean: Any
    n_mid: Any
    has_last: Any

    def busiest(self) -> Any:
        """Largest value over the stages that exist."""
        mid = np.where(self.n_mid > 0, self.mid, -np.inf)
        return np.maximum(np.maximum(self.first, mid), np.where(self.has_last > 0, self.last, -np.inf))

    def total(self) -> Any:
        """Sum over all stages."""
        return self.first + self.n_mid * self.mid_mean + self.has_last * self.last

    def at_busiest(self, by: Stages) -> Any:
        """This quantity on the stage where ``by`` is largest."""
        best = by.busiest()
        mid = np.where((by.n_mid > 0) & (by.mid >= best), self.mid, self.last)
        return np.where(by.first >= best, self.first, mid)

    def __add__(self, other: Stages) -> Stages:
        return self.like(
            self.first + other.first, self.mid + other.mid, self.last + other.last, self.mid_mean + other.mid_mean
        )

    def like(self, first: Any, mid: Any, last: Any, mid_mean: Any) -> Stages:
        """Another quantity on the same stages."""
        return Stages(first, mid, last, mid_mean, self.n_mid, self.has_last)


def stage_layers(n_layers: int, c: Any, mtp_layers: int = 0, head_layers: float = 0.0) -> Stages:
    """Transformer layers per kind of stage.

    ``EVEN``: L/pp each. ``EMBEDDING_AND_LOSS_COUNT``: embedding and loss count as a layer each
    (Megatron ``--account-for-embedding-in-pipeline-split``), so that (L+2) divides by pp*vp.
    ``LAYOUT`` (or anything that does not divide): chunks differ by at most one layer, the first and the last
    chunk being the last to get an extra one. With ``mtp_layers`` the last chunk carries them and the loss, each
    in place of a layer (Megatron-Bridge ``set_deepseek_v3_pipeline_model_parallel_layout``). ``BALANCED``: as many on
    the last stage as make the longest stage shortest where the head counts ``head_layers`` (``vp`` 1).
    """
    pp, vp = c.pp, c.vp
    n_mid = np.maximum(pp - 2, 0)
    has_last = np.where(pp >= 2, 1, 0)
    chunks = pp * vp
    base, rem = n_layers // chunks, n_layers % chunks
    counted = (c.layer_split == LayerSplit.EMBEDDING_AND_LOSS_COUNT) & (pp >= 2)
    per_counted = (n_layers + 2) / pp
    mid = vp * base + np.minimum(vp, -(-rem // pp))
    last = vp * base + np.clip((rem + 1) // pp, 0, vp - 1)
    last = np.where(pp == 1, 0, last)
    first = vp * base + np.clip(rem // pp, 0, vp - 1) + (rem == chunks - 1) * (chunks > 1)
    first = np.where(pp == 1, n_layers, np.where(pp == 2, n_layers - last, first))
    first = np.where(counted, per_counted - 1, first)
    last = np.where(counted, per_counted - 1, last)
    mid = np.where(counted, per_counted, mid)
    if mtp_layers:
        per, left = layers_per_chunk(n_layers, mtp_layers, chunks)
        fits = (c.layer_split == LayerSplit.LAYOUT) & (pp >= 2) & (per + left >= 0)
        first = np.where(fits, vp * per + np.minimum(left, 0), first)
        last = np.where(fits, (vp - 1) * per + np.maximum(left, 0), last)
        mid = np.where(fits, vp * per, mid)
    balanced = (c.layer_split == LayerSplit.BALANCED) & (pp >= 2)
    if np.any(balanced):
        tail = balanced_last(n_layers, pp, head_layers)
        others = np.maximum(pp - 1, 1)
        last = np.where(balanced, tail, last)
        first = np.where(balanced, (n_layers - tail) // others, first)
        mid = np.where(balanced, -(-(n_layers - tail) // others), mid)
    mid_mean = (n_layers - first - last) / np.maximum(n_mid, 1)
    return Stages(first, mid, last, np.where(n_mid > 0, mid_mean, 0.0), n_mid, has_last)


def layers_per_chunk(n_layers: int, mtp_layers: int, chunks: Any) -> tuple[Any, Any]:
    """Layers of a full chunk, and what remains for the last one (negative: the first chunk gives that many up)."""
    per = -(-(n_layers + mtp_layers + 1) // chunks)
    return per, n_layers - per * (chunks - 1)


def stage_layer_list(
    n_layers: int, c: ParallelConfig, mtp_layers: int = 0, head_layers: float = 0.0
) -> tuple[int, ...]:
    """Layers of every stage of one configuration, in pipeline order; sums to ``n_layers``."""
    lists = chunk_layer_lists(n_layers, c, mtp_layers, head_layers)
    return tuple(sum(chunk[s] for chunk in lists) for s in range(c.pp))


def chunk_layer_lists(
    n_layers: int, c: ParallelConfig, mtp_layers: int = 0, head_layers: float = 0.0
) -> tuple[tuple[int, ...], ...]:
    """Layers of every model chunk: ``result[v][stage]``, the order in which a micro-batch meets them."""
    pp, vp = c.pp, c.vp
    if c.layer_split == LayerSplit.BALANCED and pp >= 2:
        last = int(balanced_last(n_layers, pp, head_layers))
        each, more = divmod(n_layers - last, pp - 1)
        return ((*[each] * (pp - 1 - more), *[each + 1] * more, last),)
    chunks = pp * vp
    per, left = layers_per_chunk(n_layers, mtp_layers, chunks)
    if mtp_layers and c.layer_split == LayerSplit.LAYOUT and pp >= 2 and per + left >= 0:
        flat = [per] * chunks
        flat[0] += min(left, 0)
        flat[-1] = max(left, 0)
    elif c.layer_split == LayerSplit.EMBEDDING_AND_LOSS_COUNT and pp >= 2:
        flat = [(n_layers + 2) // chunks] * chunks
        flat[0] -= 1
        flat[-1] -= 1
    else:
        base, rem = divmod(n_layers, chunks)
        flat = [base] * chunks
        order = [i for i in range(chunks) if i not in (0, chunks - 1)] + [0, chunks - 1]
        for i in order[:rem]:
            flat[i] += 1
    return tuple(tuple(flat[v * pp : (v + 1) * pp]) for v in range(vp))


def nearly_equal_chunks(n_layers: int, pp: int, vp: int, mtp_layers: int = 0) -> bool:
    """Whether the chunks of a layout differ little (one layer in five or more), or at the ends of the model only.

    Long chunks among short ones keep the whole pipeline waiting (``schedules.chunk_waiting``).
    """
    config = ParallelConfig(pp=pp, vp=vp, layer_split=int(LayerSplit.LAYOUT))
    flat = [n for row in chunk_layer_lists(n_layers, config, mtp_layers) for n in row]
    return n_layers // (pp * vp) >= 4 or len(set(flat[1:-1])) <= 1


def moe_layers_of(model: ModelSpec, layers: Stages, c: Any) -> Stages:
    """Sparse layers per kind of stage; dense layers of ``dense_first`` models fill the first chunks."""
    if model.moe is None:
        zero = layers.first * 0
        return layers.like(zero, zero, zero, zero)
    share = model.n_moe_layers / model.n_layers
    if not model.moe.dense_first or model.n_dense_layers == 0:
        return layers.like(layers.first * share, layers.mid * share, layers.last * share, layers.mid_mean * share)
    dense = model.n_dense_layers
    chunk = np.maximum(layers.first / c.vp, 0)
    first_dense = np.where(c.pp == 1, dense, np.minimum(dense, chunk))
    mid_dense_total = dense - first_dense
    last_dense = np.where(c.pp == 2, mid_dense_total, 0)
    mid_dense_mean = (mid_dense_total - last_dense) / np.maximum(layers.n_mid, 1)
    # the fullest middle stage holds no dense layers once there are two or more of them
    mid_moe = np.where(layers.n_mid > 1, layers.mid, layers.mid - mid_dense_mean)
    return layers.like(
        layers.first - first_dense, mid_moe, np.maximum(layers.last - last_dense, 0), layers.mid_mean - mid_dense_mean
    )


def p2p_transfer_s(cluster: Cluster, hidden: int, tokens: Any, element_bytes: float, c: Any) -> Any:
    """One activation sent to the next stage: ``tokens x hidden``, split over tp (scatter-gather or SP)."""
    n_bytes = tokens * hidden * element_bytes / c.tp
    return np.where(c.pp > 1, p2p_time_s(cluster, n_bytes, c.tp * c.cp * c.dp, c.pp), 0.0)


def in_flight(c: Any, n_micro: Any, stage: Any) -> Any:
    """Micro-batches (in units of the stage's whole layer stack) whose activations stage ``stage`` holds at once.

    1F1B: ``pp - stage``. Interleaved: ``pp + (pp - 1)/vp`` on the first stage (Korthikanti et al., arXiv
    2205.05198, section 4.2.3: factor 1 + (p-1)/(p v)). GPipe: all. ZB-H1: as 1F1B; ZB-V: ``pp`` everywhere
    (arXiv 2401.10241). A split vocabulary holds more (``vocabulary.in_flight_split``).
    """
    warm = (c.pp - stage - 1.0) * np.where(c.vp > 1, 2.0, 1.0) + (c.vp - 1.0) * c.pp
    chunks = np.minimum(warm + 1, n_micro * c.vp)
    n = chunks / c.vp
    n = np.where(c.schedule == Schedule.GPIPE, n_micro, n)
    n = np.where(c.schedule == Schedule.ZERO_BUBBLE_V, np.minimum(c.pp, n_micro), n)
    return np.where(c.vocab_parallel == VocabParallel.NONE, n, np.minimum(in_flight_split(c, stage), n_micro))
