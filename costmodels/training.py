"""One training step: composes layers, pipeline, data parallelism and optimizer into time, memory and throughput.

``estimate`` is the whole cost model. It takes one ``ParallelConfig`` or a ``CandidateTable``; every formula below
is the same for both.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..hardware_profiles.types import Cluster
from .candidates import factored
from .estimate import Estimate, MemoryBreakdown, TimeBreakdown
from .flops import hardware_step_flops, lora_step_flops, step_flops
from .interval import Z90, fit_probability, memory_sigma, time_sigma
from .layer import tp_wait_s
from .memory import SPLIT_FIELDS, memory_breakdown, stage_parameters
from .model_spec import ModelSpec
from .schedules.chunk_waiting import chunk_waiting
from .software import Software
from .stage_time import STAGE_FIELDS, BusiestStage, stage_time
from .step_time import HeaviestParameters, step_time
from .workload import Workload


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
    time = step_time(
        cluster,
        model,
        workload,
        software,
        c,
        n_micro,
        stage,
        lambda t: HeaviestParameters.of(stage_parameters(model, t)),
        factored(lambda t: chunk_waiting(model.n_layers, t, model.mtp_layers), c, (*SPLIT_FIELDS, "schedule")),
    )
    memory, fullest = memory_breakdown(model, workload, software, c, n_micro)
    once = step_flops(model, workload.seq_len, 1.0)
    again = factored(
        lambda t: hardware_step_flops(model, workload.seq_len, 1.0, t, causal_half=False) - once,
        c,
        ("pp", "recompute", "recompute_layers"),
    )
    return summary(model, workload, cluster, software, c, time, memory, fullest, again)


# -- summary -----------------------------------------------------------------------------------------------------


def summary(
    model: ModelSpec,
    workload: Workload,
    cluster: Cluster,
    software: Software,
    c: Any,
    time: TimeBreakdown,
    memory: MemoryBreakdown,
    fullest: Any,
    again: Any,
) -> Estimate:
    """Throughput, shares and intervals of a priced step.

    Args:
        fullest: the stage whose memory it is; again: FLOPs that recompute adds to one sequence.
    """
    step = time.total
    gpus = c.tp * c.cp * c.pp * c.dp
    tokens = workload.global_batch * workload.seq_len
    flops = _sequence_flops(model, workload) * workload.global_batch
    peak_rate = cluster.gpu.peak(workload.gemm_type)
    hardware = flops + again * workload.global_batch
    peak = memory.total
    waiting = _waiting_s(model, workload, software, c, time) / step
    ts = time_sigma(cluster, model, workload, software, gpus, waiting)
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
        waiting_share=waiting,
    )


def _waiting_s(model: ModelSpec, workload: Workload, software: Software, c: Any, time: TimeBreakdown) -> Any:
    """Seconds of a step in which a device waits for hosts: for launches, and for ranks of its tensor-parallel group.

    The latter are a part of ``tp_s``: two blocks of an even share of the layers, both ways, for every micro-batch
    (recomputed ones are left out).
    """
    n_micro = np.maximum(workload.global_batch / (c.micro_batch_size * c.dp), 1.0)
    return time.host_s + n_micro * 4.0 * model.n_layers / c.pp * tp_wait_s(software, c)


def _sequence_flops(model: ModelSpec, workload: Workload) -> Any:
    """Model FLOPs of one sequence, all attention scores counted (the PaLM and Megatron-LM convention)."""
    if workload.task == "lora":
        return lora_step_flops(
            model, workload.seq_len, 1.0, rank=max(workload.lora_rank, 1), targets=workload.lora_targets
        )
    return step_flops(model, workload.seq_len, 1.0)
