"""One training step: composes layers, pipeline, data parallelism and optimizer into time, memory and throughput.

``estimate`` is the whole cost model. It takes one ``ParallelConfig`` or a ``CandidateTable``; every formula below
is the same for both.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..hardware_profiles.types import Cluster
from .candidates import factored
from .collectives import p2p_time_s
from .compute import memory_bound_time_s
from .estimate import Estimate, TimeBreakdown
from .flops import hardware_step_flops, lora_step_flops, step_flops
from .interval import Z90, fit_probability, memory_sigma, time_sigma
from .memory import STATE_FIELDS, StageParameters, memory_breakdown, stage_parameters
from .model_spec import ModelSpec
from .ops import weight_cast_bytes
from .parallelism.data import dense_group, expert_group, exposed_s, gradient_reduction_s, parameter_gather_s
from .parallelism.pipeline import p2p_transfer_s
from .schedule import bubble_s
from .software import Software
from .stage_time import STAGE_FIELDS, BusiestStage, stage_time
from .workload import OPTIMIZER_BYTES, Workload


def estimate(model: ModelSpec, workload: Workload, config: Any, cluster: Cluster, software: Software) -> Estimate:
    """Predict step time, memory and throughput.

    Args:
        model, workload, cluster, software: what is trained, how, on what, with what.
        config: one ``ParallelConfig`` or a ``CandidateTable``; ``workload.global_batch`` may be an array beside it.

    Returns:
        ``Estimate`` of scalars or of arrays with one entry per candidate.

    Leaves out: data loading, checkpointing, evaluation; traffic of several dimensions on one link at once.
    """
    c = config
    n_micro = np.maximum(workload.global_batch / (c.micro_batch_size * c.dp), 1.0)
    stage: BusiestStage = factored(
        lambda t: stage_time(cluster, model, workload, software, t).busiest(), c, STAGE_FIELDS
    )
    time = _step_time(cluster, model, workload, software, c, n_micro, stage)
    memory, fullest = memory_breakdown(model, workload, software, c, n_micro)
    return _summary(model, workload, cluster, software, c, time, memory, fullest)


# -- step --------------------------------------------------------------------------------------------------------


def _step_time(
    cluster: Cluster,
    model: ModelSpec,
    workload: Workload,
    software: Software,
    c: Any,
    n_micro: Any,
    stage: BusiestStage,
) -> TimeBreakdown:
    bubble = bubble_s(c, stage.pipeline, stage.whole, stage.forward / stage.whole)
    hop = factored(
        lambda t: p2p_transfer_s(
            cluster, model.hidden, t.micro_batch_size * workload.seq_len / t.cp, workload.activation_bytes, t
        ),
        c,
        ("tp", "cp", "pp", "dp", "micro_batch_size"),
    )
    shown = np.where(c.vp > 1, software.coefficient("p2p_interleaved"), software.coefficient("p2p_exposed"))
    pp = shown * 2.0 * hop * c.vp * (n_micro + (c.pp - 1) / c.vp)
    dp, gather = _data_parallel_time(cluster, model, workload, software, c, n_micro, stage)
    optimizer = factored(
        lambda t: _optimizer_time(cluster, workload, software, t, stage_parameters(model, t)),
        c,
        (*STATE_FIELDS, "optimizer_offload"),
    )
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
        optimizer_s=optimizer,
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
) -> tuple[Any, Any]:
    """Exposed gradient reduction and parameter gathering of one step.

    ZeRO 0 and 1 reduce once per step, behind the backward of the last micro-batch; ZeRO 2 and 3 keep no whole
    gradient and scatter it after every micro-batch. ZeRO 1 and 2 gather parameters once, behind the first forward.
    ZeRO-3 gathers every layer in forward and again in backward, for every micro-batch; ``fsdp_overlap`` of its
    traffic can hide behind the stage's compute (backward's window serves gathers and scatters, half each).
    Hidden traffic slows compute down by ``overlap_slowdown`` of its time. LoRA reduces adapters only (taken as
    nothing).
    """
    derate, slow = software.coefficient("comm_derate"), software.coefficient("overlap_slowdown")
    reduce_s, gather_s = factored(lambda t: _traffic(cluster, workload, t, stage_parameters(model, t)), c, STATE_FIELDS)
    reduce_s, gather_s = reduce_s / derate, gather_s / derate
    backward, forward = stage.backward, stage.forward
    trained = 0.0 if workload.task == "lora" else 1.0
    z3, each = c.zero_stage == 3, c.zero_stage >= 2
    share = np.where(z3, software.coefficient("fsdp_overlap"), software.coefficient("dp_overlap"))
    reduces = trained * np.where(each, n_micro, 1.0)
    shown_r = exposed_s(reduce_s, backward * np.where(z3, 0.5, 1.0), share, z3 | (c.overlap_grad_reduce == 1))
    gathers = np.where(z3, n_micro, trained)
    shown_g = exposed_s(gather_s, forward, share, z3 | (c.overlap_param_gather == 1))
    again_g = np.where(z3, exposed_s(gather_s, backward / 2, share, True), 0.0)
    hidden = reduces * (reduce_s - shown_r) + gathers * (gather_s * np.where(z3, 2.0, 1.0) - shown_g - again_g)
    tied = _tied_embedding_s(cluster, model, workload, c) / derate * trained
    return reduces * shown_r + slow * hidden + tied, gathers * (shown_g + again_g)


def _traffic(cluster: Cluster, workload: Workload, c: Any, params: StageParameters) -> tuple[Any, Any]:
    """Seconds to reduce one stage's gradients and to gather its parameters, on the stage with most parameters."""
    total = params.dense + params.expert
    dense, expert = params.dense.at_busiest(total), params.expert.at_busiest(total)
    d, e = dense_group(c), expert_group(c)
    z3 = c.zero_stage == 3
    # ZeRO-3 sends layer by layer: the same bytes in more, smaller messages
    pieces = np.where(z3, np.maximum((dense + expert) / np.maximum(params.largest_layer, 1.0), 1.0), 1.0)
    grad = workload.grad_dtype_bytes
    weight = 1.0 if workload.fp8_params else 2.0
    reduce_s = pieces * (
        gradient_reduction_s(cluster, dense * grad / pieces, d, c.zero_stage)
        + gradient_reduction_s(cluster, expert * grad / pieces, e, c.zero_stage)
    )
    gather_s = pieces * (
        parameter_gather_s(cluster, dense * weight / pieces, d, c.zero_stage)
        + parameter_gather_s(cluster, expert * weight / pieces, e, c.zero_stage)
    )
    return reduce_s, gather_s


def _tied_embedding_s(cluster: Cluster, model: ModelSpec, workload: Workload, c: Any) -> Any:
    """All-reduce of tied embedding gradients between the first and the last stage."""
    if not model.tied_embeddings:
        return 0.0 * c.tp
    n_bytes = model.padded_vocab(c.tp) * model.hidden / c.tp * workload.grad_dtype_bytes
    return np.where(c.pp > 1, 2.0 * p2p_time_s(cluster, n_bytes, c.tp * c.cp * c.dp, c.pp), 0.0)


def _optimizer_time(cluster: Cluster, workload: Workload, software: Software, c: Any, params: StageParameters) -> Any:
    """The update of one rank's share: states read and written, gradients read, weights written; FP8 weight casts.

    Offloaded: gradients to the host, Adam there, weights back.
    """
    if workload.task == "lora":
        return 0.0 * c.tp
    d, e = dense_group(c), expert_group(c)
    sharded = c.zero_stage >= 1
    dense, expert = params.dense.busiest(), params.expert.busiest()
    n = np.where(sharded, dense / d.shard + expert / e.shard, dense + expert)
    per_param = 2.0 * OPTIMIZER_BYTES[workload.optimizer] + workload.grad_dtype_bytes + 2.0
    on_device = memory_bound_time_s(cluster.gpu, software.coefficient("optimizer_passes") * per_param * n, 20)
    transfer = n * (workload.grad_dtype_bytes + 2.0) / cluster.gpu.host_bytes_per_s
    on_host = transfer + n / software.coefficient("cpu_adam_params_per_s")
    casts = memory_bound_time_s(cluster.gpu, weight_cast_bytes(workload, dense + expert), 1)
    # the gradient norm reads the whole local gradient buffer
    norm = memory_bound_time_s(cluster.gpu, workload.grad_dtype_bytes * (dense + expert), 10)
    return np.where(c.optimizer_offload == 1, on_host, on_device) + casts + norm


# -- summary -----------------------------------------------------------------------------------------------------


def _summary(
    model: ModelSpec,
    workload: Workload,
    cluster: Cluster,
    software: Software,
    c: Any,
    time: TimeBreakdown,
    memory: Any,
    fullest: Any,
) -> Estimate:
    step = time.total
    gpus = c.tp * c.cp * c.pp * c.dp
    tokens = workload.global_batch * workload.seq_len
    flops = _sequence_flops(model, workload) * workload.global_batch
    once = step_flops(model, workload.seq_len, 1.0)
    again = factored(
        lambda t: hardware_step_flops(model, workload.seq_len, 1.0, t, causal_half=False) - once,
        c,
        ("pp", "recompute", "recompute_layers"),
    )
    peak_rate = cluster.gpu.peak(workload.gemm_type)
    hardware = flops + again * workload.global_batch
    peak = memory.total
    ts = time_sigma(cluster, model, workload, software, gpus, time.host_s / step)
    ms = memory_sigma(cluster, model, software)
    spread, mem_spread = np.exp(Z90 * ts), np.exp(Z90 * ms)
    return Estimate(
        time=time,
        memory=memory,
        step_s=step,
        step_low_s=step / spread,
        step_high_s=step * spread,
        tokens_per_s_per_gpu=tokens / step / gpus,
        mfu=flops / step / gpus / peak_rate,
        hfu=hardware / step / gpus / peak_rate,
        peak_bytes=peak,
        peak_low_bytes=peak / mem_spread,
        peak_high_bytes=peak * mem_spread,
        p_fit=fit_probability(peak, cluster.gpu.memory_bytes, ms),
        bubble_fraction=time.bubble_s / step,
        exposed_comm_fraction=time.exposed_comm_s / step,
        fullest_stage=fullest,
    )


def _sequence_flops(model: ModelSpec, workload: Workload) -> Any:
    """Model FLOPs of one sequence, all attention scores counted (the PaLM and Megatron-LM convention)."""
    if workload.task == "lora":
        return lora_step_flops(
            model, workload.seq_len, 1.0, rank=max(workload.lora_rank, 1), targets=workload.lora_targets
        )
    return step_flops(model, workload.seq_len, 1.0)
