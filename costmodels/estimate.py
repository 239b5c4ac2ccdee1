"""Results of the cost model: named additive parts of a step's time and of one device's memory.

Each part is a float for one configuration or an array with one entry per candidate.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any


@dataclass(slots=True, kw_only=True)
class _Parts:
    @property
    def total(self) -> Any:
        """Sum of all parts."""
        return sum((v for _, v in self.items()), start=0.0)

    def items(self) -> Iterator[tuple[str, Any]]:
        for f in fields(self):
            yield f.name, getattr(self, f.name)


@dataclass(slots=True, kw_only=True)
class TimeBreakdown(_Parts):
    """Seconds of one optimizer step along its critical path; parts add up to the step.

    Attributes:
        forward_s, backward_s, recompute_s: kernels of the busiest stage over all micro-batches.
        host_s: time in which kernels wait for their launch.
        tp_s, cp_s, ep_s: exposed collectives of tensor/sequence, context and expert parallelism.
        pp_s: exposed pipeline transfers; bubble_s: idle fill and drain, and waiting for the busiest stage.
        dp_s: exposed gradient reduction; param_gather_s: exposed parameter gathering (ZeRO).
        optimizer_s: the update; step_overhead_s: host work per step; jitter_s: stragglers at scale.
    """

    forward_s: Any
    backward_s: Any
    recompute_s: Any
    host_s: Any
    tp_s: Any
    cp_s: Any
    ep_s: Any
    pp_s: Any
    bubble_s: Any
    dp_s: Any
    param_gather_s: Any
    optimizer_s: Any
    step_overhead_s: Any
    jitter_s: Any

    @property
    def exposed_comm_s(self) -> Any:
        """All communication that compute does not hide."""
        return self.tp_s + self.cp_s + self.ep_s + self.pp_s + self.dp_s + self.param_gather_s


@dataclass(slots=True, kw_only=True)
class MemoryBreakdown(_Parts):
    """Bytes at the peak of the fullest stage's device; parts add up to the peak.

    Attributes:
        weights_bytes, gradients_bytes, optimizer_bytes: model states after sharding.
        gathered_bytes: full layers that ZeRO-3 holds at once.
        activations_bytes: stored for backward, all in-flight micro-batches.
        working_bytes: largest layer's temporaries in backward or recompute.
        logits_bytes: logits, their gradient and the loss.
        buffers_bytes: communication buffers (gradient buckets, TP, P2P, all-to-all).
        context_bytes: CUDA context, libraries and NCCL; slack_bytes: what fragments between tensors.
        cached_bytes: whole blocks of the optimizer's step that the caching allocator keeps for the next one. They
            show in reserved memory and nvidia-smi but are given back when a device fills up: no part of the peak.
    """

    weights_bytes: Any
    gradients_bytes: Any
    optimizer_bytes: Any
    gathered_bytes: Any
    activations_bytes: Any
    working_bytes: Any
    logits_bytes: Any
    buffers_bytes: Any
    context_bytes: Any
    slack_bytes: Any
    cached_bytes: Any = 0.0

    def items(self) -> Iterator[tuple[str, Any]]:
        """The parts of the peak (all but ``cached_bytes``)."""
        return ((f.name, getattr(self, f.name)) for f in fields(self) if f.name != "cached_bytes")


@dataclass(slots=True, kw_only=True)
class Estimate:
    """Prediction for one configuration or a table of them.

    Attributes:
        time, memory: the breakdowns.
        step_s: seconds of one optimizer step; step_low_s, step_high_s: its 90% interval.
        tokens_per_s_per_gpu; mfu: model FLOPs (no recompute, attention causal-halved where
            ``mfu_causal`` of the FLOP count says so) over peak; hfu: with recompute.
        peak_bytes: peak memory; peak_low_bytes, peak_high_bytes: its 90% interval.
        p_fit: probability that the peak fits the device.
        bubble_fraction, exposed_comm_fraction: shares of the step.
        fullest_stage: pipeline rank with the largest peak.
        waiting_share: of the step, in which the device waits for hosts: for launches, and in tensor-parallel
            collectives for ranks whose host is late (no part of its own: ``host_s`` and a share of ``tp_s``).
    """

    time: TimeBreakdown
    memory: MemoryBreakdown
    step_s: Any
    step_low_s: Any
    step_high_s: Any
    tokens_per_s_per_gpu: Any
    mfu: Any
    hfu: Any
    peak_bytes: Any
    peak_low_bytes: Any
    peak_high_bytes: Any
    p_fit: Any
    bubble_fraction: Any
    exposed_comm_fraction: Any
    fullest_stage: Any
    waiting_share: Any = 0.0
