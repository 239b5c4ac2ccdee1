"""Device time of single operators: GEMM, grouped GEMM, attention, element-wise kernels.

All functions take scalars or numpy arrays that broadcast, in SI units, and return seconds of device time: no host
launch time, no clock or cache losses of a real training step (``Software`` holds those as derates). The formulae are
physical with few coefficients; the coefficients come from ``hardware_profiles/curves/*.yaml``, fitted on measured
kernel tables by ``benchmarks/fit_device_curves.py``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..hardware_profiles.errors import MissingProfileDataError
from ..hardware_profiles.types import Curve, Gpu

#: Bytes of one GEMM input element. The output is written in 16 bit (32 bit for fp32 and tf32).
INPUT_BYTES = {"fp32": 4.0, "tf32": 4.0, "fp16": 2.0, "bf16": 2.0, "fp8": 1.0, "fp4": 0.5625}
#: Curves that may stand in for a GEMM type without its own: same tensor cores, other operand width.
_GEMM_STAND_IN = {"fp16": ("bf16",), "bf16": ("fp16",), "tf32": ("bf16", "fp16"), "fp32": ("bf16", "fp16")}
#: Share of the tensor-core peak that batched GEMMs reach without tensor cores (16-bit inputs not aligned to 16
#: bytes). Solved from the runs of BigScience tr11 with 150 and 450 wide heads (10 ms per layer and micro-batch over
#: their neighbours with aligned heads); CUDA cores alone would allow 0.25 on an A100.
_UNALIGNED_EFFICIENCY = 0.06
#: Output tiles (rows, columns) of the library kernels and the coefficient that holds their rate over the first.
_TILES = ((128.0, 256.0, None), (128.0, 128.0, "rate_128x128"), (64.0, 64.0, "rate_64x64"))


def gemm_time_s(gpu: Gpu, gemm_type: str, m: Any, n: Any, k: Any) -> Any:
    """Seconds of one GEMM ``C[m, n] = A[m, k] @ B[k, n]``.

    Formula, after the tile and wave model of cuBLAS guides (NVIDIA "Matrix Multiplication Background"): for each tile
    shape ``(tm, tn)`` the ``ceil(m/tm) * ceil(n/tn)`` tiles run in waves over ``sm_count``; ``tail`` is the share of
    the last, partly filled wave that is paid (1: whole, 0: stream-K or split-K hides it), each tile costs
    ``2*tm*tn*(k + k_prologue)`` operations at ``efficiency * rate_tile`` of the peak of one SM, and the best tile
    wins. Power throttling takes up to the share ``throttle`` of the rate from GEMMs much longer than
    ``throttle_after_s``. The result is joined with the HBM roofline by a fourth-power norm, plus a fixed ``floor_s``.

    Args:
        gpu: the device.
        gemm_type: key of ``Gpu.peak_flops`` (``bf16``, ``fp16``, ``fp8``, ``fp4``, ``tf32``, ``fp32``).
        m: rows (tokens), scalar or array; n: columns; k: inner dimension.

    Raises:
        MissingProfileDataError: the device has no such peak or no curve for it.
    """
    curve = _gemm_curve(gpu, gemm_type)
    compute_s = _tile_time_s(gpu, gemm_type, curve, m, n, k, 1.0)
    width = INPUT_BYTES[gemm_type]
    out = 2.0 if width <= 2.0 else 4.0
    traffic_s = (width * k * (np.asarray(m, float) + n) + out * m * n) / (gpu.hbm_bytes_per_s * curve["hbm_efficiency"])
    return _join(compute_s, traffic_s) + curve["floor_s"]


def grouped_gemm_time_s(gpu: Gpu, gemm_type: str, tokens_per_expert: Any, n_local_experts: Any, n: Any, k: Any) -> Any:
    """Seconds of one grouped GEMM: ``n_local_experts`` GEMMs of ``tokens_per_expert x n x k`` in one launch.

    The tiles of all experts share the waves; the rate is that of the plain GEMM times ``grouped_rate`` (token gather,
    pointer tables and the lack of tuned shapes; fitted on fused-MoE timings). Weights of every local expert are read.
    Routing, permutation and activation are not in it.

    Raises:
        MissingProfileDataError: as ``gemm_time_s``.
    """
    curve = _gemm_curve(gpu, gemm_type)
    rate = curve.coefficients.get("grouped_rate", 0.85)
    compute_s = _tile_time_s(gpu, gemm_type, curve, tokens_per_expert, n, k, n_local_experts) / rate
    width = INPUT_BYTES[gemm_type]
    out = 2.0 if width <= 2.0 else 4.0
    tokens = np.asarray(tokens_per_expert, float)
    per_expert = width * k * (tokens + n) + out * tokens * n
    traffic_s = n_local_experts * per_expert / (gpu.hbm_bytes_per_s * curve["hbm_efficiency"])
    return _join(compute_s, traffic_s) + curve["floor_s"]


def attention_time_s(
    gpu: Gpu,
    kernel: str,
    dtype: str,
    *,
    batch: Any,
    seq_q: Any,
    seq_kv: Any,
    n_heads: Any,
    n_kv_heads: Any,
    head_dim: Any,
    v_head_dim: Any,
    causal: Any,
    window: Any = 0,
    backward: bool = False,
    dropout: bool = True,
) -> Any:
    """Seconds of the attention core (scores, softmax, dropout, weighted sum) of one layer, one direction.

    ``triton``, ``flash1``, ``flash2``, ``flash3``, ``cudnn``: a block handles 128 queries of one head; its work is the
    number of keys that it visits plus ``key_prologue``. Time is the work of all blocks over ``sm_count`` plus
    ``tail`` of the longest block (list scheduling), at ``efficiency * (head_dim/128)**head_power`` of the peak, joined
    with the bytes of q, k, v, o, plus a floor. Causal masks halve the work, a window caps the keys. Backward counts 2.5
    times the FLOPs of forward (it recomputes the scores: Dao, arXiv 2307.08691, section 3.1.2) at its own efficiency.

    ``unfused``: two batched GEMMs (four in backward) over all scores, causal or not, at ``gemm_efficiency_fwd``
    (``_bwd``) ``* d/(d+64)`` of the peak (short inner dimension) or at the speed of writing and reading 2 bytes per
    score, plus ``score_bytes_fwd`` (``_bwd``) bytes per score at the element-wise rate. Megatron's fused scale-mask-
    softmax (read and write, 2 bytes each; the causal kernel skips half of the reads) and dropout (read, write, 1-byte
    mask) move 8 to 9; the fitted numbers are lower because these kernels run nearer to the bandwidth than the pooled
    element-wise curve. Without dropout its five bytes per score (read, write, mask) fall away. Head widths that
    are no multiple of 8 keep batched GEMMs off the tensor cores (cuBLAS alignment rule for 16-bit types).

    Args:
        gpu: the device; kernel: as above; dtype: ``bf16``, ``fp16`` or ``fp8``.
        batch: sequences; seq_q, seq_kv: tokens; n_heads, n_kv_heads: heads on this rank; head_dim: of q and k;
        v_head_dim: of v and o; causal: 1 (or True) for a causal mask, 0 for none, or a share between;
        window: keys that a query may see, 0 for all; backward: time of the backward pass instead of forward;
        dropout: attention probabilities are dropped out (seen by ``unfused`` only).

    Raises:
        MissingProfileDataError: no curve for this kernel, or no peak for this dtype.
    """
    curve = _attention_curve(gpu, kernel)
    heads = np.asarray(batch, float) * n_heads
    if kernel == "unfused":
        return _unfused_time_s(gpu, curve, dtype, heads, seq_q, seq_kv, head_dim, v_head_dim, backward, dropout)
    side = "bwd" if backward else "fwd"
    keys = np.asarray(seq_kv, float)
    mean_keys, most_keys = _visited_keys(keys, seq_q, causal, window)
    width = 0.5 * (np.asarray(head_dim, float) + v_head_dim)
    rate = curve[f"efficiency_{side}"] * _head_rate(curve, width, side)
    prologue = curve[f"key_prologue_{side}"]
    per_sm = gpu.peak(dtype) / gpu.sm_count * rate
    longest = np.minimum(seq_q, 128.0) * (most_keys + prologue)
    work = heads * seq_q * (mean_keys + prologue) / gpu.sm_count + curve["tail"] * longest
    flops_per_score = (10.0 if backward else 4.0) * width
    compute_s = work * flops_per_score / per_sm
    kv = np.asarray(batch, float) * np.asarray(n_kv_heads, float) * keys
    passes, launches = (3.0, 2.0) if backward else (1.0, 1.0)
    traffic = passes * 2.0 * (head_dim + np.asarray(v_head_dim, float)) * (heads * seq_q + kv)
    traffic_s = traffic / (gpu.hbm_bytes_per_s * gpu.memory_bound["efficiency"])
    return _join(compute_s, traffic_s) + launches * curve["floor_s"]


def memory_bound_time_s(gpu: Gpu, bytes_moved: Any, n_kernels: Any = 1) -> Any:
    """Seconds of element-wise or reduction kernels that together read and write ``bytes_moved`` bytes.

    ``bytes / (hbm * efficiency) + n_kernels * floor_s``: the floor is the ramp and drain of one kernel on the device,
    so that small kernels run far below the bandwidth. Hits in L2 (small tensors just written) are left out.
    """
    curve = gpu.memory_bound
    moved = np.asarray(bytes_moved, float)
    return moved / (gpu.hbm_bytes_per_s * curve["efficiency"]) + n_kernels * curve["floor_s"]


def attention_kernel(gpu: Gpu, wanted: str) -> str:
    """Return ``wanted`` if the device has that attention kernel, else the next one that frameworks fall back to.

    The order is flash3 or cudnn, flash2, flash1, unfused: what PyTorch and Transformer Engine dispatch to where a
    kernel does not support the architecture. The caller decides whether to say so.

    Raises:
        MissingProfileDataError: the device has no attention curve to fall back to.
    """
    order = ("flash3", "cudnn", "flash2", "triton", "flash1", "unfused")
    later = order[order.index(wanted) + 1 :] if wanted in order else ()
    for name in (wanted, *later):
        if name in gpu.attention:
            return name
    raise MissingProfileDataError(f"{gpu.name} has no attention curve for {wanted} or below; choose another GPU.")


def _gemm_curve(gpu: Gpu, gemm_type: str) -> Curve:
    for name in (gemm_type, *_GEMM_STAND_IN.get(gemm_type, ())):
        if name in gpu.gemm:
            return gpu.gemm[name]
    has = ", ".join(gpu.gemm) or "none"
    raise MissingProfileDataError(
        f"{gpu.name} has no GEMM curve for {gemm_type} (it has {has}); choose another --precision or GPU."
    )


def _attention_curve(gpu: Gpu, kernel: str) -> Curve:
    if kernel in gpu.attention:
        return gpu.attention[kernel]
    has = ", ".join(gpu.attention) or "none"
    raise MissingProfileDataError(
        f"{gpu.name} has no attention curve for {kernel} (it has {has}); choose another attention kernel or GPU."
    )


def alignment_rate(width: Any) -> Any:
    """Rate of a 16-bit GEMM whose matrices are ``width`` elements wide, over that of widths divisible by 8.

    Tensor cores want rows aligned to 16 bytes; cuBLAS runs other widths with narrower loads (NVIDIA "Matrix
    Multiplication Background", section on tensor-core requirements). The shares for widths divisible by 4, by 2 and by
    1 are those that the LM heads of VIA-Research/vTrain's runs imply (vocabulary of 50257 dealt out unpadded).
    """
    width = np.asarray(width)
    rate = np.where(width % 4 == 0, 0.58, np.where(width % 2 == 0, 0.46, 0.33))
    return np.where(width % 8 == 0, 1.0, rate)


def _tile_time_s(gpu: Gpu, gemm_type: str, curve: Curve, m: Any, n: Any, k: Any, groups: Any) -> Any:
    """Time of the matrix units: best tile shape, wave quantisation, prologue, throttling."""
    m, n = np.asarray(m, float), np.asarray(n, float)
    per_sm = gpu.peak(gemm_type) * curve["efficiency"] * _power_share(gpu, gemm_type, curve) / gpu.sm_count
    inner = 2.0 * (np.asarray(k, float) + curve["k_prologue"]) / per_sm
    tail = curve["tail"] / (1.0 + np.asarray(k, float) * (1.0 / curve["k_split"]))
    best: Any = None
    for rows, columns, rate in _TILES:
        waves = np.ceil(m * (1.0 / rows)) * np.ceil(n * (1.0 / columns)) * (groups * (1.0 / gpu.sm_count))
        paid = waves + tail * (np.ceil(waves) - waves)
        cost = paid * (rows * columns / (curve[rate] if rate else 1.0))
        best = cost if best is None else np.minimum(best, cost)
    seconds = best * inner
    loss = curve["throttle"] * seconds / (seconds + curve["throttle_after_s"])
    return seconds / (1.0 - loss)


def _power_share(gpu: Gpu, gemm_type: str, curve: Curve) -> float:
    """Clock that a device sustains relative to the one whose curve it borrows, from watts per peak FLOP/s.

    Power of a chip that is held at its limit grows with the cube of the clock (voltage follows frequency), so half
    the watts per FLOP leave 0.79 of the rate. 1 for a curve measured on the device itself. Check: A100 PCIe (300 W)
    against SXM (400 W): 0.91 here, 0.93 measured as best matmul (stas00/ml-engineering).
    """
    lender = curve.coefficients.get("lender_watts_per_tflop", 0.0)
    own = gpu.power_w / (gpu.peak(gemm_type) * 1e-12)
    return min(1.0, (own / lender) ** (1.0 / 3.0)) if lender else 1.0


def _unfused_time_s(
    gpu: Gpu,
    curve: Curve,
    dtype: str,
    heads: Any,
    seq_q: Any,
    seq_kv: Any,
    qk: Any,
    v: Any,
    backward: bool,
    dropout: bool,
) -> Any:
    """Batched GEMMs over the whole score matrix plus element-wise passes over it."""
    side = "bwd" if backward else "fwd"
    scores = heads * seq_q * np.asarray(seq_kv, float)
    width = 0.5 * (np.asarray(qk, float) + v)
    aligned = (np.asarray(qk) % 8 == 0) & (np.asarray(v) % 8 == 0)
    efficiency = np.where(aligned, curve[f"gemm_efficiency_{side}"], _UNALIGNED_EFFICIENCY)
    rate = gpu.peak(dtype) * efficiency * width / (width + 64.0)
    gemm_s = _join(4.0 * scores * width / rate, 4.0 * scores / (gpu.hbm_bytes_per_s * gpu.memory_bound["efficiency"]))
    per_score = np.maximum(curve[f"score_bytes_{side}"] - (0.0 if dropout else 5.0), 2.0)
    return (2.0 if backward else 1.0) * gemm_s + memory_bound_time_s(gpu, scores * per_score, 4.0)


def _visited_keys(keys: Any, seq_q: Any, causal: Any, window: Any) -> tuple[Any, Any]:
    """(Mean, most) keys that one query visits; a causal window of w keys visits ``w - w**2 / (2 s)`` on average."""
    causal_mean = keys - 0.5 * causal * np.minimum(seq_q, keys)
    cap = np.minimum(np.where(np.asarray(window) > 0, window, keys), keys)
    windowed = np.minimum(causal_mean, cap * (1.0 - 0.5 * causal * cap / keys))
    return np.where(cap < keys, windowed, causal_mean), cap


def _head_rate(curve: Curve, width: Any, side: str) -> Any:
    """Rate for a head size over that of 128: one power below, another above."""
    ratio = width / 128.0
    below = np.minimum(ratio, 1.0) ** curve[f"head_power_{side}"]
    return below * np.maximum(ratio, 1.0) ** curve["head_power_above"]


def _join(compute_s: Any, traffic_s: Any) -> Any:
    """Smooth maximum of two resources that overlap (fourth-power norm), without overflow and cheap."""
    high = np.maximum(compute_s, traffic_s)
    low = np.minimum(compute_s, traffic_s) / np.maximum(high, 1e-30)
    square = low * low
    return high * np.sqrt(np.sqrt(1.0 + square * square))
