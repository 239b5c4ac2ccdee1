"""The model as the cost functions see it: dimensions only, in the names of Hugging Face configs.

``ModelSpec`` is built by ``load_model.py`` (shipped YAML) or ``hf_config.py`` (a user's ``config.json``).
Parameter counts are exact for the families supported; biases and norms are counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionSpec:
    """Self-attention of one layer.

    Attributes:
        kind: ``mha`` (also GQA and MQA, by ``n_kv_heads``) or ``mla`` (DeepSeek's latent attention).
        head_dim: query/key width of a head; for MLA ``qk_nope_head_dim + qk_rope_head_dim``.
        v_head_dim: value width of a head (equals ``head_dim`` except for MLA).
        window: sliding window in tokens, 0 for full attention.
        windowed_layers: how many of the layers use the window.
        q_lora_rank, kv_lora_rank, qk_rope_head_dim: MLA only (``q_lora_rank`` 0: no query compression).
        qkv_bias, out_bias: biases of the projections.
        qk_norm: a norm on queries and keys, one vector of ``head_dim`` each (Qwen3); with
            ``qk_norm_full`` one over all heads together (OLMo 2, OLMoE).
        sinks: one learned logit per head that softmax may attend to (gpt-oss).
    """

    n_heads: int
    n_kv_heads: int
    head_dim: int
    v_head_dim: int
    kind: str = "mha"
    window: int = 0
    windowed_layers: int = 0
    q_lora_rank: int = 0
    kv_lora_rank: int = 0
    qk_rope_head_dim: int = 0
    qkv_bias: bool = False
    out_bias: bool = False
    qk_norm: bool = False
    qk_norm_full: bool = False
    sinks: bool = False

    @property
    def qkv_width(self) -> int:
        """Columns of the fused query, key and value projection (``mha`` only)."""
        return self.n_heads * self.head_dim + self.n_kv_heads * (self.head_dim + self.v_head_dim)

    @property
    def out_width(self) -> int:
        """Rows of the output projection: what the heads give together."""
        return self.n_heads * self.v_head_dim


@dataclass(frozen=True, slots=True, kw_only=True)
class MoeSpec:
    """Routed experts of the sparse layers.

    Attributes:
        n_experts, top_k: routed experts and how many each token visits.
        ffn_hidden: inner width of one routed expert.
        shared_ffn_hidden: summed inner width of the shared experts (0: none).
        n_moe_layers: layers with routed experts; the ``n_layers - n_moe_layers`` dense ones come first
            where ``dense_first`` holds, otherwise they are spread evenly.
        router_bias: one number per expert beside the router's matrix (gpt-oss' bias, DeepSeek-V3's
            ``e_score_correction_bias``); shared_gate: a sigmoid gate of the shared expert (Qwen2-MoE).
    """

    n_experts: int
    top_k: int
    ffn_hidden: int
    n_moe_layers: int
    shared_ffn_hidden: int = 0
    dense_first: bool = True
    router_bias: bool = False
    shared_gate: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A decoder-only transformer.

    Attributes:
        ffn_hidden: inner width of the dense feed-forward (of the dense layers in an MoE).
        gated_ffn: SwiGLU/GeGLU (three matrices) instead of GELU/ReLU2 (two).
        norm: ``rmsnorm`` (one learned vector) or ``layernorm`` (weight and bias: two).
        norm_vectors: learned vectors of one norm where it is not the kind's usual number
            (1: MPT's LayerNorm without bias, 0: OLMo's without weights).
        norms_per_layer: norms of the hidden width in one layer; None: 2, or 1 where ``parallel_block``
            (Gemma 2 has 4, GPT-NeoX keeps 2 although its block is parallel).
        learned_positions: rows of a learned position table, 0 for rotary or ALiBi.
        embedding_norm: a norm behind the embedding (BLOOM).
        mtp_layers: multi-token-prediction layers behind the last one (DeepSeek-V3: 1).
        ffn_bias: biases in the feed-forward; parallel_block: attention and FFN read the same norm.
        dropout: attention/hidden dropout is on (GPT-3 era recipes), which stores masks.
    """

    name: str
    family: str
    n_layers: int
    hidden: int
    ffn_hidden: int
    vocab: int
    attention: AttentionSpec
    moe: MoeSpec | None = None
    gated_ffn: bool = True
    tied_embeddings: bool = False
    norm: str = "rmsnorm"
    norm_vectors: int | None = None
    norms_per_layer: int | None = None
    learned_positions: int = 0
    embedding_norm: bool = False
    mtp_layers: int = 0
    ffn_bias: bool = False
    parallel_block: bool = False
    dropout: bool = False
    max_seq_len: int = 0
    source: str = ""

    # -- parameter counts -------------------------------------------------------------------------
    @property
    def ffn_matrices(self) -> int:
        """Matrices of one feed-forward: gate, up, down; or up, down."""
        return 3 if self.gated_ffn else 2

    @property
    def norm_params(self) -> int:
        """Weights of one norm of the hidden width."""
        usual = 2 if self.norm == "layernorm" else 1
        return self.hidden * (usual if self.norm_vectors is None else self.norm_vectors)

    @property
    def attention_params(self) -> int:
        """Weights of one layer's attention (projections, biases, inner norms)."""
        a, h = self.attention, self.hidden
        n = self.attention_matmul_params
        if a.kind == "mla":
            n += a.q_lora_rank + a.kv_lora_rank  # the norms of the compressed vectors
        n += a.qkv_width if a.qkv_bias else 0
        n += h if a.out_bias else 0
        if a.qk_norm:
            n += (a.n_heads + a.n_kv_heads) * a.head_dim if a.qk_norm_full else 2 * a.head_dim
        return n + (a.n_heads if a.sinks else 0)

    @property
    def attention_matmul_params(self) -> int:
        """Matrix elements of one layer's attention projections."""
        a, h = self.attention, self.hidden
        if a.kind != "mla":
            return h * a.qkv_width + a.out_width * h
        return self.mla_down_params + self.mla_up_params + a.out_width * h

    @property
    def mla_down_params(self) -> int:
        """Matrix elements that compress a token (MLA): to the query latent, the key/value latent, the rotary key."""
        a = self.attention
        return self.hidden * (a.q_lora_rank + a.kv_lora_rank + a.qk_rope_head_dim) if a.kind == "mla" else 0

    @property
    def mla_up_params(self) -> int:
        """Matrix elements that expand the latents to heads (MLA); queries straight from hidden if not compressed."""
        a = self.attention
        if a.kind != "mla":
            return 0
        kv = a.kv_lora_rank * a.n_heads * (a.head_dim - a.qk_rope_head_dim + a.v_head_dim)
        return (a.q_lora_rank or self.hidden) * a.n_heads * a.head_dim + kv

    def ffn_params(self, inner: int) -> int:
        """Weights of one feed-forward of inner width ``inner``."""
        n = self.ffn_matrices * self.hidden * inner
        if self.ffn_bias:
            n += (self.ffn_matrices - 1) * inner + self.hidden
        return n

    @property
    def layer_norm_params(self) -> int:
        """Weights of all norms of the hidden width in one layer."""
        usual = 1 if self.parallel_block else 2
        return self.norm_params * (usual if self.norms_per_layer is None else self.norms_per_layer)

    @property
    def dense_layer_params(self) -> int:
        """Weights of one layer with a dense feed-forward."""
        return self.attention_params + self.ffn_params(self.ffn_hidden) + self.layer_norm_params

    @property
    def expert_layer_params(self) -> int:
        """Routed-expert weights of one sparse layer (all experts)."""
        return self.moe.n_experts * self.ffn_params(self.moe.ffn_hidden) if self.moe else 0

    @property
    def moe_layer_shared_params(self) -> int:
        """Weights of one sparse layer apart from routed experts: attention, router, shared experts, norms."""
        if self.moe is None:
            return 0
        m = self.moe
        n = self.attention_params + self.layer_norm_params + self.hidden * m.n_experts
        n += self.ffn_params(m.shared_ffn_hidden) if m.shared_ffn_hidden else 0
        n += m.n_experts if m.router_bias else 0
        return n + (self.hidden if m.shared_gate else 0)

    @property
    def n_moe_layers(self) -> int:
        """Layers with routed experts."""
        return self.moe.n_moe_layers if self.moe else 0

    @property
    def n_dense_layers(self) -> int:
        """Layers with a dense feed-forward."""
        return self.n_layers - self.n_moe_layers

    @property
    def embedding_params(self) -> int:
        """Token table, learned positions and the norm behind them (unpadded vocabulary)."""
        n = (self.vocab + self.learned_positions) * self.hidden
        return n + (self.norm_params if self.embedding_norm else 0)

    @property
    def mtp_params(self) -> int:
        """Weights of the multi-token-prediction layers: one more block, a 2h-to-h projection, three norms."""
        if not self.mtp_layers:
            return 0
        block = self.moe_layer_shared_params + self.expert_layer_params if self.moe else self.dense_layer_params
        return self.mtp_layers * (block + 2 * self.hidden * self.hidden + 3 * self.norm_params)

    def params(self, *, with_mtp: bool = False) -> int:
        """All weights (unpadded vocabulary)."""
        n = self.n_dense_layers * self.dense_layer_params
        n += self.n_moe_layers * (self.moe_layer_shared_params + self.expert_layer_params)
        n += self.embedding_params + self.norm_params
        n += 0 if self.tied_embeddings else self.vocab * self.hidden
        return n + (self.mtp_params if with_mtp else 0)

    def active_params(self) -> int:
        """Weights that one token touches: routed experts count ``top_k / n_experts`` times."""
        if self.moe is None:
            return self.params()
        idle = self.moe.n_experts - self.moe.top_k
        return self.params() - self.n_moe_layers * idle * self.ffn_params(self.moe.ffn_hidden)

    def rank_vocab(self, tp: Any, multiple: int) -> Any:
        """Rows of the vocabulary on one rank: padded to ``multiple * tp``, or dealt out as it is (``multiple`` 1)."""
        return self.padded_vocab(tp, multiple) // tp if multiple > 1 else self.vocab // tp

    def padded_vocab(self, tp: Any, multiple: int = 128) -> Any:
        """Vocabulary rounded up to ``multiple * tp`` as Megatron does; array-valued ``tp`` works too."""
        step = multiple * tp
        return -(-self.vocab // step) * step
