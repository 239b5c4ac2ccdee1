"""Model states of one rank: weights, gradients and optimizer by ZeRO stage, what ZeRO-3 gathers, what the update needs.

Parameters may be numbers or arrays (over candidates, stages or pieces of a model); bytes are linear in them, but for
``update_bytes`` and ``gathered_parameters``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .parallelism.data import dense_group, expert_group
from .software import Software
from .workload import OPTIMIZER_BYTES, Workload


def gathered_parameters(workload: Workload, software: Software, c: Any, total: Any, largest: Any) -> Any:
    """Bytes that ZeRO-3 holds unsharded on a stage of ``total`` parameters whose largest layer has ``largest``.

    It prefetches one layer beyond the one in use (or leaves a fixed number of parameters gathered), and holds a
    layer's unsharded gradients.
    """
    live = software.coefficient("live_parameters")
    ahead = np.minimum(np.maximum(2.0 * largest, live), np.maximum(total, largest))
    return np.where(c.zero_stage == 3, 2.0 * ahead + largest * workload.grad_dtype_bytes, 0.0)


def bucket_bytes(software: Software, c: Any) -> Any:
    """Fixed communication buckets; stage 3 interleaves a bucket's partitions in a second buffer before it reduces and
    scatters them."""
    return 2.0 * software.coefficient("bucket_elements") * (1.0 + (c.zero_stage == 3))


def update_bytes(workload: Workload, software: Software, c: Any, dense: Any, expert: Any, largest_tensor: Any) -> Any:
    """Short-lived tensors of the optimizer's step: copies of the gradients that it updates from, and a copy of the
    largest of them in which some frameworks compute the norm (one is freed before the other is allocated).

    Args:
        dense, expert: parameters of one rank before ZeRO sharding; largest_tensor: the largest of its weights.
    """
    per_parameter = software.coefficient("update_copy_bytes")
    if workload.grad_dtype_bytes < 4:
        per_parameter = per_parameter + software.coefficient("cast_copy_bytes")
    norm_bytes, whole = software.coefficient("norm_double_bytes"), software.coefficient("whole_copy_bytes")
    if workload.task == "lora" or per_parameter + norm_bytes + whole == 0:
        return 0.0
    d, e = dense_group(c), expert_group(c)
    sharded = dense / np.maximum(d.shard, 1) + expert / np.maximum(e.shard, 1)
    updated = np.where(c.zero_stage >= 1, sharded, dense + expert)
    norm = norm_bytes * np.minimum(largest_tensor, updated)
    copies = np.maximum((per_parameter + whole * (c.zero_stage == 0)) * updated, norm)
    return np.where(c.optimizer_offload == 1, 0.0, copies)


def model_states(
    workload: Workload, software: Software, c: Any, dense: Any, expert: Any, vocab: Any
) -> tuple[Any, Any, Any]:
    """Weights, gradients and optimizer bytes after ZeRO sharding.

    ZeRO-1 shards the optimizer, ZeRO-2 gradients too, ZeRO-3 weights too (arXiv 1910.02054); hpZ keeps a second copy
    of the weights over ``hpz`` ranks, whole 16 bits also where qwZ sends fewer (arXiv 2306.10209). LoRA keeps gradients
    and optimizer for the adapters only (neglected here: below 1% of the weights).

    Args:
        dense, expert: parameters of one rank before sharding; vocab: the part of ``dense`` in embedding and head.
    """
    d, e = dense_group(c), expert_group(c)
    dense_shard, expert_shard = np.maximum(d.shard, 1), np.maximum(e.shard, 1)
    weight_bytes = 4.0 if workload.precision in ("fp32", "tf32") else 2.0
    trained = 0.0 if workload.task == "lora" else 1.0

    whole, shard = dense + expert, dense / dense_shard + expert / expert_shard

    def sharded(threshold: int) -> Any:
        return np.where(c.zero_stage >= threshold, shard, whole)

    weights = weight_bytes * sharded(3)
    if workload.fp8_params:  # the linear layers' weights only
        weights = sharded(3) + np.where(c.zero_stage >= 3, vocab / dense_shard, vocab)
    state_bytes: Any = OPTIMIZER_BYTES[workload.optimizer]
    main_bytes = 0.0 if workload.optimizer == "adam_pure_bf16" else 4.0
    if weight_bytes == 4.0:  # fp32 weights are their own main copy
        state_bytes -= main_bytes
    elif software.framework in ("torchtitan", "pytorch") and trained and main_bytes:
        # FSDP shards the main weights and gathers 16-bit ones from them
        weights = np.where(c.zero_stage >= 3, main_bytes * shard, weights)
        state_bytes = np.where(c.zero_stage >= 3, state_bytes - main_bytes, state_bytes)
    weights = weights + np.where(c.hpz > 1, weight_bytes * whole / np.maximum(c.hpz, 1), 0.0)
    gradients = trained * workload.grad_dtype_bytes * sharded(3 if software.coefficient("zero2_whole_gradients") else 2)
    if software.framework == "deepspeed":  # ZeRO-Offload moves the reduced gradients to the host too
        gradients = np.where((c.optimizer_offload == 1) & (c.zero_stage >= 2), 0.0, gradients)
    optimizer = trained * state_bytes * sharded(1)
    return weights, gradients, np.where(c.optimizer_offload == 1, 0.0, optimizer)
