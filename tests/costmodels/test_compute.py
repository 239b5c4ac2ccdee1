"""Operator times: shape of the formulae on a round-number device, and published points on the shipped curves."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshwright.costmodels.compute import (
    attention_kernel,
    attention_time_s,
    gemm_time_s,
    grouped_gemm_time_s,
    memory_bound_time_s,
)
from meshwright.hardware_profiles.errors import MissingProfileDataError
from meshwright.hardware_profiles.load import list_gpus, load_gpu

_spec = importlib.util.spec_from_file_location("devices", Path(__file__).with_name("devices.py"))
assert _spec and _spec.loader
devices = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(devices)

sizes = st.integers(1, 65536)
widths = st.integers(64, 65536)


def attend(gpu, kernel="flash2", **changes):
    shape = {
        "batch": 1, "seq_q": 4096, "seq_kv": 4096, "n_heads": 32, "n_kv_heads": 8, "head_dim": 128, "v_head_dim": 128,
        "causal": 1,
    }  # fmt: skip
    return attention_time_s(gpu, kernel, "bf16", **(shape | changes))


@settings(max_examples=200, deadline=None)
@given(m=sizes, n=widths, k=widths, more=st.floats(1.0, 8.0))
def test_gemm_is_never_faster_when_larger(m, n, k, more):
    gpu = devices.gpu()
    base = gemm_time_s(gpu, "bf16", m, n, k)
    for grown in ((m * more, n, k), (m, n * more, k), (m, n, k * more)):
        assert gemm_time_s(gpu, "bf16", *grown) >= base * (1 - 1e-9)


@settings(max_examples=200, deadline=None)
@given(m=sizes, n=widths, k=widths)
def test_gemm_never_beats_peak_or_memory(m, n, k):
    gpu = devices.gpu()
    seconds = gemm_time_s(gpu, "bf16", m, n, k)
    assert seconds >= 2.0 * m * n * k / gpu.peak("bf16")
    assert seconds >= 2.0 * (m * k + k * n + m * n) / gpu.hbm_bytes_per_s


def test_scalar_equals_array_in_every_function():
    gpu, m, n = devices.gpu(), np.array([1, 100, 4096, 30000]), np.array([512, 1000, 8192, 28672])
    cases = [
        (lambda a, b: gemm_time_s(gpu, "bf16", a, b, 4096)),
        (lambda a, b: grouped_gemm_time_s(gpu, "fp8", a, 4, b, 2048)),
        (lambda a, b: memory_bound_time_s(gpu, a * b, 3)),
        (lambda a, b: attend(gpu, seq_q=b, seq_kv=b, batch=a)),
        (lambda a, b: attend(gpu, "unfused", seq_q=b, seq_kv=b, batch=a, backward=True)),
        (lambda a, b: attend(gpu, seq_q=b, seq_kv=b, batch=a, window=4096, backward=True)),
    ]
    for case in cases:
        whole = case(m, n)
        assert whole.shape == (4,)
        for i in range(4):
            assert float(case(int(m[i]), int(n[i]))) == whole[i]


def test_grouped_gemm_of_one_expert_is_a_gemm_at_the_grouped_rate():
    curve = devices.curve(**{**devices.GEMM.coefficients, "grouped_rate": 1.0})
    gpu = devices.gpu(gemm={"bf16": curve})
    assert grouped_gemm_time_s(gpu, "bf16", 4096, 1, 8192, 4096) == gemm_time_s(gpu, "bf16", 4096, 8192, 4096)
    slower = devices.gpu()
    assert grouped_gemm_time_s(slower, "bf16", 4096, 1, 8192, 4096) > gemm_time_s(slower, "bf16", 4096, 8192, 4096)


def test_many_small_experts_read_all_their_weights():
    gpu = devices.gpu()
    seconds = grouped_gemm_time_s(gpu, "bf16", 1, 64, 4096, 2048)
    assert seconds >= 64 * 2 * 4096 * 2048 / gpu.hbm_bytes_per_s


def test_causal_mask_halves_flash_but_not_unfused_attention():
    gpu = devices.gpu()
    full, causal = (attend(gpu, seq_q=16384, seq_kv=16384, causal=c) for c in (0, 1))
    assert 0.5 < causal / full < 0.56
    assert attend(gpu, "unfused", causal=1) == attend(gpu, "unfused", causal=0)


def test_window_limits_the_work():
    gpu = devices.gpu()
    full = attend(gpu, seq_q=32768, seq_kv=32768)
    narrow = attend(gpu, seq_q=32768, seq_kv=32768, window=4096)
    assert 0.15 < narrow / full < 0.35  # (w - w^2/2s) / (s/2) = 0.234, plus the per-block prologue
    assert attend(gpu, window=4096) == attend(gpu, window=0)


@settings(max_examples=100, deadline=None)
@given(batch=st.integers(1, 8), seq=st.integers(128, 32768), heads=st.integers(1, 64), more=st.integers(1, 4))
def test_attention_grows_with_batch_sequence_and_heads(batch, seq, heads, more):
    gpu = devices.gpu()
    for kernel in ("flash2", "unfused"):
        for backward in (False, True):
            base = {"batch": batch, "seq_q": seq, "seq_kv": seq, "n_heads": heads, "backward": backward}
            seconds = attend(gpu, kernel, **base)
            for grown in (
                {"batch": batch * more},
                {"n_heads": heads * more},
                {"seq_q": seq * more, "seq_kv": seq * more},
            ):
                assert attend(gpu, kernel, **(base | grown)) >= seconds * (1 - 1e-9)


def test_missing_figures_are_one_sentence():
    gpu = devices.gpu()
    with pytest.raises(MissingProfileDataError, match="fp4"):
        gemm_time_s(gpu, "fp4", 1, 1, 1)
    with pytest.raises(MissingProfileDataError, match="flash1"):
        attend(gpu, "flash1")
    assert attention_kernel(devices.gpu(), "cudnn") == "flash2"
    assert attention_kernel(load_gpu("v100-sxm2-32gb"), "flash3") == "unfused"


#: Best bf16 matmul that a search over shapes found, TFLOP/s: stas00/ml-engineering@744d01e1 (CC BY-SA 4.0),
#: compute/accelerator/README.md. A model of typical shapes should come near the ceiling and not pass it by much.
BEST_MATMUL = {
    "a100-sxm-80gb": (271.2, (1024, 10240, 5120)),
    "h100-sxm-80gb": (794.5, (2048, 2048, 13312)),
    "b200-sxm-180gb": (1745.0, (1792, 16128, 3072)),
    "mi300x-192gb": (668.4, (10240, 15360, 8192)),
}


@pytest.mark.parametrize("name", BEST_MATMUL)
def test_published_best_matmul(name):
    best, (m, n, k) = BEST_MATMUL[name]
    rate = 2.0 * m * n * k / gemm_time_s(load_gpu(name), "bf16", m, n, k) / 1e12
    assert rate == pytest.approx(best, rel=0.16)
    assert rate < 1.05 * best


#: FlashAttention-2 and -3, cuDNN: forward and backward TFLOP/s at 16k tokens, head size 128, hidden 2048, no mask, on
#: one H100 SXM5: arXiv 2407.08608, Figures 5 and 6; A100 both passes: flash-attention repository benchmark figure.
ATTENTION = [
    ("h100-sxm-80gb", "flash2", "fwd", 370.0),
    ("h100-sxm-80gb", "flash2", "bwd", 322.0),
    ("h100-sxm-80gb", "flash3", "fwd", 648.0),
    ("h100-sxm-80gb", "flash3", "bwd", 561.0),
    ("h100-sxm-80gb", "cudnn", "bwd", 516.0),
    ("a100-sxm-80gb", "flash2", "both", 203.0),
]


@pytest.mark.parametrize(("name", "kernel", "direction", "tflops"), ATTENTION)
def test_published_attention_rate(name, kernel, direction, tflops):
    gpu = load_gpu(name)
    shape = {"seq_q": 16384, "seq_kv": 16384, "n_heads": 16, "n_kv_heads": 16, "causal": 0}
    forward = attend(gpu, kernel, **shape)
    backward = attend(gpu, kernel, backward=True, **shape)
    flops = 4.0 * 16 * 16384.0**2 * 128
    rate = {"fwd": flops / forward, "bwd": 2.5 * flops / backward, "both": 3.5 * flops / (forward + backward)}
    assert rate[direction] / 1e12 == pytest.approx(tflops, rel=0.06)


def test_published_unfused_v100_operators():
    """Scores, softmax, dropout and context of 8 x 2048 tokens, 32 heads of 64 (microsoft/SuperScaler Aceso, MIT)."""
    gpu = load_gpu("v100-sxm2-32gb")
    shape = {"batch": 8, "seq_q": 2048, "seq_kv": 2048, "n_heads": 32, "n_kv_heads": 32, "head_dim": 64}
    shape |= {"v_head_dim": 64, "causal": 1}
    forward = attention_time_s(gpu, "unfused", "fp16", **shape)
    backward = attention_time_s(gpu, "unfused", "fp16", backward=True, **shape)
    assert forward == pytest.approx(20.98e-3, rel=0.1)
    assert backward == pytest.approx(27.36e-3, rel=0.1)


def test_published_selective_recompute_on_a100():
    """Recomputing the attention core of one 22B layer (b 4, s 2048, 8 of 64 heads of 96) adds 13.1 - 11.8 ms to the
    backward pass: arXiv 2205.05198 Table 4 (rounded to 0.1 ms, from a device that the unfused fit did not see)."""
    shape = {"batch": 4, "seq_q": 2048, "seq_kv": 2048, "n_heads": 8, "n_kv_heads": 8, "head_dim": 96}
    seconds = attend(load_gpu("a100-sxm-80gb"), "unfused", **shape, v_head_dim=96)
    assert seconds == pytest.approx(1.3e-3, rel=0.15)


@pytest.mark.parametrize("name", list_gpus())
def test_every_shipped_gpu_stays_within_its_peak(name):
    gpu = load_gpu(name)
    m = np.array([256.0, 2048, 16384])
    for kind in gpu.peak_flops:
        share = 2 * m * 8192 * 8192 / gemm_time_s(gpu, kind, m, 8192, 8192) / gpu.peak(kind)
        assert np.all(share < 1.0)
        assert share[-1] > 0.25
    kernel = attention_kernel(gpu, "flash3")
    dtype = "bf16" if "bf16" in gpu.peak_flops else "fp16"
    shape = {"batch": 1, "seq_q": 8192, "seq_kv": 8192, "n_heads": 32, "n_kv_heads": 8, "head_dim": 128}
    seconds = attention_time_s(gpu, kernel, dtype, **shape, v_head_dim=128, causal=1)
    assert 2.0 * 32 * 8192.0**2 * 128 / seconds < gpu.peak(dtype)
    assert 0.4 < 1e10 / gpu.hbm_bytes_per_s / memory_bound_time_s(gpu, 1e10) < 1.0
