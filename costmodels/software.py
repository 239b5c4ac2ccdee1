"""The software that runs the plan: framework, release, its defaults, and its few fitted coefficients.

Kept as data in ``software/*.yaml`` (one file per framework era). Nothing here is keyed by a source of
measurements, a model or a row: two users of the same release get the same coefficients.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..hardware_profiles.types import Fit, Provenance


@dataclass(frozen=True, slots=True, kw_only=True)
class Software:
    """One framework era.

    Attributes:
        name: key of the era, e.g. ``megatron-lm-0.19``; framework: ``megatron-lm``, ``torchtitan``,
            ``deepspeed``, ``pytorch`` (FSDP), ``jax``; release: text of the version or year.
        attention: kernel in use: ``unfused``, ``flash1``, ``flash2``, ``flash3``, ``cudnn``.
        fused_elementwise: bias-GELU, dropout-add, SwiGLU and norm kernels are fused.
        cuda_graphs: kernel launches are replayed (no launch floor).
        launch_blocking: the host waits for every kernel (``CUDA_LAUNCH_BLOCKING=1``), so that launches add up.
        tp_grad_overlap: backward TP collectives run behind the gradient GEMMs (Megatron since 2022, async TP).
        coefficients: see ``COEFFICIENTS``; absent names take the default there.
        defaults: ``ParallelConfig`` fields that the release sets when the user says nothing.
    """

    name: str
    framework: str
    release: str
    attention: str
    fused_elementwise: bool = True
    fused_loss: bool = False
    cuda_graphs: bool = False
    launch_blocking: bool = False
    tp_grad_overlap: bool = True
    coefficients: Mapping[str, float] = field(default_factory=dict)
    defaults: Mapping[str, int] = field(default_factory=dict)
    provenance: Provenance = Provenance.DATASHEET
    fit: Fit | None = None
    notes: str = ""

    def coefficient(self, name: str) -> float:
        """Fitted value, or the physical default of ``COEFFICIENTS``."""
        return self.coefficients.get(name, COEFFICIENTS[name][0])


#: name -> (default, lower bound, upper bound, meaning). The bounds are what hardware and software can do;
#: a fit may not leave them.
COEFFICIENTS: dict[str, tuple[float, float, float, str]] = {
    "launch_s": (6e-6, 1e-6, 40e-6, "host time to launch one kernel, framework included"),
    "layer_s": (
        100e-6,
        0.0,
        1.5e-3,
        "host time of one layer and pass beyond its launches (modules, autograd, checkpoint and RNG state)",
    ),
    "tp_host_skew": (
        0.08,
        0.0,
        0.30,
        "launch time added for every doubling of tp: a collective waits for the slowest host",
    ),
    "gemm_derate": (0.93, 0.70, 1.0, "GEMM rate inside a training step over the isolated benchmark (clocks, cold L2)"),
    "attention_derate": (0.90, 0.60, 1.0, "same for attention kernels"),
    "memory_derate": (0.90, 0.50, 1.0, "same for element-wise kernels"),
    "comm_derate": (0.90, 0.40, 1.0, "bus bandwidth inside a step over the isolated collective benchmark"),
    "dp_overlap": (0.80, 0.0, 1.0, "share of gradient/parameter traffic that can hide when overlap is on"),
    "overlap_slowdown": (0.10, 0.0, 0.5, "extra compute time per second of traffic hidden behind it"),
    "fsdp_overlap": (0.85, 0.0, 1.0, "share of the layer-wise gathers and scatters of ZeRO-3 that can hide"),
    "tp_grad_overlap": (0.8, 0.0, 1.0, "share of a backward TP collective that hides behind a gradient GEMM"),
    "tp_overlap": (0.70, 0.0, 1.0, "share of TP traffic hidden when tp_overlap is on"),
    "p2p_interleaved": (0.3, 0.0, 1.0, "same with interleaving, where transfers overlap the other chunks' compute"),
    "p2p_exposed": (1.0, 0.0, 1.0, "share of the pipeline transfers on the critical path without interleaving"),
    "microbatch_s": (1.0e-3, 0.0, 20e-3, "host time of one micro-batch that nothing hides (schedule, loss, syncs)"),
    "step_s": (15e-3, 0.0, 300e-3, "host time of one step (data, grad norm, logging, scheduler)"),
    "optimizer_passes": (1.3, 1.0, 4.0, "HBM passes over the optimizer state, gradients and weights per step"),
    "jitter_per_doubling": (0.004, 0.0, 0.03, "slow-down for every doubling of nodes beyond one"),
    "allocator_slack": (0.04, 0.0, 0.20, "reserved but unused share of activation and gather memory"),
    "cpu_adam_params_per_s": (1.0e9, 0.2e9, 5e9, "parameters that host Adam updates per second and GPU"),
    "context_bytes": (1.6e9, 0.3e9, 6e9, "CUDA context, cuBLAS workspace and NCCL buffers of one process"),
}
