"""Pass times of one configuration's pipeline, from the model's time of each kind of stage."""

from __future__ import annotations

import numpy as np

from ...hardware_profiles.types import Cluster
from ..model_spec import ModelSpec
from ..parallel import ParallelConfig, VocabParallel
from ..parallelism.balance import head_in_layers
from ..parallelism.pipeline import Stages, chunk_layer_lists, p2p_transfer_s
from ..software import Software
from ..stage_time import stage_time
from ..workload import Workload
from .pass_times import Floats, PassTimes
from .passes import PassKind


def stage_passes(
    cluster: Cluster, model: ModelSpec, workload: Workload, software: Software, config: ParallelConfig, chunks: int = 1
) -> PassTimes:
    """Seconds of one micro-batch's passes on every stage.

    A stage's time goes to its chunks by their layers; what the first and the last stage take beyond their layers
    (embedding; head and loss) falls to the first and the last chunk. Recomputation belongs to backward; exposed
    communication and waiting for launches are shared between the passes as compute is. Half of what backward computes
    without recomputation is the weight gradient. Of a vocabulary split over the stages S is a third with two barriers
    (one product of three) and two thirds with one; the embedding's share stands in them.

    Args:
        chunks: model chunks per device to deal the layers to, ``config.vp`` or what the schedule has.

    Leaves out: middle stages that differ other than by their number of layers.
    """
    times = stage_time(cluster, model, workload, software, config)
    shard = float(times.vocabulary)
    whole = times.whole() + _alike(times.forward, -shard)
    compute = times.forward + times.backward + times.recompute
    layers = _layers(model, config, chunks)
    total = _deal(whole, layers)
    forward = total * _ratio(times.forward, compute, config.pp)[:, None]
    weight = total * 0.5 * _ratio(times.backward, compute, config.pp)[:, None]
    first = shard * (1 / 3 if config.vocab_parallel == VocabParallel.TWO_BARRIERS else 2 / 3)
    shards = {PassKind.OUTPUT_S: first, PassKind.OUTPUT_T: shard - first, PassKind.OUTPUT_HEAD: shard}
    return PassTimes(forward, total - forward, weight, shards)


def _alike(stages: Stages, value: float) -> Stages:
    """The same value on every stage."""
    return stages.like(value, value, value, value)


def hop_s(cluster: Cluster, model: ModelSpec, workload: Workload, config: ParallelConfig) -> float:
    """Seconds of one activation's transfer to the next stage."""
    tokens = config.micro_batch_size * workload.seq_len / config.cp
    return float(p2p_transfer_s(cluster, model.hidden, tokens, workload.activation_bytes, config))


def _layers(model: ModelSpec, config: ParallelConfig, chunks: int) -> Floats:
    """Layers of every device and chunk, shape (pp, chunks); split evenly where the schedule has other chunks."""
    listed = chunk_layer_lists(model.n_layers, config, model.mtp_layers, head_in_layers(model))
    own = np.array(listed, dtype=np.float64).T
    if chunks == config.vp:
        return own
    return np.repeat(own.sum(axis=1, keepdims=True) / chunks, chunks, axis=1)


def _kinds(stages: Stages, pp: int) -> list[float]:
    """A quantity on every stage; middle stages alike."""
    return [float(stages.first), *[float(stages.mid)] * (pp - 2), *([float(stages.last)] if pp > 1 else [])]


def _ratio(part: Stages, whole: Stages, pp: int) -> Floats:
    ratio: Floats = np.divide(_kinds(part, pp), _kinds(whole, pp), dtype=np.float64)
    return ratio


def _deal(whole: Stages, layers: Floats) -> Floats:
    """Seconds of forward and backward per device and chunk."""
    pp, stage_layers = layers.shape[0], layers.sum(axis=1)
    first, last = float(whole.first), float(whole.last)
    if pp == 1:
        return np.asarray(layers * (first / stage_layers[0]), dtype=np.float64)
    ends = [first / max(stage_layers[0], 1.0), last / max(stage_layers[-1], 1.0)]
    per_layer = float(whole.mid) / stage_layers[1:-1].max() if pp > 2 else min(ends)
    out: Floats = layers * per_layer
    out[0, 0] += first - out[0].sum()
    out[-1, -1] += last - out[-1].sum()
    out[out < 0.0] = 0.0
    return out
