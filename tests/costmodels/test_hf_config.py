"""Hugging Face configs of each family: shipped models reproduced, layers counted by hand, errors in one sentence."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from meshwright.costmodels.hf_config import known_model_types, spec_from_hf
from meshwright.costmodels.load_model import load_model
from meshwright.hardware_profiles.errors import InvalidProblemError


def llama(
    kind: str, layers: int, hidden: int, ffn: int, vocab: int, heads: int, kv: int, **more: Any
) -> dict[str, Any]:
    return {
        "model_type": kind,
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": ffn,
        "vocab_size": vocab,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        **more,
    }


MLA = {"kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128}
#: Dimensions as the checkpoints' config.json print them; null keys included where they matter.
CONFIGS: dict[str, dict[str, Any]] = {
    "llama-3.1-8b": llama("llama", 32, 4096, 14336, 128256, 32, 8, max_position_embeddings=131072),
    "llama-3.2-1b": llama(
        "llama", 16, 2048, 8192, 128256, 32, 8, head_dim=64, tie_word_embeddings=True, max_position_embeddings=131072
    ),
    "llama-2-70b": llama("llama", 80, 8192, 28672, 32000, 64, 8, max_position_embeddings=4096),
    "qwen2.5-7b": llama(
        "qwen2", 28, 3584, 18944, 152064, 28, 4, use_sliding_window=False, sliding_window=131072,
        max_window_layers=28, max_position_embeddings=131072,
    ),
    "qwen3-8b": llama(
        "qwen3", 36, 4096, 12288, 151936, 32, 8, head_dim=128, attention_bias=False, sliding_window=None,
        use_sliding_window=False, max_position_embeddings=40960,
    ),
    "qwen3-30b-a3b": llama(
        "qwen3_moe", 48, 2048, 6144, 151936, 32, 4, head_dim=128, num_experts=128, num_experts_per_tok=8,
        moe_intermediate_size=768, decoder_sparse_step=1, mlp_only_layers=[], max_position_embeddings=40960,
    ),
    "qwen1.5-moe-a2.7b": llama(
        "qwen2_moe", 24, 2048, 5632, 151936, 16, 16, num_experts=60, num_experts_per_tok=4,
        moe_intermediate_size=1408, shared_expert_intermediate_size=5632, max_position_embeddings=8192,
    ),
    "mixtral-8x7b": llama(
        "mixtral", 32, 4096, 14336, 32000, 32, 8, num_local_experts=8, num_experts_per_tok=2, sliding_window=None,
        max_position_embeddings=32768,
    ),
    "deepseek-v3": llama(
        "deepseek_v3", 61, 7168, 18432, 129280, 128, 128, **MLA, q_lora_rank=1536, first_k_dense_replace=3,
        moe_layer_freq=1, n_routed_experts=256, n_shared_experts=1, num_experts_per_tok=8,
        moe_intermediate_size=2048, num_nextn_predict_layers=1, max_position_embeddings=163840,
    ),
    "deepseek-v2-lite": llama(
        "deepseek_v2", 27, 2048, 10944, 102400, 16, 16, **MLA, q_lora_rank=None, first_k_dense_replace=1,
        moe_layer_freq=1, n_routed_experts=64, n_shared_experts=2, num_experts_per_tok=6,
        moe_intermediate_size=1408, max_position_embeddings=163840,
    ),
    "olmo-2-32b": llama("olmo2", 64, 5120, 27648, 100352, 40, 8, max_position_embeddings=4096),
    "olmoe-1b-7b": llama(
        "olmoe", 16, 2048, 1024, 50304, 16, 16, num_experts=64, num_experts_per_tok=8, max_position_embeddings=4096
    ),
    "glm-4.5": llama(
        "glm4_moe", 92, 5120, 12288, 151552, 96, 8, head_dim=128, attention_bias=True, use_qk_norm=True,
        first_k_dense_replace=3, n_routed_experts=160, n_shared_experts=1, num_experts_per_tok=8,
        moe_intermediate_size=1536, num_nextn_predict_layers=1, max_position_embeddings=131072,
    ),
    "gpt-oss-20b": llama(
        "gpt_oss", 24, 2880, 2880, 201088, 64, 8, head_dim=64, attention_bias=True, num_local_experts=32,
        num_experts_per_tok=4, sliding_window=128, layer_types=["sliding_attention", "full_attention"] * 12,
        max_position_embeddings=131072,
    ),
    "nemotron-4-15b": llama("nemotron", 32, 6144, 24576, 256000, 48, 8, max_position_embeddings=4096),
    "internlm-7b": {
        **{k: v for k, v in llama("internlm", 32, 4096, 11008, 103168, 32, 32).items() if k != "num_key_value_heads"},
        "bias": True,
        "max_position_embeddings": 2048,
    },
    "gpt-neox-20b": {
        "model_type": "gpt_neox", "num_hidden_layers": 44, "hidden_size": 6144, "intermediate_size": 24576,
        "vocab_size": 50432, "num_attention_heads": 64, "use_parallel_residual": True, "max_position_embeddings": 2048,
    },
    "bloom-176b": {
        "model_type": "bloom", "n_layer": 70, "n_embed": 14336, "num_attention_heads": 112, "vocab_size": 250880,
        "attention_dropout": 0.0, "hidden_dropout": 0.0, "seq_length": 2048,
    },
    "mpt-7b": {
        "model_type": "mpt", "n_layers": 32, "d_model": 4096, "n_heads": 32, "expansion_ratio": 4,
        "vocab_size": 50368, "max_seq_len": 2048, "no_bias": False, "learned_pos_emb": True,
        "attn_config": {"alibi": False},
    },
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_config_gives_the_shipped_model(name: str) -> None:
    shipped = load_model(name)
    got = spec_from_hf(CONFIGS[name], name, "config.json")
    assert replace(got, source="", family="") == replace(shipped, source="", family="")


def test_gpt2() -> None:
    """The 124M checkpoint has 124,439,808 elements."""
    config = {
        "model_type": "gpt2",
        "n_embd": 768,
        "n_layer": 12,
        "n_head": 12,
        "vocab_size": 50257,
        "n_positions": 1024,
    }
    model = spec_from_hf(config, "gpt2", "c")
    assert model.params() == 124_439_808
    assert model.dropout and model.tied_embeddings and model.ffn_hidden == 3072
    assert not spec_from_hf({**config, "resid_pdrop": 0.0, "attn_pdrop": 0, "embd_pdrop": 0}, "g", "c").dropout
    assert spec_from_hf({**config, "n_inner": 1000}, "g", "c").ffn_hidden == 1000


def test_released_mpt_has_alibi_and_no_bias() -> None:
    """MPT-7B: 6,649,286,656 elements, LayerNorm without bias."""
    config = {
        "model_type": "mpt", "n_layers": 32, "d_model": 4096, "n_heads": 32, "expansion_ratio": 4, "vocab_size": 50432,
        "max_seq_len": 2048, "no_bias": True, "learned_pos_emb": True, "attn_config": {"alibi": True},
    }  # fmt: skip
    model = spec_from_hf(config, "mpt", "c")
    assert model.learned_positions == 0 and model.params() == 6_649_286_656


def test_opt() -> None:
    """OPT-6.7B: 6,658,473,984 elements; two extra rows in the position table."""
    config = {
        "model_type": "opt", "num_hidden_layers": 32, "hidden_size": 4096, "ffn_dim": 16384, "vocab_size": 50272,
        "num_attention_heads": 32, "max_position_embeddings": 2048, "word_embed_proj_dim": 4096,
    }  # fmt: skip
    assert spec_from_hf(config, "opt", "c").params() == 6_658_473_984
    with pytest.raises(InvalidProblemError, match="word_embed_proj_dim"):
        spec_from_hf({**config, "word_embed_proj_dim": 512}, "opt", "c")


def test_mistral_window_and_gemma() -> None:
    """Mistral-7B 7,241,732,096; Gemma-2B 2,506,172,416; Gemma-2-9B 9,241,705,984 elements."""
    mistral = spec_from_hf(llama("mistral", 32, 4096, 14336, 32000, 32, 8, sliding_window=4096), "m", "c")
    assert (mistral.attention.window, mistral.attention.windowed_layers) == (4096, 32)
    assert mistral.params() == 7_241_732_096
    gemma = spec_from_hf(llama("gemma", 18, 2048, 16384, 256000, 8, 1, head_dim=256), "g", "c")
    assert gemma.params() == 2_506_172_416 and gemma.tied_embeddings
    two = spec_from_hf(llama("gemma2", 42, 3584, 14336, 256000, 16, 8, head_dim=256, sliding_window=4096), "g", "c")
    assert two.params() == 9_241_705_984 and two.attention.windowed_layers == 21
    three = spec_from_hf(llama("gemma3_text", 26, 1152, 6912, 262144, 4, 1, head_dim=256, sliding_window=512), "g", "c")
    assert three.params() == 999_885_952 and three.attention.windowed_layers == 22  # Gemma-3-1B


def test_olmo_norms_have_no_weights() -> None:
    """OLMo-7B: 6,888,095,744 elements."""
    model = spec_from_hf(llama("olmo", 32, 4096, 11008, 50304, 32, 32), "o", "c")
    assert model.norm_params == 0 and model.params() == 6_888_095_744


def test_phi3_and_internlm2() -> None:
    """Phi-3-mini-4k 3,821,079,552; InternLM2-7B 7,737,708,544 elements."""
    assert spec_from_hf(llama("phi3", 32, 3072, 8192, 32064, 32, 32), "p", "c").params() == 3_821_079_552
    assert spec_from_hf(llama("internlm2", 32, 4096, 14336, 92544, 32, 8), "i", "c").params() == 7_737_708_544


def test_llama_biases_and_qwen2_windows() -> None:
    base = llama("llama", 2, 64, 128, 100, 4, 2)
    plain = spec_from_hf(base, "x", "c").params()
    biased = spec_from_hf({**base, "attention_bias": True, "mlp_bias": True}, "x", "c").params()
    assert biased - plain == 2 * ((64 + 2 * 32) + 64 + (2 * 128 + 64))
    config = llama("qwen2", 28, 64, 128, 100, 4, 2, sliding_window=4096, max_window_layers=20, use_sliding_window=True)
    assert spec_from_hf(config, "q", "c").attention.windowed_layers == 8


def test_sparse_steps() -> None:
    more = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
    config = llama("qwen3_moe", 6, 64, 128, 100, 4, 2, **more, decoder_sparse_step=2, mlp_only_layers=[1])
    moe = spec_from_hf(config, "q", "c").moe
    assert moe is not None and moe.n_moe_layers == 2 and not moe.dense_first  # layers 3 and 5
    with pytest.raises(InvalidProblemError, match="leave no expert layer"):
        spec_from_hf({**config, "mlp_only_layers": [1, 3, 5]}, "q", "c")


def test_null_counts_as_absent() -> None:
    config = llama("llama", 2, 64, 128, 100, 4, 2, head_dim=None, tie_word_embeddings=None)
    assert spec_from_hf({**config, "num_key_value_heads": None}, "x", "c").attention.n_kv_heads == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "falcon2"}, "unknown model_type 'falcon2'; known are baichuan, bloom, "),
        ({"model_type": None}, "key model_type is missing; known are "),
        ({"model_type": "nemotron_h"}, "model_type nemotron_h has Mamba layers"),
        ({"hidden_size": None}, "key hidden_size is missing"),
        ({"hidden_size": -64}, "hidden_size must be a positive number, not -64"),
        ({"hidden_size": 64.5}, "hidden_size must be a positive number, not 64.5"),
        ({"num_attention_heads": 5}, "hidden=64 does not divide by n_heads=5"),
        ({"num_key_value_heads": 3}, "n_heads=4 must be a multiple of n_kv_heads=3"),
        ({"num_hidden_layers": True}, "num_hidden_layers must be a positive number, not True"),
        ({"vocab_size": "32k"}, "vocab_size must be a positive number, not '32k'"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings must be true or false, not 'no'"),
        ({"model_type": "deepseek_v3"}, "key qk_rope_head_dim is missing"),
        ({"model_type": "mixtral"}, "key num_local_experts is missing"),
    ],
)
def test_errors_name_file_and_key(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**llama("llama", 2, 64, 128, 100, 4, 2), **change}))
    with pytest.raises(InvalidProblemError) as caught:
        load_model(str(path))
    assert message in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_every_type_reports_its_missing_keys() -> None:
    for kind in known_model_types():
        with pytest.raises(InvalidProblemError, match=r"key .* is missing"):
            spec_from_hf({"model_type": kind}, "x", "config.json")


def test_transformers_is_not_needed() -> None:
    code = "import sys; sys.modules['transformers'] = None; import meshwright.costmodels.hf_config"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
