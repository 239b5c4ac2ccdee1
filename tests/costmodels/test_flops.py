"""FLOP counts against published formulas and printed utilisations."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from meshwright.costmodels.candidates import CandidateTable
from meshwright.costmodels.flops import (
    flops_per_token,
    forward_flops,
    gpt_step_flops,
    hardware_flops,
    hardware_step_flops,
    keys_per_query,
    lora_active_params,
    lora_params,
    lora_step_flops,
    step_flops,
)
from meshwright.costmodels.load_model import load_model
from meshwright.costmodels.parallel import ParallelConfig, Recompute
from meshwright.hardware_profiles.errors import InvalidProblemError

A100_PEAK = 312e12
#: arXiv 2205.05198 Tables 3 and 5 (sequence and selective recompute), section 6.3 for the fifth:
#: model, GPUs, sequences, seconds, MFU in per cent.
KORTHIKANTI = [
    ("megatron-22b", 8, 4, 1.10, 41.5),
    ("gpt3-175b", 64, 64, 13.75, 51.4),
    ("mt-nlg-530b", 280, 280, 37.83, 56.0),
    ("megatron-1t", 512, 512, 71.49, 56.3),
    ("mt-nlg-530b", 2240, 2240, 39.15, 54.2),
]


@pytest.mark.parametrize(("name", "gpus", "batch", "seconds", "mfu"), KORTHIKANTI)
def test_printed_mfu_of_korthikanti(name: str, gpus: int, batch: int, seconds: float, mfu: float) -> None:
    model = replace(load_model(name), vocab=51200)  # the paper's padded vocabulary
    flops = step_flops(model, 2048, batch, causal_half=False)
    assert 100 * flops / (seconds * gpus * A100_PEAK) == pytest.approx(mfu, abs=0.2)


@pytest.mark.parametrize("name", ["megatron-22b", "gpt3-175b", "mt-nlg-530b", "megatron-1t", "mpt-7b", "bloom-176b"])
@pytest.mark.parametrize("seq_len", [512, 2048, 8192])
def test_closed_form_of_a_gpt(name: str, seq_len: int) -> None:
    model = load_model(name)
    closed = gpt_step_flops(model.n_layers, model.hidden, model.vocab, seq_len, 3)
    assert step_flops(model, seq_len, 3, causal_half=False) == pytest.approx(closed, rel=1e-12)


def test_full_recompute_is_the_96_of_ptd_p() -> None:
    """arXiv 2104.04473 equation 3: 96 B s L h^2 (1 + s/(6h) + V/(16 L h)), with recompute of every layer."""
    m, s = load_model("mt-nlg-530b"), 2048
    inner = 1 + s / (6 * m.hidden) + m.vocab / (16 * m.n_layers * m.hidden)
    published = 96 * 280 * s * m.n_layers * m.hidden**2 * inner
    assert hardware_flops(m, s, 280, recompute=Recompute.FULL) == pytest.approx(published, rel=1e-12)


@pytest.mark.parametrize(
    ("name", "causal_half", "gflop"),
    [
        # NeMo 24.07 and the Megatron-LM README: 6 (N - embedding) + 12 L h s
        ("llama-3-70b", False, 481.4),
        ("llama-3-8b", False, 57.9),
        # Megatron-Bridge docs/performance-summary.md: printed TFLOP/s over tokens/s, attention halved
        ("llama-3-70b", True, 449.2),
        ("llama-3-8b", True, 51.5),
    ],
)
def test_nvidia_conventions_at_8k(name: str, causal_half: bool, gflop: float) -> None:
    got = flops_per_token(load_model(name), 8192, causal_half=causal_half) / 1e9
    assert got == pytest.approx(gflop, abs=0.06)


def test_deepseek_v3_lies_in_the_printed_range() -> None:
    """Megatron-Bridge prints TFLOP/s over tokens/s of 249 to 261 at 4K, by whether MTP counts."""
    v3 = load_model("deepseek-v3")
    assert flops_per_token(v3, 4096, causal_half=True) / 1e9 == pytest.approx(261, abs=1.0)
    without = flops_per_token(replace(v3, mtp_layers=0), 4096, causal_half=True) / 1e9
    assert without == pytest.approx(249, abs=3.0)


@pytest.mark.parametrize(
    "name", ["llama-3.1-8b", "mixtral-8x7b", "deepseek-v3", "qwen3-30b-a3b", "gpt-oss-20b", "bloom-176b"]
)
def test_linear_part_is_two_per_active_weight(name: str) -> None:
    """Matrices a token meets: active weights without embedding table, norms, biases and sinks."""
    m = replace(load_model(name), mtp_layers=0)
    linear = forward_flops(m, 1).linear / 2
    table = 0 if m.tied_embeddings else m.vocab * m.hidden
    assert linear == pytest.approx(m.active_params() - table, rel=2e-3)
    assert linear < m.active_params() - table


def test_windows_bound_the_keys() -> None:
    assert keys_per_query(1000, 0, False) == 1000
    assert keys_per_query(1000, 0, True) == 500
    assert keys_per_query(1000, 128, False) == 128
    assert keys_per_query(1000, 4096, True) == keys_per_query(1000, 0, True)
    # the exact mean over positions is (1 + 2 + ... + w + (s - w) w) / s, half a key more
    exact = np.minimum(np.arange(1, 1001), 128).mean()
    assert keys_per_query(1000, 128, True) == pytest.approx(exact - 128 / 2000, rel=1e-12)
    oss = load_model("gpt-oss-120b")
    full = replace(oss, attention=replace(oss.attention, window=0, windowed_layers=0))
    ratio = forward_flops(oss, 8192).attention / forward_flops(full, 8192).attention
    assert ratio == pytest.approx(0.5 + 0.5 * 128 / 8192)


def test_moe_counts_top_k_only() -> None:
    m = load_model("mixtral-8x7b")
    assert m.moe is not None
    more = replace(m, moe=replace(m.moe, top_k=4))
    extra = forward_flops(more, 1024).ffn - forward_flops(m, 1024).ffn
    assert extra == 2 * 1024 * 32 * 2 * 3 * 4096 * 14336


def test_mla_projections_by_hand() -> None:
    """DeepSeek-V2-Lite (no query compression): q, joint down, up, output."""
    m = load_model("deepseek-v2-lite")
    f = forward_flops(m, 1)
    q = 2048 * 16 * 192
    up = 512 * 16 * (128 + 128)
    assert f.mla_up == 2 * 27 * (q + up)
    assert f.projections == 2 * 27 * (2048 * (512 + 64) + 16 * 128 * 2048)
    assert forward_flops(m, 4096).attention == 2 * 4096 * 27 * 16 * (192 + 128) * 4096


def test_recompute_adds_by_module() -> None:
    m = load_model("deepseek-v3")
    f, base = forward_flops(m, 4096), step_flops(m, 4096, 2)
    for mask, part in [
        (Recompute.NONE, 0.0),
        (Recompute.NORM | Recompute.FFN_ACTIVATION, 0.0),
        (Recompute.CORE_ATTENTION, f.attention),
        (Recompute.FFN | Recompute.MLA_UP_PROJECTION, f.ffn + f.mla_up),
        (Recompute.FULL | Recompute.CORE_ATTENTION, f.layers),
    ]:
        assert hardware_flops(m, 4096, 2, recompute=mask) == pytest.approx(base + 2 * part, rel=1e-12)
    half = hardware_flops(m, 4096, 2, recompute=Recompute.FULL, layer_share=0.5)
    assert half == pytest.approx(base + f.layers, rel=1e-12)


def test_config_and_table_agree() -> None:
    m = load_model("llama-3.1-8b")
    configs = [
        ParallelConfig(recompute=Recompute.FULL, recompute_layers=4, pp=4),
        ParallelConfig(recompute=Recompute.FULL),
        ParallelConfig(recompute=Recompute.CORE_ATTENTION | Recompute.FFN, pp=2),
        ParallelConfig(),
    ]
    one = [hardware_step_flops(m, 4096, 8, c) for c in configs]
    many = hardware_step_flops(m, 4096, 8, CandidateTable.from_configs(configs))
    assert many.tolist() == one
    half = 0.5 * 8 * forward_flops(m, 4096, causal_half=True).layers
    assert one[0] == pytest.approx(one[3] + half, rel=1e-12)


def test_arrays_equal_scalars() -> None:
    m = load_model("gpt-oss-20b")
    seqs, batches = np.array([64, 128, 4096]), np.array([1, 2, 3])
    got = step_flops(m, seqs, batches, causal_half=True)
    assert got.tolist() == [step_flops(m, int(s), int(b), causal_half=True) for s, b in zip(seqs, batches, strict=True)]
    assert isinstance(step_flops(m, 4096, 1), float)


def test_lora_is_about_four_per_weight() -> None:
    m = load_model("llama-2-70b")
    n = m.params() - m.vocab * m.hidden
    attention = 3 * forward_flops(m, 4096, causal_half=True).attention / 4096
    per_token = lora_step_flops(m, 4096, 1, rank=16, causal_half=True) / 4096
    assert (per_token - attention) / n == pytest.approx(4.0, rel=2e-3)
    assert step_flops(m, 4096, 5, task="lora") < lora_step_flops(m, 4096, 5, rank=16)


def test_lora_weights() -> None:
    m = load_model("llama-2-70b")
    # one pair for fused q, k, v and one for the output, 80 layers, rank 16
    assert lora_params(m, 16) == 80 * 16 * ((8192 + 10240) + (8192 + 8192)) == 44_564_480
    # own pairs for q, k, v, o as Hugging Face PEFT makes them
    assert lora_params(m, 16, fused=False) == 80 * 16 * (16384 + 9216 + 9216 + 16384) == 65_536_000
    both = lora_params(m, 16, "all") - lora_params(m, 16)
    assert both == 80 * 16 * ((8192 + 2 * 28672) + (28672 + 8192))
    moe = load_model("mixtral-8x7b")
    per_expert = 32 * 8 * ((4096 + 2 * 14336) + (14336 + 4096))
    assert lora_params(moe, 8, "all") - lora_params(moe, 8) == 8 * per_expert
    assert lora_active_params(moe, 8, "all") - lora_params(moe, 8) == 2 * per_expert


def test_lora_errors() -> None:
    m = load_model("llama-2-7b")
    with pytest.raises(InvalidProblemError, match="lora_targets must be one of attention, all, not 'ffn'"):
        lora_params(m, 8, "ffn")
    with pytest.raises(InvalidProblemError, match="lora_rank must be a positive number, not 0"):
        lora_params(m, 0)
