"""The software that runs the plan: framework, release, its defaults, and its few fitted coefficients.

Kept as data in ``software/*.yaml`` (one file per framework era). Nothing here is keyed by a source of
measurements, a model or a row: two users of the same release get the same coefficients.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..hardware_profiles.types import Fit, Provenance

#: values of ``Software.moe_dispatcher`` and ``Software.graphed``.
DISPATCHERS = ("alltoall", "deepep", "hybridep")
GRAPHED = ("", "router", "attention+router")


@dataclass(frozen=True, slots=True, kw_only=True)
class Software:
    """One framework era.

    Attributes:
        name: key of the era, e.g. ``megatron-lm-0.19``; framework: ``megatron-lm``, ``torchtitan``,
            ``deepspeed``, ``pytorch`` (FSDP), ``jax``; release: text of the version or year.
        attention: kernel in use: ``unfused``, ``flash1``, ``flash2``, ``flash3``, ``cudnn``.
        fused_elementwise: bias-GELU, dropout-add, SwiGLU and norm kernels are fused.
        separate_grad_add: a kernel of its own adds each weight gradient to that of earlier micro-batches (since 2022
            Megatron's gradient GEMM accumulates itself, ``--no-gradient-accumulation-fusion`` aside).
        cuda_graphs: kernel launches are replayed (no launch floor).
        launch_blocking: the host waits for every kernel (``CUDA_LAUNCH_BLOCKING=1``), so that launches add up.
        tp_grad_overlap: backward TP collectives run behind the gradient GEMMs (Megatron since 2022, async TP).
        moe_dispatcher: ``alltoall`` (NCCL), ``deepep`` or ``hybridep``; moe_overlap: dispatch and combine of one
            micro-batch run behind the compute of another; moe_fused_mlp: quantisation, activation and bias of the
            experts inside the grouped GEMM kernels.
        graphed: modules of a layer whose launches are replayed as CUDA graphs: empty, ``router`` or
            ``attention+router``.
        vocab_multiple: the vocabulary is padded to this many rows times tp (Megatron: 128; 1: not padded).
        coefficients: see ``COEFFICIENTS``; absent names take the default there.
        defaults: ``ParallelConfig`` fields that the release sets when the user says nothing.
    """

    name: str
    framework: str
    release: str
    attention: str
    fused_elementwise: bool = True
    fused_loss: bool = False
    separate_grad_add: bool = False
    cuda_graphs: bool = False
    launch_blocking: bool = False
    tp_grad_overlap: bool = True
    vocab_multiple: int = 128
    moe_dispatcher: str = "alltoall"
    moe_overlap: bool = False
    moe_fused_mlp: bool = False
    graphed: str = ""
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
    "launch_s": (20e-6, 1e-6, 60e-6, "host time to launch one kernel from eager Python, autograd included"),
    "layer_s": (
        1.0e-3,
        0.0,
        2.0e-3,
        "host time of one layer's forward pass beyond its launches (modules, autograd, checkpoint and RNG state)",
    ),
    "layer_backward_s": (
        300e-6,
        0.0,
        1.5e-3,
        "host time of one layer's backward pass beyond its launches (autograd engine, hooks)",
    ),
    "host_drain": (0.5, 0.0, 1.0, "share of a forward's wait for its host that backward does not make up"),
    "kernel_s": (
        2e-6,
        0.0,
        10e-6,
        "device time behind one counted kernel: gap, ramp, drain, small kernels not counted",
    ),
    "tp_host_skew": (
        0.08,
        0.0,
        0.30,
        "launch time added for every doubling of tp: a collective waits for the slowest host",
    ),
    "tp_wait_s": (20e-6, 0.0, 300e-6, "time that a TP collective waits for ranks whose hosts are late"),
    "gemm_derate": (0.93, 0.70, 1.0, "GEMM rate inside a training step over the isolated benchmark (clocks, cold L2)"),
    "attention_derate": (0.90, 0.60, 1.0, "same for attention kernels"),
    "memory_derate": (0.90, 0.50, 1.0, "same for element-wise kernels"),
    "comm_derate": (0.90, 0.40, 1.0, "bus bandwidth inside a step over the isolated collective benchmark"),
    "dp_overlap": (0.80, 0.0, 1.0, "share of gradient/parameter traffic that can hide when overlap is on"),
    "overlap_slowdown": (0.10, 0.0, 0.5, "extra compute time per second of traffic hidden behind it"),
    "fsdp_overlap": (0.85, 0.0, 1.0, "share of the layer-wise gathers and scatters of ZeRO-3 that can hide"),
    "tp_grad_overlap": (0.8, 0.0, 1.0, "share of a backward TP collective that hides behind a gradient GEMM"),
    "tp_overlap": (0.70, 0.0, 1.0, "share of TP traffic hidden when tp_overlap is on"),
    "ep_overlap": (0.60, 0.0, 0.95, "share of dispatch and combine hidden when moe_overlap is on"),
    "ep_overlap_host": (0.60, 0.0, 1.0, "host time added to a sparse layer by scheduling two micro-batches at once"),
    "expert_s": (45e-6, 5e-6, 150e-6, "host time per local expert and pass of the grouped linears (twice in FP8)"),
    "dispatch_host_s": (0.4e-3, 0.0, 4e-3, "host time of a dropless dispatch: waiting for token counts, buffers"),
    "p2p_interleaved": (0.3, 0.0, 1.0, "same with interleaving, where transfers overlap the other chunks' compute"),
    "p2p_exposed": (1.0, 0.0, 1.0, "share of the pipeline transfers on the critical path without interleaving"),
    "microbatch_s": (1.0e-3, 0.0, 20e-3, "host time of one micro-batch that nothing hides (schedule, loss, syncs)"),
    "step_s": (15e-3, 0.0, 300e-3, "host time of one step (data, grad norm, logging, scheduler)"),
    "optimizer_passes": (1.3, 1.0, 4.0, "HBM passes over the optimizer state, gradients and weights per step"),
    "jitter_per_doubling": (0.004, 0.0, 0.015, "slow-down for every doubling of nodes beyond one"),
    "allocator_slack": (0.02, 0.0, 0.20, "reserved but unused share of activation and gather memory"),
    "gradient_slack": (
        0.0,
        0.0,
        1.0,
        "share of gradient memory lost to fragmentation where gradients are freed and allocated anew in every step",
    ),
    "cpu_adam_params_per_s": (1.0e9, 0.2e9, 5e9, "parameters that host Adam updates per second and GPU"),
    "context_bytes": (1.6e9, 0.3e9, 6e9, "CUDA context, loaded kernels and library workspaces of one process"),
    "communicator_bytes": (0.5e9, 0.0, 1.5e9, "NCCL buffers of each kind of group a rank is in (tp, cp, pp, dp, ep)"),
    "zero2_whole_gradients": (0.0, 0.0, 1.0, "1 where ZeRO-2 shards gradients only after the last micro-batch"),
    "logits_bytes": (0.0, 0.0, 16.0, "bytes per logit at the peak of the loss; 0: 10 with separate copies, 4 fused"),
    "gated_copy": (0.0, 0.0, 1.0, "share of a gated FFN's activated gate kept beside gate and product (unfused: 1)"),
    "norm_copy_bytes": (0.0, 0.0, 8.0, "bytes per element an RMSNorm keeps beyond input and output (fp32 copy)"),
    "pipeline_outputs": (0.0, 0.0, 1.0, "1 where a stage keeps the output it sent until the micro-batch's backward"),
    "pipeline_slots": (0.0, 0.0, 4.0, "buffered micro-batches per pipeline stage where static; 0: the schedule's"),
    "unshared_working": (
        0.0,
        0.0,
        1.0,
        "1 where forward and backward of a pipeline stage with several micro-batches share no temporaries",
    ),
    "bucket_elements": (0.0, 0.0, 4e9, "16-bit elements of fixed communication buckets, whatever the model's size"),
    "update_copy_bytes": (0.0, 0.0, 16.0, "bytes that the update allocates per parameter it updates, beyond the state"),
    "whole_copy_bytes": (0.0, 0.0, 8.0, "same, only without ZeRO"),
    "cast_copy_bytes": (0.0, 0.0, 4.0, "same, only where gradients are 16 bits wide (their fp32 copy)"),
    "norm_double_bytes": (0.0, 0.0, 8.0, "bytes per element of the largest gradient tensor copied for its norm"),
    "update_reuse": (0.0, 0.0, 1.0, "share of the update's copies that cached activation blocks can serve"),
    "live_parameters": (0.0, 0.0, 4e9, "parameters that ZeRO-3 leaves gathered; 0: the layer in use and the next"),
}

#: Coefficients that memory alone depends on; a fit to step times does not see them.
MEMORY_COEFFICIENTS: tuple[str, ...] = (
    "allocator_slack",
    "gradient_slack",
    "context_bytes",
    "communicator_bytes",
    "zero2_whole_gradients",
    "logits_bytes",
    "gated_copy",
    "norm_copy_bytes",
    "pipeline_outputs",
    "pipeline_slots",
    "unshared_working",
    "bucket_elements",
    "update_copy_bytes",
    "whole_copy_bytes",
    "cast_copy_bytes",
    "norm_double_bytes",
    "update_reuse",
    "live_parameters",
)
