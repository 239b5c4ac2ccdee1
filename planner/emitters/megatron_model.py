"""Architecture options of Megatron-LM 0.19 for a ``ModelSpec``, and what the options cannot say."""

from __future__ import annotations

from ...costmodels.layer_order import sparse_layers, windowed_layers
from ...costmodels.model_spec import ModelSpec
from .megatron_layout import encode_pattern
from .shell import Flag, flag

#: Families whose two-matrix feed-forward uses the squared ReLU (arXiv 2402.16819, section 2.1).
SQUARED_RELU_FAMILIES = ("nemotron",)
#: Families with ALiBi, which Megatron-LM 0.19 does not have (BLOOM: arXiv 2211.05100; MPT: llm-foundry; Baichuan
#: 13B: arXiv 2309.10305).
ALIBI_FAMILIES = ("bloom", "mpt", "baichuan")
#: Families that route by sigmoid scores with a bias that balances experts (arXiv 2412.19437, section 2.1.2).
SIGMOID_FAMILIES = ("deepseek_v3", "glm4_moe")


def refuse_model(model: ModelSpec) -> str | None:
    """Why Megatron-LM cannot build the model, or None."""
    if model.parallel_block:
        return f"Megatron-LM 0.19 has no block in which attention and feed-forward run in parallel ({model.name})"
    if model.moe and model.ffn_bias and model.attention.kind == "mla":
        return "Megatron-LM 0.19 has no latent attention with biased experts"
    if model.mtp_layers and model.learned_positions:
        return "Megatron-LM 0.19 has multi-token prediction with rotary positions only"
    return None


def model_notes(model: ModelSpec) -> list[str]:
    """What the launched model leaves out or adds, as sentences."""
    notes = []
    attention = model.attention
    if not model.learned_positions:
        if model.family in ALIBI_FAMILIES:
            notes.append("Megatron-LM 0.19 has no ALiBi: positions are left out, which costs the same time and memory.")
        else:
            notes.append("set --rotary-base and rope scaling to the model's own values before a real run.")
    on = model.ffn_bias
    if attention.kind != "mla" and (on != attention.out_bias or (on and not attention.qkv_bias)):
        notes.append(
            "Megatron-LM ties the biases of the attention projections to those of the feed-forward; "
            f"here they are {'on' if on else 'off'} (query, key and value biases can be on alone)."
        )
    if model.gated_ffn and model.family.startswith(("gemma", "gpt_oss")):
        notes.append("--swiglu stands in for the model's own gated activation, which costs the same.")
    if attention.qk_norm_full:
        notes.append("Megatron-LM normalises queries and keys per head; the model does it over all heads.")
    if model.embedding_norm:
        notes.append("Megatron-LM has no norm behind the embedding; it is left out.")
    if model.norm_vectors is not None or model.norms_per_layer is not None:
        notes.append("norms are Megatron-LM's (two in a layer, with all their vectors), not quite the model's.")
    if model.moe and model.moe.router_bias and model.family not in SIGMOID_FAMILIES:
        notes.append("the router's bias is left out.")
    if model.moe and model.moe.dense_first is False and model.n_dense_layers:
        notes.append("dense and sparse layers alternate evenly; check the order against the model's card.")
    return notes


def model_flags(model: ModelSpec, *, seq_len: int) -> list[Flag]:
    """Options of the network, in the order in which people read them."""
    attention = model.attention
    flags = [
        flag("--num-layers", model.n_layers),
        flag("--hidden-size", model.hidden),
        flag("--ffn-hidden-size", model.ffn_hidden),
        flag("--num-attention-heads", attention.n_heads),
    ]
    flags += _mla_flags(model) if attention.kind == "mla" else _gqa_flags(model)
    flags += [
        flag("--seq-length", seq_len),
        flag("--max-position-embeddings", max(seq_len, model.max_seq_len, model.learned_positions)),
        *_position_flags(model),
        flag("--normalization", "RMSNorm" if model.norm == "rmsnorm" else "LayerNorm"),
    ]
    if model.gated_ffn:
        flags.append(flag("--swiglu"))
    elif model.family in SQUARED_RELU_FAMILIES:
        flags.append(flag("--squared-relu"))
    if not model.ffn_bias:  # with it Megatron turns the biases of all projections on
        flags.append(flag("--disable-bias-linear"))
        if attention.qkv_bias:
            flags.append(flag("--add-qkv-bias"))
    if attention.qk_norm:
        flags.append(flag("--qk-layernorm"))
    if attention.sinks:
        flags.append(flag("--softmax-type", "learnable"))
    if not model.tied_embeddings:
        flags.append(flag("--untie-embeddings-and-output-weights"))
    dropout = 0.1 if model.dropout else 0.0
    flags += [flag("--attention-dropout", dropout), flag("--hidden-dropout", dropout)]
    flags += _window_flags(model)
    if model.mtp_layers:
        flags.append(flag("--mtp-num-layers", model.mtp_layers))
    return flags


def _gqa_flags(model: ModelSpec) -> list[Flag]:
    attention = model.attention
    flags = [flag("--kv-channels", attention.head_dim)]
    if attention.n_kv_heads != attention.n_heads:
        flags += [flag("--group-query-attention"), flag("--num-query-groups", attention.n_kv_heads)]
    return flags


def _mla_flags(model: ModelSpec) -> list[Flag]:
    attention = model.attention
    flags = [flag("--multi-latent-attention")]
    if attention.q_lora_rank:
        flags.append(flag("--q-lora-rank", attention.q_lora_rank))
    return [
        *flags,
        flag("--kv-lora-rank", attention.kv_lora_rank),
        flag("--qk-head-dim", attention.head_dim - attention.qk_rope_head_dim),
        flag("--qk-pos-emb-head-dim", attention.qk_rope_head_dim),
        flag("--v-head-dim", attention.v_head_dim),
    ]


def _position_flags(model: ModelSpec) -> list[Flag]:
    if model.learned_positions:
        return [flag("--position-embedding-type", "learned_absolute")]
    if model.family in ALIBI_FAMILIES:
        return [flag("--position-embedding-type", "none")]
    flags = [flag("--position-embedding-type", "rope")]
    if model.attention.kind == "mla":  # the fused kernel knows YaRN only; a factor of 1 makes it plain rotary
        flags += [flag("--rope-type", "yarn"), flag("--rotary-scaling-factor", "1.0")]
    return flags


def _window_flags(model: ModelSpec) -> list[Flag]:
    attention = model.attention
    if not attention.window or not attention.windowed_layers:
        return []
    # Megatron counts the tokens to the left of the query, which itself is always seen.
    flags = [flag("--window-size", f"{attention.window - 1},0")]
    full = model.n_layers - attention.windowed_layers
    if full:
        flags.append(flag("--window-attn-skip-freq", encode_pattern(windowed_layers(model))))
    return flags


def moe_flags(model: ModelSpec, *, token_drop: float) -> list[Flag]:
    """Options of the routed experts (without their degrees)."""
    moe = model.moe
    if moe is None:
        return []
    flags = [
        flag("--num-experts", moe.n_experts),
        flag("--moe-router-topk", moe.top_k),
        flag("--moe-ffn-hidden-size", moe.ffn_hidden),
    ]
    if moe.shared_ffn_hidden:
        flags.append(flag("--moe-shared-expert-intermediate-size", moe.shared_ffn_hidden))
        if moe.shared_gate:
            flags.append(flag("--moe-shared-expert-gate"))
    if moe.n_moe_layers < model.n_layers:
        flags.append(flag("--moe-layer-freq", encode_pattern(sparse_layers(model))))
    if moe.router_bias and model.family in SIGMOID_FAMILIES:
        flags += [flag("--moe-router-score-function", "sigmoid"), flag("--moe-router-enable-expert-bias")]
    elif moe.top_k == 1:  # softmax over one chosen expert has no gradient
        flags.append(flag("--moe-router-pre-softmax"))
    if token_drop:
        flags += [flag("--moe-expert-capacity-factor", token_drop), flag("--moe-pad-expert-input-to-capacity")]
    return [
        *flags,
        flag("--moe-router-load-balancing-type", "aux_loss"),
        flag("--moe-aux-loss-coeff", "1e-3"),
        flag("--moe-router-dtype", "fp32"),
        flag("--moe-grouped-gemm"),
        flag("--moe-permute-fusion"),
        flag("--moe-token-dispatcher-type", "alltoall"),
    ]
