"""Time of one training step from the pace of its busiest stage: micro-batches, bubble, transfers, data parallelism,
optimizer, stragglers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..hardware_profiles.types import Cluster
from .candidates import factored
from .collectives import p2p_time_s
from .compute import memory_bound_time_s
from .estimate import TimeBreakdown
from .memory import STATE_FIELDS, StageParameters
from .model_spec import ModelSpec
from .ops import weight_cast_bytes
from .parallelism.data import DpGroup, dense_group, expert_group, exposed_s, gradient_reduction_s, parameter_gather_s
from .parallelism.pipeline import p2p_transfer_s
from .parallelism.vocabulary import bubble_change_s, is_split
from .parallelism.zero_plus import (
    gathered_weight_bytes,
    gradient_quantization_s,
    quantized_reduction_s,
    secondary_group,
    weight_quantization_s,
)
from .schedule import bubble_s
from .software import Software
from .stage_time import BusiestStage
from .workload import OPTIMIZER_BYTES, Workload


@dataclass(frozen=True, slots=True)
class HeaviestParameters:
    """Parameters per rank that the end of a step waits for, before ZeRO sharding.

    Attributes:
        dense, expert: of the stage with most of both together; most_dense, most_expert: the most on any stage;
        largest_layer: of one layer.
    """

    dense: Any
    expert: Any
    most_dense: Any
    most_expert: Any
    largest_layer: Any

    @classmethod
    def of(cls, params: StageParameters) -> HeaviestParameters:
        """Over the kinds of stage."""
        total = params.dense + params.expert
        return cls(
            params.dense.at_busiest(total),
            params.expert.at_busiest(total),
            params.dense.busiest(),
            params.expert.busiest(),
            params.largest_layer,
        )


@dataclass(frozen=True, slots=True)
class EndOfStep:
    """Seconds that a stage's gradients and parameters take at the end of a step, before any overlap.

    Attributes:
        reduce_s: gradient reduction; gather_s: parameter gathering; again_s: gathering from the second copy of hpZ
            (``gather_s`` where there is none); optimizer_s: the update.
    """

    reduce_s: Any
    gather_s: Any
    again_s: Any
    optimizer_s: Any


def step_time(
    cluster: Cluster,
    model: ModelSpec,
    workload: Workload,
    software: Software,
    c: Any,
    n_micro: Any,
    stage: BusiestStage,
    parameters: Callable[[Any], HeaviestParameters],
    waiting: Any = 0.0,
) -> TimeBreakdown:
    """All parts of a step from the pace of its busiest stage.

    Args:
        n_micro: micro-batches of one data-parallel rank; parameters: of the heaviest stages, of a configuration;
        waiting: share that unequal chunks of interleaved stages add to that pace (``schedules.chunk_waiting``).
    """
    bubble = bubble_s(c, stage.pipeline, stage.whole, stage.forward / stage.whole)
    split = bubble_change_s(c, stage.vocabulary, stage.whole - stage.vocabulary)
    bubble = np.maximum(bubble + split, 0.0) + n_micro * stage.whole * waiting
    hop = factored(
        lambda t: p2p_transfer_s(
            cluster, model.hidden, t.micro_batch_size * workload.seq_len / t.cp, workload.activation_bytes, t
        ),
        c,
        ("tp", "cp", "pp", "dp", "micro_batch_size"),
    )
    shown = np.where(c.vp > 1, software.coefficient("p2p_interleaved"), software.coefficient("p2p_exposed"))
    pp = shown * 2.0 * hop * c.vp * (n_micro + (c.pp - 1) / c.vp)
    end: EndOfStep = factored(
        lambda t: end_of_step(cluster, workload, software, t, parameters(t)),
        c,
        (*STATE_FIELDS, "quantized_weights", "quantized_gradients", "optimizer_offload"),
    )
    dp, gather = _data_parallel_time(cluster, model, workload, software, c, n_micro, stage, end)
    parts = TimeBreakdown(
        forward_s=n_micro * stage.forward,
        backward_s=n_micro * stage.backward,
        recompute_s=n_micro * stage.recompute,
        host_s=n_micro * stage.host,
        tp_s=n_micro * stage.tp,
        cp_s=n_micro * stage.cp,
        ep_s=n_micro * stage.ep,
        pp_s=pp,
        bubble_s=bubble,
        dp_s=dp,
        param_gather_s=gather,
        optimizer_s=end.optimizer_s,
        step_overhead_s=software.coefficient("step_s") + 0.0 * stage.whole,
        jitter_s=0.0 * stage.whole,
    )
    nodes = np.maximum(c.tp * c.cp * c.pp * c.dp / cluster.gpus_per_node, 1.0)
    parts.jitter_s = parts.total * software.coefficient("jitter_per_doubling") * np.log2(nodes)
    return parts


def _data_parallel_time(
    cluster: Cluster,
    model: ModelSpec,
    workload: Workload,
    software: Software,
    c: Any,
    n_micro: Any,
    stage: BusiestStage,
    end: EndOfStep,
) -> tuple[Any, Any]:
    """Exposed gradient reduction and parameter gathering of one step.

    ZeRO 0 and 1 reduce once per step, behind the backward of the last micro-batch; ZeRO 2 and 3 keep no whole
    gradient and scatter it after every micro-batch. ZeRO 1 and 2 gather parameters once, behind the first forward.
    ZeRO-3 gathers every layer in forward and again in backward, for every micro-batch; ``fsdp_overlap`` of its
    traffic can hide behind the stage's compute (backward's window serves gathers and scatters, half each). With hpZ
    only the first forward of a step gathers from all shards, everything later from the second copy.
    Hidden traffic slows compute down by ``overlap_slowdown`` of its time. LoRA reduces adapters only (taken as
    nothing).
    """
    derate, slow = software.coefficient("comm_derate"), software.coefficient("overlap_slowdown")
    reduce_s, gather_s, again_s = end.reduce_s, end.gather_s, end.again_s
    backward, forward = stage.backward, stage.forward
    trained = 0.0 if workload.task == "lora" else 1.0
    z3, each = c.zero_stage == 3, c.zero_stage >= 2
    share = np.where(z3, software.coefficient("fsdp_overlap"), software.coefficient("dp_overlap"))
    reduces = trained * np.where(each, n_micro, 1.0)
    shown_r = exposed_s(reduce_s, backward * np.where(z3, 0.5, 1.0), share, z3 | (c.overlap_grad_reduce == 1))
    gathers = np.where(z3, n_micro, trained)
    shown_g = exposed_s(gather_s, forward, share, z3 | (c.overlap_param_gather == 1))
    again_g = np.where(z3, exposed_s(again_s, backward / 2, share, True), 0.0)
    hidden = gathers * (gather_s * np.where(z3, 2.0, 1.0) - shown_g - again_g)
    shown = gathers * (shown_g + again_g)
    # hpZ: one gather of the step from all shards, the other forwards and every backward from the second copy
    next_g = exposed_s(again_s, forward, share, True)
    all_s = gather_s + (2.0 * n_micro - 1.0) * again_s
    shown_hpz = shown_g + (n_micro - 1.0) * next_g + n_micro * again_g
    hidden = reduces * (reduce_s - shown_r) + np.where(c.hpz > 1, all_s - shown_hpz, hidden)
    shown = np.where(c.hpz > 1, shown_hpz, shown)
    tied = _tied_embedding_s(cluster, model, workload, c) / derate * trained
    return reduces * shown_r + slow * hidden + tied, shown


def end_of_step(
    cluster: Cluster, workload: Workload, software: Software, c: Any, params: HeaviestParameters, apart: Any = 1
) -> EndOfStep:
    """What follows the micro-batches of one stage, before any overlap: traffic at the release's rates, and the update.

    Args:
        params: of the stage; apart: by how much further apart in rank order than tp-cp-dp-pp has them the
            data-parallel ranks stand (the pipeline degree where pipelines fill neighbouring ranks).
    """
    derate = software.coefficient("comm_derate")
    reduce_s, gather_s, again_s = _traffic(cluster, workload, c, params, apart)
    return EndOfStep(
        reduce_s / derate, gather_s / derate, again_s / derate, _optimizer_time(cluster, workload, software, c, params)
    )


def _traffic(
    cluster: Cluster, workload: Workload, c: Any, params: HeaviestParameters, apart: Any
) -> tuple[Any, Any, Any]:
    """Seconds to reduce one stage's gradients, to gather its parameters and to gather them again (from the second copy
    of hpZ, where there is one), on the stage with most parameters."""
    dense, expert = params.dense, params.expert
    d, e = (DpGroup(g.size, g.shard, g.stride * apart) for g in (dense_group(c), expert_group(c)))
    z3 = c.zero_stage == 3
    # ZeRO-3 sends layer by layer: the same bytes in more, smaller messages
    pieces = np.where(z3, np.maximum((dense + expert) / np.maximum(params.largest_layer, 1.0), 1.0), 1.0)
    grad = workload.grad_dtype_bytes
    weight = gathered_weight_bytes(c, 1.0 if workload.fp8_params else 2.0)
    reduce_s = pieces * (
        gradient_reduction_s(cluster, dense * grad / pieces, d, c.zero_stage)
        + gradient_reduction_s(cluster, expert * grad / pieces, e, c.zero_stage)
    )
    if np.any(c.quantized_gradients):  # saves time where no candidate has it, changes nothing
        small = pieces * (
            quantized_reduction_s(cluster, dense / pieces, d) + gradient_quantization_s(cluster, dense / pieces)
        )
        reduce_s = np.where(c.quantized_gradients == 1, small, reduce_s)

    def gather(dense_over: DpGroup, expert_over: DpGroup) -> Any:
        seconds = pieces * (
            parameter_gather_s(cluster, dense * weight / pieces, dense_over, c.zero_stage)
            + parameter_gather_s(cluster, expert * weight / pieces, expert_over, c.zero_stage)
        )
        if not np.any(c.quantized_weights):
            return seconds
        kernels = pieces * weight_quantization_s(cluster, dense / pieces, dense_over)
        return np.where(c.quantized_weights == 1, seconds + kernels, seconds)

    gather_s = gather(d, e)
    again_s = gather(secondary_group(c, d), secondary_group(c, e)) if np.any(c.hpz > 1) else gather_s
    return reduce_s, gather_s, again_s


def _tied_embedding_s(cluster: Cluster, model: ModelSpec, workload: Workload, c: Any) -> Any:
    """All-reduce of tied embedding gradients between the first and the last stage."""
    if not model.tied_embeddings:
        return 0.0 * c.tp
    n_bytes = model.padded_vocab(c.tp) * model.hidden / c.tp * workload.grad_dtype_bytes
    apart = (c.pp > 1) & ~is_split(c)  # split over the stages, both stand on each of them
    return np.where(apart, 2.0 * p2p_time_s(cluster, n_bytes, c.tp * c.cp * c.dp, c.pp), 0.0)


def _optimizer_time(
    cluster: Cluster, workload: Workload, software: Software, c: Any, params: HeaviestParameters
) -> Any:
    """The update of one rank's share: states read and written, gradients read, weights written; FP8 weight casts.

    Offloaded: gradients to the host, Adam there, weights back.
    """
    if workload.task == "lora":
        return 0.0 * c.tp
    d, e = dense_group(c), expert_group(c)
    sharded = c.zero_stage >= 1
    dense, expert = params.most_dense, params.most_expert
    n = np.where(sharded, dense / d.shard + expert / e.shard, dense + expert)
    per_param = 2.0 * OPTIMIZER_BYTES[workload.optimizer] + workload.grad_dtype_bytes + 2.0
    on_device = memory_bound_time_s(cluster.gpu, software.coefficient("optimizer_passes") * per_param * n, 20)
    transfer = n * (workload.grad_dtype_bytes + 2.0) / cluster.gpu.host_bytes_per_s
    on_host = transfer + n / software.coefficient("cpu_adam_params_per_s")
    casts = memory_bound_time_s(cluster.gpu, weight_cast_bytes(workload, dense + expert), 1)
    # the gradient norm reads the whole local gradient buffer
    norm = memory_bound_time_s(cluster.gpu, workload.grad_dtype_bytes * (dense + expert), 10)
    return np.where(c.optimizer_offload == 1, on_host, on_device) + casts + norm
