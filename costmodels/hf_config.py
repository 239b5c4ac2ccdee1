"""A Hugging Face ``config.json`` as a ``ModelSpec``, without transformers installed.

One builder per group of ``model_type``; each knows the defaults that the family's configuration class gives to
absent keys (huggingface/transformers, ``models/*/configuration_*.py``) and which biases and norms its layers have
(``modeling_*.py``). Keys that touch no dimension (rope scaling, initialisers, token ids) are ignored.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..hardware_profiles.errors import InvalidProblemError, did_you_mean
from .hf_fields import HfConfig
from .model_dict import check_model, derived_head_dim
from .model_spec import AttentionSpec, ModelSpec, MoeSpec


def spec_from_hf(config: dict[str, Any], name: str, where: str) -> ModelSpec:
    """Build the model that a Hugging Face config describes.

    Args:
        config: the parsed ``config.json``.
        name: name of the resulting model.
        where: what to call the config in errors (its path).

    Raises:
        InvalidProblemError: unknown ``model_type``, missing key, or a value that is no positive integer.
    """
    kind = config.get("model_type")
    if not isinstance(kind, str):
        raise InvalidProblemError(f"{where}: key model_type is missing; known are {', '.join(known_model_types())}.")
    if kind in _UNSUPPORTED:
        raise InvalidProblemError(
            f"{where}: model_type {kind} has {_UNSUPPORTED[kind]}, which no cost model here covers."
        )
    if kind not in _BUILDERS:
        raise InvalidProblemError(
            f"{where}: unknown model_type {kind!r}; known are {', '.join(known_model_types())}."
            f"{did_you_mean(kind, _BUILDERS)}"
        )
    model = _BUILDERS[kind](HfConfig(config, name, where))
    check_model(model, where)
    return model


def known_model_types() -> list[str]:
    """The ``model_type`` values that ``spec_from_hf`` reads, sorted."""
    return sorted(_BUILDERS)


def _heads(c: HfConfig, hidden: int, **extra: Any) -> AttentionSpec:
    """Ordinary attention: MHA, GQA or MQA by ``num_key_value_heads``; ``head_dim`` explicit or derived."""
    heads = c.number("num_attention_heads", "n_head", "n_heads")
    given = c.number("head_dim", "attention_head_dim", default=0)
    head_dim = given or derived_head_dim(hidden, heads, c.where)
    kv = c.number("num_key_value_heads", "kv_n_heads", default=heads)
    return AttentionSpec(n_heads=heads, n_kv_heads=kv, head_dim=head_dim, v_head_dim=head_dim, **extra)


def _windows(c: HfConfig, n_layers: int, windowed_layers: int) -> dict[str, int]:
    """Sliding window fields: ``layer_types`` decides where present, else ``windowed_layers`` of them."""
    window = c.number("sliding_window", default=0, least=0)
    types = c.data.get("layer_types")
    if isinstance(types, list):
        windowed_layers = sum(t == "sliding_attention" for t in types[:n_layers])
    if window == 0 or windowed_layers == 0:
        return {}
    return {"window": window, "windowed_layers": windowed_layers}


def _decoder(c: HfConfig, attention: AttentionSpec, **extra: Any) -> ModelSpec:
    """The fields that all Llama-like configs share; ``extra`` overrides."""
    given: dict[str, Any] = {
        "name": c.name,
        "family": c.family,
        "n_layers": c.number("num_hidden_layers"),
        "hidden": c.number("hidden_size"),
        "ffn_hidden": extra.pop("ffn_hidden", None) or c.number("intermediate_size"),
        "vocab": c.number("vocab_size"),
        "attention": attention,
        "tied_embeddings": c.flag("tie_word_embeddings", False),
        "max_seq_len": c.number("max_position_embeddings", default=0),
        "source": f"Hugging Face config {c.where}",
    }
    return ModelSpec(**{**given, **extra})


def _llama(c: HfConfig) -> ModelSpec:
    """Norm, attention, norm, gated feed-forward, without experts: Llama and its relatives."""
    n = c.number("num_hidden_layers")
    bias = c.flag("attention_bias", False)
    extra: dict[str, Any] = {"qkv_bias": bias, "out_bias": bias}
    if c.family in ("mistral", "phi3"):
        extra |= _windows(c, n, n)
    if c.family in ("qwen2", "qwen3"):
        extra |= _qwen_attention(c, n)
    if c.family in ("internlm", "internlm2"):
        bias = c.flag("bias", c.family == "internlm")
        extra = {"qkv_bias": bias, "out_bias": bias}
    if c.family == "olmo2":
        extra |= {"qk_norm": True, "qk_norm_full": True}
    attention = _heads(c, c.number("hidden_size"), **extra)
    return _decoder(c, attention, ffn_bias=c.flag("mlp_bias", False))


def _qwen_attention(c: HfConfig, n_layers: int) -> dict[str, Any]:
    """Qwen 2 has biases on q, k, v; Qwen 3 none but a norm on q and k; windows only behind ``max_window_layers``."""
    old = c.family.startswith("qwen2")
    bias = c.flag("attention_bias", False)
    out: dict[str, Any] = {"qkv_bias": old or bias, "out_bias": not old and bias, "qk_norm": not old}
    if c.flag("use_sliding_window", False):
        out |= _windows(c, n_layers, max(0, n_layers - c.number("max_window_layers", default=28, least=0)))
    return out


def _qwen_moe(c: HfConfig) -> ModelSpec:
    n = c.number("num_hidden_layers")
    step = c.number("decoder_sparse_step", default=1)
    dense = c.data.get("mlp_only_layers") or []
    if not isinstance(dense, list):
        raise InvalidProblemError(f"{c.where}: mlp_only_layers must be a list, not {dense!r}.")
    sparse = [i for i in range(n) if i not in dense and (i + 1) % step == 0]
    if not sparse:
        raise InvalidProblemError(f"{c.where}: decoder_sparse_step and mlp_only_layers leave no expert layer.")
    old = c.family == "qwen2_moe"
    moe = MoeSpec(
        n_experts=c.number("num_experts"),
        top_k=c.number("num_experts_per_tok"),
        ffn_hidden=c.number("moe_intermediate_size"),
        n_moe_layers=len(sparse),
        shared_ffn_hidden=c.number("shared_expert_intermediate_size") if old else 0,
        shared_gate=old,
        dense_first=sparse == list(range(n - len(sparse), n)),
    )
    return _decoder(c, _heads(c, c.number("hidden_size"), **_qwen_attention(c, n)), moe=moe)


def _all_sparse(c: HfConfig, *expert_keys: str, **extra: Any) -> MoeSpec:
    """Every layer has routed experts, whose width is ``intermediate_size``."""
    return MoeSpec(
        n_experts=c.number(*expert_keys),
        top_k=c.number("num_experts_per_tok", "experts_per_token"),
        ffn_hidden=c.number("intermediate_size"),
        n_moe_layers=c.number("num_hidden_layers"),
        **extra,
    )


def _mixtral(c: HfConfig) -> ModelSpec:
    n = c.number("num_hidden_layers")
    return _decoder(c, _heads(c, c.number("hidden_size"), **_windows(c, n, n)), moe=_all_sparse(c, "num_local_experts"))


def _olmoe(c: HfConfig) -> ModelSpec:
    bias = c.flag("attention_bias", False)
    attention = _heads(c, c.number("hidden_size"), qk_norm=True, qk_norm_full=True, qkv_bias=bias, out_bias=bias)
    return _decoder(c, attention, moe=_all_sparse(c, "num_experts"))


def _gpt_oss(c: HfConfig) -> ModelSpec:
    n = c.number("num_hidden_layers")
    bias = c.flag("attention_bias", True)
    attention = _heads(
        c, c.number("hidden_size"), qkv_bias=bias, out_bias=bias, sinks=True, **_windows(c, n, (n + 1) // 2)
    )
    moe = _all_sparse(c, "num_local_experts", router_bias=True)
    return _decoder(c, attention, moe=moe, ffn_bias=True)


def _first_dense_moe(c: HfConfig) -> MoeSpec | None:
    """DeepSeek's and GLM's rule: the first ``first_k_dense_replace`` layers dense, then every ``moe_layer_freq``-th."""
    if c.data.get("n_routed_experts") is None:
        return None
    n, first = c.number("num_hidden_layers"), c.number("first_k_dense_replace", default=0, least=0)
    freq = c.number("moe_layer_freq", default=1)
    sparse = [i for i in range(n) if i >= first and i % freq == 0]
    if not sparse:
        raise InvalidProblemError(f"{c.where}: first_k_dense_replace={first} leaves no expert layer of {n}.")
    width = c.number("moe_intermediate_size")
    return MoeSpec(
        n_experts=c.number("n_routed_experts"),
        top_k=c.number("num_experts_per_tok"),
        ffn_hidden=width,
        n_moe_layers=len(sparse),
        shared_ffn_hidden=width * c.number("n_shared_experts", default=0, least=0),
        dense_first=freq == 1,
        router_bias=c.family != "deepseek_v2",
    )


def _deepseek(c: HfConfig) -> ModelSpec:
    c.refuse(c.flag("attention_bias", False), "attention_bias")
    heads, rope = c.number("num_attention_heads"), c.number("qk_rope_head_dim")
    attention = AttentionSpec(
        kind="mla",
        n_heads=heads,
        n_kv_heads=heads,
        head_dim=c.number("qk_nope_head_dim") + rope,
        v_head_dim=c.number("v_head_dim"),
        q_lora_rank=c.number("q_lora_rank", default=0),
        kv_lora_rank=c.number("kv_lora_rank"),
        qk_rope_head_dim=rope,
    )
    mtp = c.number("num_nextn_predict_layers", default=0, least=0)
    return _decoder(c, attention, moe=_first_dense_moe(c), mtp_layers=mtp)


def _glm4_moe(c: HfConfig) -> ModelSpec:
    attention = _heads(
        c,
        c.number("hidden_size"),
        qkv_bias=c.flag("attention_bias", False),
        qk_norm=c.flag("use_qk_norm", False),
    )
    mtp = c.number("num_nextn_predict_layers", default=0, least=0)
    return _decoder(c, attention, moe=_first_dense_moe(c), mtp_layers=mtp)


def _nemotron(c: HfConfig) -> ModelSpec:
    bias = c.flag("attention_bias", False)
    attention = _heads(c, c.number("hidden_size"), qkv_bias=bias, out_bias=bias)
    return _decoder(c, attention, gated_ffn=False, norm="layernorm", ffn_bias=c.flag("mlp_bias", False))


def _olmo(c: HfConfig) -> ModelSpec:
    bias = c.flag("attention_bias", False)
    return _decoder(
        c, _heads(c, c.number("hidden_size"), qkv_bias=bias, out_bias=bias), norm="layernorm", norm_vectors=0
    )


def _gemma(c: HfConfig) -> ModelSpec:
    n = c.number("num_hidden_layers")
    bias = c.flag("attention_bias", False)
    extra: dict[str, Any] = {"qkv_bias": bias, "out_bias": bias, "qk_norm": c.family == "gemma3_text"}
    if c.family == "gemma2":
        extra |= _windows(c, n, (n + 1) // 2)
    if c.family == "gemma3_text":
        extra |= _windows(c, n, n - n // c.number("sliding_window_pattern", default=6))
    return _decoder(
        c,
        _heads(c, c.number("hidden_size"), **extra),
        tied_embeddings=c.flag("tie_word_embeddings", True),
        norms_per_layer=2 if c.family == "gemma" else 4,
    )


def _gpt(c: HfConfig, hidden: int, **extra: Any) -> ModelSpec:
    """GPT-2's layer: LayerNorm, biases everywhere, two feed-forward matrices, tied embeddings."""
    bias = extra.pop("bias", True)
    given: dict[str, Any] = {
        "name": c.name,
        "family": c.family,
        "n_layers": c.number("num_hidden_layers", "n_layer", "n_layers"),
        "hidden": hidden,
        "vocab": c.number("vocab_size"),
        "attention": extra.pop("attention", None) or _heads(c, hidden, qkv_bias=bias, out_bias=bias),
        "gated_ffn": False,
        "tied_embeddings": c.flag("tie_word_embeddings", True),
        "norm": "layernorm",
        "ffn_bias": bias,
        "source": f"Hugging Face config {c.where}",
    }
    return ModelSpec(**{**given, **extra})


def _gpt2(c: HfConfig) -> ModelSpec:
    hidden, seq = c.number("n_embd", "hidden_size"), c.number("n_positions", "max_position_embeddings", "n_ctx")
    return _gpt(
        c,
        hidden,
        ffn_hidden=c.number("n_inner", default=4 * hidden),
        learned_positions=seq,
        max_seq_len=seq,
        dropout=c.share("resid_pdrop", "attn_pdrop", "embd_pdrop", default=0.1),
    )


def _gpt_neox(c: HfConfig) -> ModelSpec:
    hidden, bias = c.number("hidden_size"), c.flag("attention_bias", True)
    return _gpt(
        c,
        hidden,
        attention=_heads(c, hidden, qkv_bias=bias, out_bias=bias),
        ffn_hidden=c.number("intermediate_size"),
        tied_embeddings=c.flag("tie_word_embeddings", False),
        parallel_block=c.flag("use_parallel_residual", True),
        norms_per_layer=2,
        max_seq_len=c.number("max_position_embeddings", default=0),
        dropout=c.share("attention_dropout", "hidden_dropout"),
    )


def _opt(c: HfConfig) -> ModelSpec:
    hidden = c.number("hidden_size")
    c.refuse(c.number("word_embed_proj_dim", default=hidden) != hidden, "word_embed_proj_dim other than hidden_size")
    c.refuse(not c.flag("do_layer_norm_before", True), "do_layer_norm_before false")
    seq = c.number("max_position_embeddings")
    return _gpt(
        c,
        hidden,
        bias=c.flag("enable_bias", True),
        ffn_hidden=c.number("ffn_dim"),
        learned_positions=seq + 2,  # the table starts at offset 2
        max_seq_len=seq,
        dropout=c.share("dropout", default=0.1),
    )


def _bloom(c: HfConfig) -> ModelSpec:
    hidden = c.number("hidden_size", "n_embed")
    return _gpt(
        c,
        hidden,
        ffn_hidden=4 * hidden,
        embedding_norm=True,
        max_seq_len=c.number("seq_length", default=0),
        dropout=c.share("attention_dropout", "hidden_dropout"),
    )


def _mpt(c: HfConfig) -> ModelSpec:
    hidden, seq = c.number("d_model"), c.number("max_seq_len", default=2048)
    attn = c.data.get("attn_config") or {}
    if not isinstance(attn, dict):
        raise InvalidProblemError(f"{c.where}: attn_config must be a mapping, not {attn!r}.")
    inner = HfConfig({**attn, "model_type": c.family}, c.name, f"{c.where}: attn_config")
    learned = c.flag("learned_pos_emb", True) and not (inner.flag("alibi", True) or inner.flag("rope", False))
    bias = not c.flag("no_bias", True)
    heads = c.number("n_heads")
    kv = 1 if attn.get("attn_type") == "multiquery_attention" else inner.number("kv_n_heads", default=heads)
    head_dim = derived_head_dim(hidden, heads, c.where)
    attention = AttentionSpec(
        n_heads=heads, n_kv_heads=kv, head_dim=head_dim, v_head_dim=head_dim, qkv_bias=bias, out_bias=bias
    )
    return _gpt(
        c,
        hidden,
        bias=bias,
        attention=attention,
        ffn_hidden=hidden * c.number("expansion_ratio", default=4),
        norm_vectors=None if bias else 1,
        learned_positions=seq if learned else 0,
        max_seq_len=seq,
        dropout=c.share("resid_pdrop", "emb_pdrop"),
    )


_BUILDERS: dict[str, Callable[[HfConfig], ModelSpec]] = {
    "gpt2": _gpt2,
    "gpt_neox": _gpt_neox,
    "opt": _opt,
    "bloom": _bloom,
    "mpt": _mpt,
    **dict.fromkeys(
        ("llama", "mistral", "phi3", "qwen2", "qwen3", "olmo2", "internlm", "internlm2", "baichuan"), _llama
    ),
    "mixtral": _mixtral,
    "qwen2_moe": _qwen_moe,
    "qwen3_moe": _qwen_moe,
    **dict.fromkeys(("deepseek_v2", "deepseek_v3", "kimi_k2"), _deepseek),
    "olmo": _olmo,
    "olmoe": _olmoe,
    "glm4_moe": _glm4_moe,
    "gpt_oss": _gpt_oss,
    "nemotron": _nemotron,
    **dict.fromkeys(("gemma", "gemma2", "gemma3_text"), _gemma),
}
_UNSUPPORTED = {
    "nemotron_h": "Mamba layers",
    "mamba": "state-space layers",
    "mamba2": "state-space layers",
    "jamba": "Mamba layers",
    "deepseek_v4": "sparse attention with its own projections",
    "deepseek_v32": "sparse attention with its own projections",
    "qwen3_next": "linear-attention layers",
    "minimax_m1": "linear-attention layers",
}
