"""Time of one micro-batch on each kind of pipeline stage: layers, embedding, head, loss, waiting for launches."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

import numpy as np

from ..hardware_profiles.types import Cluster
from .candidates import factored
from .compute import alignment_rate, gemm_time_s, memory_bound_time_s
from .layer import LayerTime, layer_time
from .memory import SPLIT_FIELDS, layers_of, recomputed_share
from .model_spec import ModelSpec
from .parallelism.pipeline import Stages
from .parallelism.tensor import NO_OVERLAP, tp_block_s
from .parallelism.vocabulary import (
    TRAFFIC_FIELDS,
    embedding_gradient_bytes,
    is_split,
    rescaling_bytes,
    shard_rows,
    traffic_s,
)
from .software import Software
from .workload import Workload

#: Fields that the time of one layer depends on.
LAYER_FIELDS = ("tp", "cp", "ep", "etp", "micro_batch_size", "recompute", "sequence_parallel", "cp_comm", "tp_overlap")
#: Fields that the time of a whole stage depends on.
STAGE_FIELDS = (*LAYER_FIELDS, *SPLIT_FIELDS, "recompute_layers", "vocab_parallel")
#: Launches that the embedding adds to a micro-batch, and head and loss with their gradients (a third in forward).
EMBEDDING_LAUNCHES, HEAD_LAUNCHES = 20.0, 40.0


@dataclass(slots=True)
class BusiestStage:
    """Seconds of one micro-batch on the busiest stage, by part, and on all stages together.

    Attributes:
        whole: all parts on the busiest stage; pipeline: the same summed over the stages.
        vocabulary: of ``whole`` what a vocabulary split over the stages takes on each of them.
    """

    forward: Any
    backward: Any
    recompute: Any
    host: Any
    tp: Any
    cp: Any
    ep: Any
    whole: Any
    pipeline: Any
    vocabulary: Any = 0.0


@dataclass(slots=True)
class StageTime:
    """Seconds of one micro-batch per kind of stage, by part of ``TimeBreakdown``.

    Attributes:
        vocabulary: see ``BusiestStage``.
    """

    forward: Stages
    backward: Stages
    recompute: Stages
    host: Stages
    tp: Stages
    cp: Stages
    ep: Stages
    vocabulary: Any = 0.0

    def whole(self) -> Stages:
        """All parts together."""
        parts = (self.forward, self.backward, self.recompute, self.host, self.tp, self.cp, self.ep)
        return reduce(add, parts)

    def busiest(self) -> BusiestStage:
        """The stage that sets the pace."""
        whole = self.whole()
        return BusiestStage(
            forward=self.forward.at_busiest(whole),
            backward=self.backward.at_busiest(whole),
            recompute=self.recompute.at_busiest(whole),
            host=self.host.at_busiest(whole),
            tp=self.tp.at_busiest(whole),
            cp=self.cp.at_busiest(whole),
            ep=self.ep.at_busiest(whole),
            whole=whole.busiest(),
            pipeline=whole.total(),
            vocabulary=self.vocabulary,
        )


def stage_time(cluster: Cluster, model: ModelSpec, workload: Workload, software: Software, c: Any) -> StageTime:
    """Compose layers into stages; ``c`` is one configuration or a table."""
    dense: LayerTime = factored(lambda t: layer_time(cluster, model, workload, software, t, moe=False), c, LAYER_FIELDS)
    sparse = dense
    if model.moe is not None:
        sparse = factored(lambda t: layer_time(cluster, model, workload, software, t, moe=True), c, LAYER_FIELDS)
    layers: Stages
    moe: Stages
    layers, moe = factored(lambda t: layers_of(model, t), c, SPLIT_FIELDS)
    head_f, head_b, head_tp = factored(
        lambda t: head_time(cluster, model, workload, software, t),
        c,
        ("tp", "cp", "pp", "micro_batch_size", "sequence_parallel", "vocab_parallel"),
    )
    embed_f, embed_b = factored(
        lambda t: embedding_time(cluster, model, workload, t),
        c,
        ("tp", "cp", "pp", "micro_batch_size", "vocab_parallel"),
    )
    one, split = c.pp == 1, is_split(c)
    splits = bool(np.any(split))
    shared_tp = factored(lambda t: traffic_s(cluster, model, workload, software, t), c, TRAFFIC_FIELDS)
    # multi-token prediction: one more block and head pass per extra layer on the last stage
    extra = float(model.mtp_layers)
    redo = layers.like(
        recomputed_share(c, layers.first),
        recomputed_share(c, layers.mid),
        recomputed_share(c, layers.last),
        recomputed_share(c, layers.mid_mean),
    )

    def stack(name: str, first: Any = 0.0, last: Any = 0.0, share: Stages | None = None, every: Any = 0.0) -> Stages:
        d, s = getattr(dense, name), getattr(sparse, name)

        def on(n: Any, m: Any, r: Any) -> Any:
            return ((n - m) * d + m * s) * r

        r = share or layers.like(1.0, 1.0, 1.0, 1.0)
        # a split vocabulary: every stage looks all tokens up in its rows, and computes its share of the head
        if splits:
            every = every + np.where(split, first + last, 0.0)
            first, last = np.where(split, 0.0, first), np.where(split, 0.0, last)
        tail = last + extra * s * np.where(one, r.first, r.last)
        return layers.like(
            on(layers.first, moe.first, r.first) + first + np.where(one, tail, 0.0) + every,
            on(layers.mid, moe.mid, r.mid) + every,
            on(layers.last, moe.last, r.last) + tail + every,
            on(layers.mid_mean, moe.mid_mean, r.mid_mean) + every,
        )

    heads = 1.0 + extra
    forward = stack("forward_s", embed_f, heads * head_f)
    backward = stack("backward_s", embed_b, heads * head_b)
    recompute = stack("recompute_s", share=redo)
    shown = heads * shared_tp
    tp = stack("tp_forward_s") + stack("tp_backward_s", last=heads * head_tp, every=shown)
    tp = tp + stack("tp_recompute_s", share=redo)
    cp = stack("cp_forward_s") + stack("cp_backward_s") + stack("cp_recompute_s", share=redo)
    ep = stack("ep_forward_s") + stack("ep_backward_s") + stack("ep_recompute_s", share=redo)
    ahead = forward + stack("tp_forward_s") + stack("cp_forward_s") + stack("ep_forward_s")
    device = forward + backward + recompute + tp + cp + ep
    launches = stack("host_forward_s"), stack("host_backward_s") + stack("recompute_host_s", share=redo)
    host = _host_wait(software, c, layers, launches, ahead, device, heads)
    vocabulary: Any = 0.0
    if splits:
        vocabulary = np.where(split, embed_f + embed_b + heads * (head_f + head_b + head_tp) + shown, 0.0)
    return StageTime(forward, backward, recompute, host, tp, cp, ep, vocabulary)


def host_wait_s(software: Software, host_forward: Any, host_backward: Any, ahead: Any, device: Any, extra: Any) -> Any:
    """Time by which launching a stage's kernels exceeds running them, plus the host time of a micro-batch.

    A micro-batch begins with an empty queue: its inputs are copied from pageable memory, which waits for the device.
    From then on the host runs ahead where it can, so that the micro-batch takes the longer of all launches and all
    kernels. A forward that waits for its host leaves nothing queued for backward to begin with: were backward to make
    up nothing of that, launches of forward and kernels of backward would add up; ``host_drain`` is the share of that
    which shows. With blocking launches host and device add up.

    Args:
        host_forward, host_backward: host time of a stage's layers in forward, and in backward with recomputation.
        ahead: device time of forward; device: of both ways; extra: launches of embedding and head.
    """
    if software.cuda_graphs:
        return 0.0 * device
    launch, base = software.coefficient("launch_s"), software.coefficient("microbatch_s")
    host = host_forward + host_backward + extra * launch
    then = host_forward + extra * launch / 3.0 + (device - ahead)
    longest = np.maximum(host, device)
    longest = longest + software.coefficient("host_drain") * np.maximum(then - longest, 0.0) - device
    return (host if software.launch_blocking else longest) + base


def _host_wait(
    software: Software,
    c: Any,
    layers: Stages,
    launches: tuple[Stages, Stages],
    forward: Stages,
    device: Stages,
    heads: float,
) -> Stages:
    """``host_wait_s`` of every kind of stage.

    Args:
        launches: host time of forward, and of backward with recomputation; forward: device time of forward.
        device: device time of both ways.
    """
    one = c.pp == 1
    host_f, host_b = launches

    def wait(*parts: Any) -> Any:
        return host_wait_s(software, *parts)

    head = HEAD_LAUNCHES * heads
    extra = layers.like(EMBEDDING_LAUNCHES + np.where(one, head, 0.0), 0.0, head, 0.0)
    split = is_split(c)
    if np.any(split):
        both = EMBEDDING_LAUNCHES + head
        extra = layers.like(*(np.where(split, both, n) for n in (extra.first, extra.mid, extra.last, extra.mid_mean)))
    parts = (host_f, host_b, forward, device, extra)
    return layers.like(
        wait(*(part.first for part in parts)),
        wait(*(part.mid for part in parts)),
        wait(*(part.last for part in parts)),
        wait(*(part.mid_mean for part in parts)),
    )


def head_time(cluster: Cluster, model: ModelSpec, workload: Workload, software: Software, c: Any) -> Any:
    """Final norm, LM head and loss: forward, backward, TP traffic of both ways.

    Its traffic is what a block sends in backward: the input gathered in forward and again for the weight gradient,
    its gradient reduced; the logits stay split, so that forward reduces nothing.
    The head runs in 16 bits under FP8 recipes. The vocabulary-parallel cross entropy reads and writes the logits in
    fp32 several times (about 16 bytes per logit forward, 10 backward; fused loss: 4 and 4). A vocabulary that is
    dealt out without padding leaves all three products misaligned. A vocabulary split over the pipeline leaves a
    share of it all here, and what ``rescaling_bytes`` counts besides.
    """
    gpu = cluster.gpu
    tokens = c.micro_batch_size * workload.seq_len / c.cp
    vocab = shard_rows(model, c, software.vocab_multiple)
    kind = workload.wide_gemm_type
    derate, light = software.coefficient("gemm_derate") * alignment_rate(vocab), software.coefficient("memory_derate")
    forward = gemm_time_s(gpu, kind, tokens, vocab, model.hidden) / derate
    backward = gemm_time_s(gpu, kind, tokens, model.hidden, vocab) / derate
    if workload.task != "lora":
        backward = backward + gemm_time_s(gpu, kind, vocab, model.hidden, tokens) / derate
    loss_f, loss_b = (4.0, 4.0) if software.fused_loss else (16.0, 10.0)
    forward = forward + memory_bound_time_s(gpu, loss_f * tokens * vocab, 6) / light
    backward = backward + memory_bound_time_s(gpu, loss_b * tokens * vocab, 4) / light
    scaled = rescaling_bytes(c, tokens, model.hidden, vocab)
    backward = backward + np.where(scaled > 0.0, memory_bound_time_s(gpu, scaled, 3) / light, 0.0)
    _, backward_tp, _ = tp_block_s(cluster, model.hidden, tokens, workload.activation_bytes, c, NO_OVERLAP)
    return forward, backward, backward_tp / software.coefficient("comm_derate")


def embedding_time(cluster: Cluster, model: ModelSpec, workload: Workload, c: Any) -> Any:
    """Look-up forward (read and write tokens x hidden), scatter-add backward in fp32; a vocabulary split over the
    pipeline looks all tokens up on every stage."""
    tokens = c.micro_batch_size * workload.seq_len / c.cp
    n_bytes = 2.0 * workload.activation_bytes * tokens * model.hidden
    dense = embedding_gradient_bytes(c, model.hidden, shard_rows(model, c, 1))
    gradient = np.where(dense > 0.0, memory_bound_time_s(cluster.gpu, dense, 3), 0.0)
    return memory_bound_time_s(cluster.gpu, n_bytes, 4), memory_bound_time_s(cluster.gpu, 3.0 * n_bytes, 4) + gradient
