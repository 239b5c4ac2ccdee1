"""Floating-point operations of a training step: what the model needs, and what the hardware runs.

Counted are the matrix multiplications: projections, feed-forwards (``top_k`` of the routed experts), router, attention
scores and their product with the values, multi-token-prediction layers, and the LM head. Left out are the
embedding look-up, norms, softmax, activations, rotary positions, loss and optimizer (below 1% together).
A multiply-add counts 2; backward counts twice forward. ``model_flops`` knows no recompute, so that MFU does not
reward it; ``hardware_flops`` adds it (HFU). Terms are those of arXiv 2205.05198 appendix A, by layer kind.

Attention has two conventions, chosen by ``causal_half``: the masked half of the scores counts (PaLM, Megatron-LM,
MPT: ``12 L h s`` per token) or does not (Megatron-Bridge since 25.09).

``seq_len``, ``n_sequences`` and ``recompute`` may be scalars or arrays that broadcast.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..hardware_profiles.errors import InvalidProblemError
from .model_spec import ModelSpec
from .parallel import Recompute

LORA_TARGETS = ("attention", "all")


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardFlops:
    """Forward FLOPs of one sequence of ``seq_len`` tokens, by part; ``total`` is their sum.

    Attributes:
        projections: attention projections of all layers (``mla_up`` is the part that expands MLA latents);
        attention: scores and values; ffn: dense feed-forwards, routed and shared experts; router: expert choice;
        head: LM head, once more for each multi-token-prediction layer; mtp_join: their 2h-to-h projections.
    """

    projections: Any
    mla_up: Any
    attention: Any
    ffn: Any
    router: Any
    head: Any
    mtp_join: Any

    @property
    def layers(self) -> Any:
        """What full recompute of every layer runs again (head and MTP join are not inside a layer)."""
        return self.projections + self.mla_up + self.attention + self.ffn + self.router

    @property
    def linear(self) -> Any:
        """Everything but attention scores and values: the part whose backward has weight gradients."""
        return self.projections + self.mla_up + self.ffn + self.router + self.head + self.mtp_join

    @property
    def total(self) -> Any:
        """All parts."""
        return self.linear + self.attention


def forward_flops(model: ModelSpec, seq_len: Any, *, causal_half: bool = False) -> ForwardFlops:
    """Forward FLOPs of one sequence, multi-token-prediction layers included.

    Args:
        model: dimensions; the vocabulary is taken as it stands (pad it first for what Megatron runs).
        seq_len: tokens, scalar or array.
        causal_half: leave out the scores above the diagonal.
    """
    s = np.asarray(seq_len, dtype=np.float64)
    a, m = model.attention, model.moe
    blocks = model.n_layers + model.mtp_layers
    sparse = model.n_moe_layers + (model.mtp_layers if m else 0)  # an MTP layer of an MoE has experts
    width = model.ffn_matrices * model.hidden  # matrix elements per unit of inner width
    ffn = (blocks - sparse) * width * model.ffn_hidden
    router = 0
    if m is not None:
        ffn += sparse * width * (m.top_k * m.ffn_hidden + m.shared_ffn_hidden)
        router = sparse * model.hidden * (m.n_experts + (1 if m.shared_gate else 0))
    heads = a.n_heads * (a.head_dim + a.v_head_dim)
    keys = (blocks - a.windowed_layers) * keys_per_query(s, 0, causal_half)
    keys = keys + a.windowed_layers * keys_per_query(s, a.window, causal_half)
    return ForwardFlops(
        projections=2.0 * s * blocks * (model.attention_matmul_params - model.mla_up_params),
        mla_up=2.0 * s * blocks * model.mla_up_params,
        attention=2.0 * s * heads * keys,
        ffn=2.0 * s * ffn,
        router=2.0 * s * router,
        head=2.0 * s * (1 + model.mtp_layers) * model.vocab * model.hidden,
        mtp_join=2.0 * s * model.mtp_layers * 2 * model.hidden**2,
    )


def keys_per_query(seq_len: Any, window: int, causal_half: bool) -> Any:
    """Mean number of keys that one query meets.

    Full attention: ``s``, or ``s / 2`` without the masked half. A window of ``w`` tokens: ``min(w, s)``, or
    ``w - w**2 / (2 s)`` without the keys before the sequence's start (equal to ``s / 2`` where ``w >= s``).
    """
    s = np.asarray(seq_len, dtype=np.float64)
    w = np.minimum(s, window) if window else s
    return w - w * w / (2.0 * s) if causal_half else w


def step_flops(
    model: ModelSpec, seq_len: Any, n_sequences: Any, *, causal_half: bool = False, task: str = "pretrain"
) -> Any:
    """Model FLOPs of one training step: forward and its backward, no recompute.

    Args:
        task: ``pretrain`` and ``sft`` count backward as twice forward. With ``lora`` the linear layers count
            forward and the gradient of their input only (about ``4 N`` per token), attention scores fully (both
            factors are activations); adapters are left out here and counted by ``lora_step_flops``.

    Returns:
        FLOPs of ``n_sequences`` sequences (a float, or an array where an argument is one).
    """
    f = forward_flops(model, seq_len, causal_half=causal_half)
    linear = 2.0 if task == "lora" else 3.0
    return _plain((linear * f.linear + 3.0 * f.attention) * _float(n_sequences))


def flops_per_token(model: ModelSpec, seq_len: Any, *, causal_half: bool = False) -> Any:
    """Model FLOPs of forward and backward divided by the tokens."""
    return step_flops(model, seq_len, 1.0, causal_half=causal_half) / _float(seq_len)


def recompute_flops(
    model: ModelSpec,
    seq_len: Any,
    n_sequences: Any,
    *,
    recompute: Any,
    layer_share: Any = 1.0,
    causal_half: bool = False,
) -> Any:
    """FLOPs that backward runs a second time.

    Args:
        recompute: mask of ``Recompute``; ``FULL`` covers the other bits. ``NORM`` and ``FFN_ACTIVATION`` rerun
            no matrix multiplication and add nothing.
        layer_share: part of the layers that ``FULL`` recomputes (1: all of them).
    """
    f = forward_flops(model, seq_len, causal_half=causal_half)
    mask = np.asarray(recompute, dtype=np.int64)
    some = ((mask & Recompute.CORE_ATTENTION) != 0) * f.attention + ((mask & Recompute.FFN) != 0) * f.ffn
    some = some + ((mask & Recompute.MLA_UP_PROJECTION) != 0) * f.mla_up
    again = np.where((mask & Recompute.FULL) != 0, _float(layer_share) * f.layers, some)
    return _plain(again * _float(n_sequences))


def hardware_flops(
    model: ModelSpec,
    seq_len: Any,
    n_sequences: Any,
    *,
    recompute: Any,
    layer_share: Any = 1.0,
    causal_half: bool = False,
    task: str = "pretrain",
) -> Any:
    """Model FLOPs and what recompute adds (for HFU); arguments as in ``recompute_flops`` and ``step_flops``."""
    extra = recompute_flops(
        model, seq_len, n_sequences, recompute=recompute, layer_share=layer_share, causal_half=causal_half
    )
    return step_flops(model, seq_len, n_sequences, causal_half=causal_half, task=task) + extra


def hardware_step_flops(
    model: ModelSpec, seq_len: Any, n_sequences: Any, c: Any, *, causal_half: bool = True, task: str = "pretrain"
) -> Any:
    """``hardware_flops`` of a ``ParallelConfig`` or ``CandidateTable``, by its recompute mode.

    ``recompute_layers`` counts layers of each pipeline stage (0: all).
    """
    of_all = np.minimum(np.asarray(c.recompute_layers) * np.asarray(c.pp) / model.n_layers, 1.0)
    share = np.where(np.asarray(c.recompute_layers) == 0, 1.0, of_all)
    return hardware_flops(
        model,
        seq_len,
        n_sequences,
        recompute=c.recompute,
        layer_share=share,
        causal_half=causal_half,
        task=task,
    )


def gpt_step_flops(n_layers: Any, hidden: Any, vocab: Any, seq_len: Any, n_sequences: Any) -> Any:
    """Model FLOPs of a GPT by the closed form ``72 B L s h^2 (1 + s/(6h) + V/(12 L h))``.

    Source: arXiv 2205.05198 appendix A (model FLOPs). Holds for a feed-forward of ``4h``,
    two matrices, MHA, all scores counted; ``step_flops`` equals it there.
    """
    h, s = _float(hidden), _float(seq_len)
    inner = 1.0 + s / (6.0 * h) + _float(vocab) / (12.0 * _float(n_layers) * h)
    return 72.0 * _float(n_sequences) * _float(n_layers) * s * h**2 * inner


def lora_params(model: ModelSpec, rank: int, targets: str = "attention", *, fused: bool = True) -> int:
    """Trainable weights of LoRA adapters: ``rank * (inputs + outputs)`` for each adapted matrix.

    Args:
        rank: inner width of the adapters.
        targets: ``attention`` (projections of queries, keys, values and output) or ``all`` linear layers but
            router, embedding and head; routed experts have one pair each.
        fused: matrices that Megatron keeps as one (q, k, v; gate and up) share one pair, as in NeMo and
            Megatron-Bridge; False gives each its own, as in Hugging Face PEFT.
    """
    attention, ffn_unit = _lora_widths(model, fused, targets, rank)
    m = model.moe
    n = model.n_layers * attention
    n += model.n_dense_layers * ffn_unit(model.ffn_hidden)
    if m is not None:
        shared = ffn_unit(m.shared_ffn_hidden) if m.shared_ffn_hidden else 0
        n += model.n_moe_layers * (m.n_experts * ffn_unit(m.ffn_hidden) + shared)
    return rank * n


def lora_active_params(model: ModelSpec, rank: int, targets: str = "attention", *, fused: bool = True) -> int:
    """Adapter weights that one token meets: ``top_k`` of the routed experts'."""
    total = lora_params(model, rank, targets, fused=fused)
    if model.moe is None:
        return total
    _, ffn_unit = _lora_widths(model, fused, targets, rank)
    idle = model.moe.n_experts - model.moe.top_k
    return total - rank * model.n_moe_layers * idle * ffn_unit(model.moe.ffn_hidden)


def lora_step_flops(
    model: ModelSpec,
    seq_len: Any,
    n_sequences: Any,
    *,
    rank: int,
    targets: str = "attention",
    fused: bool = True,
    causal_half: bool = False,
) -> Any:
    """Model FLOPs of a LoRA step: ``step_flops`` with ``task="lora"`` and ``6`` per active adapter weight and token.

    That nothing below the first adapter needs a gradient is left out.
    """
    adapters = 6.0 * lora_active_params(model, rank, targets, fused=fused) * _float(seq_len)
    frozen = step_flops(model, seq_len, 1.0, causal_half=causal_half, task="lora")
    return _plain((frozen + adapters) * _float(n_sequences))


def _lora_widths(model: ModelSpec, fused: bool, targets: str, rank: int) -> tuple[int, Callable[[int], int]]:
    """Inputs plus outputs of one layer's adapted attention matrices, and of one feed-forward by its inner width."""
    if targets not in LORA_TARGETS:
        raise InvalidProblemError(f"lora_targets must be one of {', '.join(LORA_TARGETS)}, not {targets!r}.")
    if rank <= 0:
        raise InvalidProblemError(f"lora_rank must be a positive number, not {rank!r}.")
    a, h = model.attention, model.hidden
    if a.kind == "mla":
        query = a.n_heads * a.head_dim
        keys = a.n_heads * (a.head_dim - a.qk_rope_head_dim + a.v_head_dim)
        attention = (h + 2 * a.q_lora_rank + query) if a.q_lora_rank else (h + query)
        attention += h + a.kv_lora_rank + a.qk_rope_head_dim + a.kv_lora_rank + keys
    else:
        attention = (h if fused else 3 * h) + a.qkv_width
    attention += a.out_width + h

    def ffn(inner: int) -> int:
        if targets != "all":
            return 0
        rows = h if fused else (model.ffn_matrices - 1) * h
        return rows + (model.ffn_matrices - 1) * inner + inner + h

    return attention, ffn


def _float(value: Any) -> Any:
    return np.asarray(value, dtype=np.float64)[()]


def _plain(value: Any) -> Any:
    return float(value) if np.ndim(value) == 0 else value
