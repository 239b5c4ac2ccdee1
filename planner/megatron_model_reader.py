"""Architecture and workload from the options of a Megatron-LM launch (inverse of ``emitters.megatron_model``)."""

from __future__ import annotations

from ..costmodels.load_model import find_model, load_model
from ..costmodels.model_spec import AttentionSpec, ModelSpec, MoeSpec
from ..costmodels.parallel import ParallelConfig
from ..costmodels.workload import Workload
from ..hardware_profiles.errors import InvalidProblemError
from .emitters.megatron_layout import decode_pattern
from .megatron_args import MegatronArgs

#: Vocabulary of tokenizers that need no file name (sizes of the published vocabularies).
_VOCABULARIES = {"GPT2BPETokenizer": 50257, "Llama2Tokenizer": 32000}
_FALLBACK_VOCABULARY = 128_000


def read_model(args: MegatronArgs, name: str, notes: list[str]) -> ModelSpec:
    """The network that the options describe; missing ones take the defaults of Megatron-LM 0.19.

    Raises:
        InvalidProblemError: a mandatory option is missing or out of range.
    """
    hidden = args.positive("--hidden-size")
    layers = args.positive("--num-layers")
    gated = args.has("--swiglu") or args.has("--quick-geglu")
    squared = args.has("--squared-relu")
    default_ffn = hidden * 8 // 3 // 64 * 64 if gated else 4 * hidden
    bias = not args.has("--disable-bias-linear")
    moe = _read_moe(args, layers, args.integer("--ffn-hidden-size", default_ffn))
    norm = args.text("--normalization", "LayerNorm")
    if norm not in ("LayerNorm", "RMSNorm"):
        raise InvalidProblemError(f"{args.where}: --normalization is {norm!r}; it must be LayerNorm or RMSNorm.")
    return ModelSpec(
        name=name,
        family="nemotron" if squared else "deepseek_v3" if moe and moe.router_bias else "megatron",
        n_layers=layers,
        hidden=hidden,
        ffn_hidden=args.positive("--ffn-hidden-size", default_ffn),
        vocab=_read_vocabulary(args, notes),
        attention=_read_attention(args, hidden, layers, bias),
        moe=moe,
        gated_ffn=gated,
        tied_embeddings=not args.has("--untie-embeddings-and-output-weights"),
        norm="rmsnorm" if norm == "RMSNorm" else "layernorm",
        learned_positions=_read_positions(args),
        mtp_layers=args.integer("--mtp-num-layers", 0),
        ffn_bias=bias,
        dropout=max(args.number(name, 0.1) for name in ("--attention-dropout", "--hidden-dropout")) > 0,
        max_seq_len=args.integer("--max-position-embeddings", 0),
        source=args.where,
    )


def _read_attention(args: MegatronArgs, hidden: int, layers: int, bias: bool) -> AttentionSpec:
    heads = args.positive("--num-attention-heads")
    window, windowed = _read_window(args, layers)
    if args.has("--multi-latent-attention"):
        rope = args.integer("--qk-pos-emb-head-dim", 64)
        return AttentionSpec(
            kind="mla",
            n_heads=heads,
            n_kv_heads=heads,
            head_dim=args.integer("--qk-head-dim", 128) + rope,
            v_head_dim=args.integer("--v-head-dim", 128),
            q_lora_rank=args.integer("--q-lora-rank", 0),
            kv_lora_rank=args.integer("--kv-lora-rank", 32),
            qk_rope_head_dim=rope,
            window=window,
            windowed_layers=windowed,
            qk_norm=args.has("--qk-layernorm"),
        )
    if not args.has("--kv-channels") and hidden % heads:
        raise InvalidProblemError(
            f"{args.where}: --hidden-size {hidden} does not divide by --num-attention-heads {heads}; set --kv-channels."
        )
    groups = args.positive("--num-query-groups", 1) if args.has("--group-query-attention") else heads
    head_dim = args.positive("--kv-channels", hidden // heads)
    return AttentionSpec(
        n_heads=heads,
        n_kv_heads=groups,
        head_dim=head_dim,
        v_head_dim=head_dim,
        window=window,
        windowed_layers=windowed,
        qkv_bias=args.has("--add-qkv-bias") or bias,
        out_bias=bias,
        qk_norm=args.has("--qk-layernorm"),
        sinks=args.text("--softmax-type", "vanilla") == "learnable",
    )


def _pattern(args: MegatronArgs, name: str) -> list[int] | None:
    """A list given as ``([0]*3+[1]*58)``; None for a plain number."""
    text = args.text(name)
    if not text or text.isdigit():
        return None
    try:
        return decode_pattern(text)
    except ValueError:
        raise InvalidProblemError(f"{args.where}: {name} is {text!r}, not a number or a list of 0 and 1.") from None


def _read_window(args: MegatronArgs, layers: int) -> tuple[int, int]:
    text = args.text("--window-size").strip("()")
    if not text:
        return 0, 0
    try:
        window = int(text.split(",")[0]) + 1
    except ValueError:
        raise InvalidProblemError(f"{args.where}: --window-size is {text!r}; write two numbers as in 127,0.") from None
    pattern = _pattern(args, "--window-attn-skip-freq")
    if pattern is not None:
        return window, sum(pattern)
    every = args.integer("--window-attn-skip-freq", 0)
    return window, layers - layers // every if every else layers


def _read_moe(args: MegatronArgs, layers: int, ffn: int) -> MoeSpec | None:
    experts = args.integer("--num-experts", 0)
    if not experts:
        return None
    pattern = _pattern(args, "--moe-layer-freq")
    if pattern is None:
        every = args.positive("--moe-layer-freq", 1)
        pattern = [int(i % every == 0) for i in range(layers)]
    if len(pattern) != layers:
        raise InvalidProblemError(f"{args.where}: --moe-layer-freq names {len(pattern)} layers of {layers}.")
    sparse = sum(pattern)
    return MoeSpec(
        n_experts=experts,
        top_k=args.positive("--moe-router-topk", 2),
        ffn_hidden=args.positive("--moe-ffn-hidden-size", ffn),
        n_moe_layers=sparse,
        shared_ffn_hidden=args.integer("--moe-shared-expert-intermediate-size", 0),
        dense_first=pattern == [0] * (layers - sparse) + [1] * sparse,
        router_bias=args.has("--moe-router-enable-expert-bias"),
        shared_gate=args.has("--moe-shared-expert-gate"),
    )


def _read_positions(args: MegatronArgs) -> int:
    """Rows of the learned table, 0 for rotary and the like."""
    kind = args.text("--position-embedding-type", "learned_absolute")
    if args.has("--use-rotary-position-embeddings") or args.has("--no-position-embedding"):
        return 0
    return args.positive("--max-position-embeddings") if kind == "learned_absolute" else 0


def _read_vocabulary(args: MegatronArgs, notes: list[str]) -> int:
    for name in ("--vocab-size", "--padded-vocab-size"):
        if args.has(name):
            return args.positive(name)
    kind = args.text("--tokenizer-type")
    if kind in _VOCABULARIES:
        return _VOCABULARIES[kind]
    known = _shipped_vocabulary(args.text("--tokenizer-model"))
    if known:
        return known
    notes.append(
        f"the vocabulary depends on the tokenizer ({kind or 'not named'}); {_FALLBACK_VOCABULARY} was taken, "
        "pass --vocab-size in the script to be exact."
    )
    return _FALLBACK_VOCABULARY


def _shipped_vocabulary(tokenizer: str) -> int:
    """Vocabulary of the shipped model that the tokenizer is named after (``deepseek-ai/DeepSeek-V3``), else 0."""
    name = find_model(tokenizer.rstrip("/").rsplit("/", 1)[-1]) if tokenizer else None
    return load_model(name).vocab if name else 0


def read_workload(args: MegatronArgs, config: ParallelConfig, notes: list[str]) -> Workload:
    """Sequence, batch and numerics."""
    if args.has("--rampup-batch-size"):
        notes.append("--rampup-batch-size was left out; the full global batch is what is read.")
    precision = read_precision(args)
    return Workload(
        seq_len=args.positive("--seq-length"),
        global_batch=args.positive("--global-batch-size", config.micro_batch_size * config.dp),
        precision=precision,
        optimizer=_read_optimizer(args, config),
        grad_dtype_bytes=_read_gradient_bytes(args, config, precision),
        token_drop=max(0.0, args.number("--moe-expert-capacity-factor", 0.0)),
        fp8_params=args.has("--fp8-param-gather") or args.has("--fp4-param-gather"),
    )


def read_precision(args: MegatronArgs) -> str:
    """Key of ``GEMM_TYPE``: FP8 and FP4 recipes before the 16-bit type that they stand on."""
    half = "fp16" if args.has("--fp16") else "bf16" if args.has("--bf16") else "fp32"
    args.has("--bf16")
    if args.has("--fp4-format"):
        return "nvfp4"
    if args.has("--fp8-format") or args.has("--fp8-hybrid") or args.has("--fp8-e4m3"):
        return "mxfp8" if args.text("--fp8-recipe", "delayed") == "mxfp8" else "fp8"
    return half


def _read_optimizer(args: MegatronArgs, config: ParallelConfig) -> str:
    if args.text("--megatron-fsdp-main-params-dtype", "fp32") == "bf16" and config.zero_stage >= 2:
        return "adam_pure_bf16"
    moments = {args.text("--exp-avg-dtype", "fp32"), args.text("--exp-avg-sq-dtype", "fp32")}
    if not args.has("--use-precision-aware-optimizer") or moments == {"fp32"}:
        return "adam_fp32"
    return "adam_8bit" if "fp8" in moments else "adam_bf16"


def _read_gradient_bytes(args: MegatronArgs, config: ParallelConfig, precision: str) -> float:
    if config.zero_stage >= 2:
        return 2.0 if args.text("--megatron-fsdp-main-grads-dtype", "auto") in ("bf16", "fp16") else 4.0
    if args.has("--accumulate-allreduce-grads-in-fp32") or precision == "fp32":
        return 4.0
    narrow = args.has("--grad-reduce-in-bf16") or args.text("--main-grads-dtype", "fp32") == "bf16"
    return 2.0 if narrow or precision == "fp16" else 4.0
