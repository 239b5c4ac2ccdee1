"""GEMM, grouped GEMM and element-wise curves from measured kernel tables."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from meshwright.costmodels.compute import gemm_time_s, grouped_gemm_time_s, memory_bound_time_s

from .common import (
    DEVICES,
    Array,
    Coefficients,
    Rows,
    bare_gpu,
    curve,
    entry,
    left_out_error,
    read,
    report,
    solve,
    text_rows,
)

BOUNDS = {
    "efficiency": (0.4, 0.9, 1.0),
    "k_prologue": (0.0, 300.0, 450.0),
    "rate_128x128": (0.5, 0.9, 1.0),
    "rate_64x64": (0.2, 0.5, 0.8),
    "tail": (0.0, 0.9, 1.0),
    "k_split": (500.0, 4000.0, 1e5),
    "throttle": (0.0, 0.1, 0.25),
    "throttle_after_s": (2e-5, 3e-4, 3e-3),
    "hbm_efficiency": (0.4, 0.85, 1.0),
    "floor_s": (5e-7, 3e-6, 8e-6),
}
# The FP8 and FP4 tables time the cast of the input with the GEMM; these two are fitted with it and then dropped.
CAST_BOUNDS = {"cast_bytes": (0.0, 4.0, 30.0), "cast_s": (0.0, 2e-6, 1.5e-5)}
TYPES = {"bf16": "bfloat16", "fp8": "fp8", "fp4": "nvfp4"}
GEMM_SOURCE = "ai-dynamo/aiconfigurator@095f58a (Apache-2.0) {}/gemm, vllm and trtllm, {}"
ACESO_SOURCE = "microsoft/SuperScaler branch Aceso (MIT) profiled-time-miniset, GPT-3 1.3B operators on V100"
#: Fractions of peak at n = k = 8192 by m (aiconfigurator 095f58a l40s, bf16), as printed in its collection summary.
L40S_FRACTIONS = {16: 0.03, 64: 0.11, 128: 0.21, 256: 0.37, 512: 0.64, 1024: 0.65, 8192: 0.58}


def fit_gemm(data: Path, table: str, kind: str) -> dict[str, Any] | None:
    """Fit one device and type; prints the out-of-group error."""
    frame = read(data, "kernels/gemm_by_shape.csv")
    frame = frame[(frame.gpu == table) & (frame.gemm_dtype == TYPES[kind])]
    if not len(frame):
        return None
    gpu = bare_gpu(DEVICES[table])
    m, n, k = (frame[c].to_numpy(float) for c in ("m", "n", "k"))
    cast = kind != "bf16"

    def predict(p: Coefficients) -> Array:
        device = replace(gpu, gemm={kind: curve(p)})
        seconds = gemm_time_s(device, kind, m, n, k)
        if cast:
            seconds = seconds + m * k * p["cast_bytes"] / gpu.hbm_bytes_per_s + p["cast_s"]
        return np.asarray(seconds, float)

    rows = Rows(
        predict=predict,
        seconds=frame.latency_ms.to_numpy(float) * 1e-3,
        weight=np.where(m >= 256, 1.0, 0.15),
        group=(n * 1e6 + k),
        lines=text_rows(frame, ["m", "n", "k", "framework", "latency_ms"]),
        classes={"m>=1024": m >= 1024, "m 256-512": (m >= 256) & (m < 1024), "m<256": m < 256},
    )
    bounds = {**BOUNDS, **(CAST_BOUNDS if cast else {})}
    found = solve(rows, bounds)
    error = left_out_error(rows, bounds)
    report(f"gemm {DEVICES[table]} {kind}", rows, error)
    kept = {name: found[name] for name in BOUNDS}
    mape = np.abs(error[m >= 256]).mean()
    note = "mape over m >= 256" + ("; the cast of the input was fitted apart and removed" if cast else "")
    return entry(kept, GEMM_SOURCE.format(table, note), rows=rows, mape=mape)


def fit_grouped_rate(data: Path, table: str, gemm: dict[str, Any]) -> float | None:
    """Rate of grouped over plain GEMMs: fused-MoE timings (two GEMMs, activation, permutation), balanced, bf16."""
    frame = read(data, "kernels/moe_by_shape.csv")
    frame = frame[
        (frame.gpu == table)
        & (frame.moe_dtype == "bfloat16")
        & (frame.distribution == "balanced")
        & (frame.num_tokens >= 1024)
        & (frame.kernel_source == "moe_torch_flow_cutlass")
    ]
    if len(frame) < 4:
        return None
    gpu = bare_gpu(DEVICES[table])
    experts = (frame.num_experts / frame.moe_ep_size).to_numpy(float)
    tokens = (frame.num_tokens * frame.topk / frame.num_experts).to_numpy(float)
    hidden, inner = frame.hidden_size.to_numpy(float), frame.inter_size.to_numpy(float)
    routed = tokens * experts

    def predict(p: Coefficients) -> Array:
        device = replace(gpu, gemm={"bf16": curve({**gemm["coefficients"], **p})})
        up = grouped_gemm_time_s(device, "bf16", tokens, experts, 2 * inner, hidden)
        down = grouped_gemm_time_s(device, "bf16", tokens, experts, hidden, inner)
        moved = routed * (6 * inner + 8 * hidden)  # activation; gather of inputs and scatter-add of outputs
        return np.asarray(up + down + memory_bound_time_s(device, moved, 4), float)

    columns = ["num_tokens", "hidden_size", "inter_size", "topk", "num_experts", "moe_ep_size", "latency_ms"]
    rows = Rows(
        predict=predict,
        seconds=frame.latency_ms.to_numpy(float) * 1e-3,
        weight=np.ones(len(frame)),
        group=hidden * 1e5 + inner,
        lines=text_rows(frame, columns),
        classes={"tokens/expert>=256": tokens >= 256},
    )
    bounds = {"grouped_rate": (0.3, 0.8, 1.0)}
    report(f"grouped gemm {DEVICES[table]} bf16", rows, left_out_error(rows, bounds))
    return float(solve(rows, bounds)["grouped_rate"])


def check_vidur(data: Path, table: str, gemm: dict[str, Any]) -> None:
    """Print the error on an independent table (model layers of odd widths), which the fit does not see."""
    frame = read(data, "kernels/vidur_linear_ops.csv")
    frame = frame[(frame.gpu == table[:4]) & (frame.num_tokens >= 1024)]
    device = replace(bare_gpu(DEVICES[table]), gemm={"bf16": curve({**gemm["coefficients"], "grouped_rate": 1.0})})
    tp, width = frame.num_tensor_parallel_workers, frame.n_embd / frame.n_head
    shapes = {
        "attn_pre_proj": ((frame.n_head / tp + 2 * np.ceil(frame.n_kv_head / tp)) * width, frame.n_embd),
        "attn_post_proj": (frame.n_embd, frame.n_embd / tp),
        "mlp_up_proj": (2 * frame.n_expanded_embd / tp, frame.n_embd),
        "mlp_down_proj": (frame.n_embd, frame.n_expanded_embd / tp),
    }
    for name, (n, k) in shapes.items():
        error = gemm_time_s(device, "bf16", frame.num_tokens, n, k) / (frame[f"{name}_ms"] * 1e-3) - 1.0
        print(f"  check vidur {table} {name:15s} MAPE {error.abs().mean():.3f} bias {error.mean():+.3f}")


def aceso_operators(data: Path) -> Any:
    """V100 operator times, one row per operator, micro batch and tensor parallel size."""
    import pandas as pd

    frames = []
    for path in sorted((data / "peers/aceso/profiled-time-miniset").glob("gpt_1_3B_*_algo0.csv")):
        batch, tp = (int(part[3:] if part[0] == "m" else part[2:]) for part in path.stem.split("_")[3:5])
        frames.append(pd.read_csv(path).assign(batch=batch, tp=tp))
    return pd.concat(frames, ignore_index=True)


def fit_v100(data: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(GEMM curve, element-wise curve) of the V100 from whole-operator times: h 2048, FFN 8192, s 2048, fp16."""
    ops = aceso_operators(data).rename(columns={"forward-compute": "fwd_us"})
    ops["m"] = ops.batch * 2048.0
    widths = {"enc-attention-qkv": (6144, 2048), "enc-MLP-GEMM-1": (8192, 2048)}
    alone = {"enc-attention-dense": (2048, 2048), "enc-MLP-GEMM-2": (2048, 8192)}  # with tp they hold an all-reduce
    linear = ops[ops.op_name.isin(widths) | (ops.op_name.isin(alone) & (ops.tp == 1))].copy()
    shape = {**widths, **alone}
    linear["n"] = [shape[o][0] / (t if o in widths else 1) for o, t in zip(linear.op_name, linear.tp, strict=True)]
    linear["k"] = [float(shape[o][1]) for o in linear.op_name]
    gpu = bare_gpu("v100-sxm2-32gb")
    m, n, k = (linear[c].to_numpy(float) for c in ("m", "n", "k"))
    fixed = {"k_split": 4000.0, "throttle_after_s": 1e-3, "hbm_efficiency": 0.8, "floor_s": 4e-6, "throttle": 0.0}
    free = {name: b for name, b in BOUNDS.items() if name not in fixed}
    rows = Rows(
        predict=lambda p: np.asarray(
            gemm_time_s(replace(gpu, gemm={"fp16": curve({**fixed, **p})}), "fp16", m, n, k), float
        ),
        seconds=linear.fwd_us.to_numpy(float) * 1e-6,
        weight=np.ones(len(linear)),
        group=n * 1e6 + k,
        lines=text_rows(linear, ["op_name", "m", "n", "k", "fwd_us"]),
    )
    error = left_out_error(rows, free)
    report("gemm v100-sxm2-32gb fp16", rows, error)
    gemm = entry({**solve(rows, free), **fixed}, ACESO_SOURCE, rows=rows, mape=np.abs(error).mean())
    plain = ops[ops.op_name.isin(["enc-1st-layernorm", "enc-2nd-layernorm", "enc-MLP-gelu"])]
    moved = np.where(plain.op_name == "enc-MLP-gelu", 4 * plain.m * 8192 / plain.tp, 4 * plain.m * 2048)
    return gemm, _fit_memory("v100-sxm2-32gb", moved, plain.fwd_us * 1e-6, plain.op_name, ACESO_SOURCE)


def fit_memory(data: Path, table: str) -> dict[str, Any]:
    """Element-wise kernels of vidur's layers: gated activation and residual add, pooled.

    The two run at very different shares of the bandwidth (A100 0.50 and 0.88), so the error is large by nature;
    training frameworks' fused kernels lie between (``memory_derate`` of the software). Its norm kernel (0.34) is
    left out as untypical.
    """
    import pandas as pd

    frame = read(data, "kernels/vidur_linear_ops.csv")
    frame = frame[(frame.gpu == table[:4]) & (frame.num_tokens >= 128)]
    tokens, tp = frame.num_tokens, frame.num_tensor_parallel_workers
    moved = pd.concat([6 * tokens * frame.n_expanded_embd / tp, 6 * tokens * frame.n_embd]).to_numpy(float)
    seconds = pd.concat([frame.mlp_act_ms, frame.add_ms]).to_numpy(float) * 1e-3
    group = pd.concat([frame.model, frame.model]).to_numpy(str)
    keep = seconds > 0
    source = "microsoft/vidur@7d47513 (MIT) mlp.csv, mlp_act and add, 128 tokens and more"
    return _fit_memory(DEVICES[table], moved[keep], seconds[keep], group[keep], source)


def _fit_memory(name: str, moved: Array, seconds: Any, group: Any, source: str) -> dict[str, Any]:
    gpu = bare_gpu(name)
    rows = Rows(
        predict=lambda p: np.asarray(memory_bound_time_s(replace(gpu, memory_bound=curve(p)), moved), float),
        seconds=np.asarray(seconds, float),
        weight=np.where(moved > 1e7, 1.0, 0.2),
        group=np.asarray(group, dtype=str),
        lines=[f"{a:g},{b:g}" for a, b in zip(moved, seconds, strict=True)],
        classes={">10MB": moved > 1e7},
    )
    # large streaming kernels reach 80% of the bandwidth and more on every device (BabelStream: 0.86 to 0.90 on A100)
    bounds = {"efficiency": (0.8, 0.83, 0.95), "floor_s": (1e-6, 2.5e-6, 6e-6)}
    error = left_out_error(rows, bounds)
    report(f"memory bound {name}", rows, error)
    return entry(solve(rows, bounds), source, rows=rows, mape=np.abs(error).mean())


def fit_l40s(lent: dict[str, Any]) -> dict[str, Any]:
    """Efficiency and throttling of the L40S from seven published fractions of peak, the rest from the A100."""
    gpu = bare_gpu("l40s-48gb")
    m = np.array(list(L40S_FRACTIONS), float)
    seconds = 2 * m * 8192.0**2 / (np.array(list(L40S_FRACTIONS.values())) * gpu.peak("bf16"))
    base = lent["coefficients"]
    rows = Rows(
        predict=lambda p: np.asarray(
            gemm_time_s(replace(gpu, gemm={"bf16": curve({**base, **p})}), "bf16", m, 8192.0, 8192.0), float
        ),
        seconds=seconds,
        weight=np.where(m >= 256, 1.0, 0.15),
        group=m,
        lines=[f"{a:g},{b}" for a, b in L40S_FRACTIONS.items()],
    )
    bounds = {"efficiency": (0.4, 0.7, 1.0), "throttle": (0.0, 0.1, 0.25)}
    error = left_out_error(rows, bounds)
    report("gemm l40s-48gb bf16", rows, error)
    source = "ai-dynamo/aiconfigurator@095f58a l40s, fractions of peak at n = k = 8192; other coefficients of the A100"
    return entry({**base, **solve(rows, bounds)}, source, rows=rows, mape=np.abs(error).mean())
