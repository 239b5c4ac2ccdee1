"""What is trained: sequence length, batch, numerics. Inputs of a problem, never varied by the search unasked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

#: GEMM type that each precision recipe uses for the linear layers.
GEMM_TYPE = {
    "fp32": "fp32",
    "tf32": "tf32",
    "fp16": "fp16",
    "bf16": "bf16",
    "fp8": "fp8",
    "mxfp8": "fp8",
    "nvfp4": "fp4",
}
#: Bytes of one optimizer-state set per parameter: fp32 main weight + two moments, by kind.
OPTIMIZER_BYTES = {
    "adam_fp32": 12.0,
    "adam_bf16": 8.0,  # fp32 main weight, bf16 moments
    "adam_precision_aware": 8.0,  # Megatron --use-precision-aware-optimizer with bf16 moments
    "adam_8bit": 6.0,  # fp32 main weight, 8-bit moments
    "adam_pure_bf16": 4.0,  # no fp32 main weight
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One training step.

    Attributes:
        seq_len: tokens of a sequence.
        global_batch: sequences in one optimizer step (an array gives every candidate its own).
        task: ``pretrain``, ``sft`` or ``lora``.
        precision: a key of ``GEMM_TYPE``; activations and gradients of GEMMs follow it.
        optimizer: a key of ``OPTIMIZER_BYTES``.
        grad_dtype_bytes: width of the gradient buffer that is reduced (4: fp32, Megatron's default for bf16).
        lora_rank: rank of the adapters when ``task == "lora"``; lora_targets: ``attention`` or ``all`` linears.
        token_drop: capacity factor of an MoE with dropping, 0 for dropless.
        balance: most loaded expert rank over the mean (1: perfectly balanced routing).
        fp8_params: FP8 primary weights (Megatron ``--fp8-param-gather``).
    """

    seq_len: int
    global_batch: Any
    task: str = "pretrain"
    precision: str = "bf16"
    optimizer: str = "adam_fp32"
    grad_dtype_bytes: float = 4.0
    lora_rank: int = 0
    lora_targets: str = "attention"
    token_drop: float = 0.0
    balance: float = 1.0
    fp8_params: bool = False

    @property
    def gemm_type(self) -> str:
        """Matrix unit that the linear layers use."""
        return GEMM_TYPE[self.precision]

    @property
    def quantised(self) -> bool:
        """Whether the linear layers' inputs are quantised to fewer than 16 bits (FP8 and FP4 recipes)."""
        return self.gemm_type in ("fp8", "fp4")

    @property
    def wide_gemm_type(self) -> str:
        """Matrix unit of what FP8 and FP4 recipes leave in 16 bits: core attention and the head."""
        return "bf16" if self.quantised else self.gemm_type

    @property
    def activation_bytes(self) -> float:
        """Bytes of one stored activation element (FP8 recipes keep activations in 16 bits)."""
        return 4.0 if self.precision in ("fp32", "tf32") else 2.0
