"""Plans to emit: hand-made ones of each family, and a strategy for random ones."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from meshwright.costmodels.model_spec import AttentionSpec, ModelSpec, MoeSpec
from meshwright.costmodels.parallel import CpComm, LayerSplit, ParallelConfig, Recompute
from meshwright.costmodels.software import Software
from meshwright.costmodels.workload import Workload
from meshwright.hardware_profiles.types import Cluster, Curve, Fit, Gpu, Provenance, Tier
from meshwright.planner.plan import Plan, PlanSet, SearchReport
from meshwright.planner.problem import PlanningProblem

CURVE = Curve(coefficients={}, provenance=Provenance.DATASHEET, fit=Fit(source="test"))


def gpu(architecture: str = "hopper") -> Gpu:
    return Gpu(
        name="test-gpu",
        vendor="nvidia",
        architecture=architecture,
        peak_flops=dict.fromkeys(("fp32", "tf32", "fp16", "bf16", "fp8", "fp4"), 1e15),
        memory_bytes=80e9,
        hbm_bytes_per_s=3e12,
        host_bytes_per_s=5e10,
        sm_count=132,
        power_w=700,
        gemm={},
        attention={},
        memory_bound=CURVE,
        collectives={},
    )


def cluster(nodes: int, gpus_per_node: int, architecture: str = "hopper") -> Cluster:
    tier = Tier(kind="nvlink", domain_gpus=nodes * gpus_per_node, bytes_per_s=4.5e11, latency_s=1e-6)
    return Cluster(name="test-cluster", gpu=gpu(architecture), nodes=nodes, gpus_per_node=gpus_per_node, tiers=(tier,))


LLAMA = ModelSpec(
    name="llama-like-8b",
    family="llama",
    n_layers=32,
    hidden=4096,
    ffn_hidden=14336,
    vocab=128256,
    attention=AttentionSpec(n_heads=32, n_kv_heads=8, head_dim=128, v_head_dim=128),
    max_seq_len=8192,
)
GPT3 = ModelSpec(
    name="gpt3-like-175b",
    family="gpt3",
    n_layers=96,
    hidden=12288,
    ffn_hidden=49152,
    vocab=50257,
    attention=AttentionSpec(n_heads=96, n_kv_heads=96, head_dim=128, v_head_dim=128, qkv_bias=True, out_bias=True),
    gated_ffn=False,
    tied_embeddings=True,
    norm="layernorm",
    learned_positions=2048,
    ffn_bias=True,
    dropout=True,
    max_seq_len=2048,
)
MIXTRAL = ModelSpec(
    name="mixtral-like",
    family="mixtral",
    n_layers=32,
    hidden=4096,
    ffn_hidden=14336,
    vocab=32000,
    attention=AttentionSpec(n_heads=32, n_kv_heads=8, head_dim=128, v_head_dim=128),
    moe=MoeSpec(n_experts=8, top_k=2, ffn_hidden=14336, n_moe_layers=32),
    max_seq_len=32768,
)
DEEPSEEK = ModelSpec(
    name="deepseek-like",
    family="deepseek_v3",
    n_layers=61,
    hidden=7168,
    ffn_hidden=18432,
    vocab=129280,
    attention=AttentionSpec(
        kind="mla",
        n_heads=128,
        n_kv_heads=128,
        head_dim=192,
        v_head_dim=128,
        q_lora_rank=1536,
        kv_lora_rank=512,
        qk_rope_head_dim=64,
    ),
    moe=MoeSpec(n_experts=256, top_k=8, ffn_hidden=2048, shared_ffn_hidden=2048, n_moe_layers=58, router_bias=True),
    mtp_layers=1,
    max_seq_len=4096,
)
WINDOWED = ModelSpec(
    name="windowed-moe",
    family="gpt_oss",
    n_layers=24,
    hidden=2880,
    ffn_hidden=2880,
    vocab=201088,
    attention=AttentionSpec(
        n_heads=64, n_kv_heads=8, head_dim=64, v_head_dim=64, window=128, windowed_layers=12, qkv_bias=True, sinks=True
    ),
    moe=MoeSpec(
        n_experts=32,
        top_k=4,
        ffn_hidden=2880,
        n_moe_layers=12,
        dense_first=False,
        shared_ffn_hidden=2880,
        shared_gate=True,
    ),
    max_seq_len=4096,
)
MODELS = (LLAMA, GPT3, MIXTRAL, DEEPSEEK, WINDOWED)

SOFTWARE = {
    name: Software(name=name, framework=name, release="test", attention="flash2")
    for name in ("megatron-lm", "torchtitan", "deepspeed", "pytorch")
}


def plan_set(
    model: ModelSpec,
    config: ParallelConfig,
    *,
    seq_len: int = 4096,
    micro_batches: int = 8,
    gpus_per_node: int = 8,
    architecture: str = "hopper",
    precision: str = "bf16",
    framework: str = "megatron-lm",
    stage_layers: tuple[int, ...] | None = None,
    **workload: object,
) -> tuple[PlanSet, Plan]:
    """One plan in its set; the cluster has exactly the plan's GPUs."""
    world = config.world_size
    per_node = min(world, gpus_per_node)
    problem = PlanningProblem(
        model=model,
        cluster=cluster(-(-world // per_node), per_node, architecture),
        workload=Workload(
            seq_len=seq_len,
            global_batch=config.dp * config.micro_batch_size * micro_batches,
            precision=precision,
            **workload,  # type: ignore[arg-type]
        ),
        software=SOFTWARE[framework],
        framework=framework,
    )
    if stage_layers is None:
        stage_layers = even_stages(model.n_layers, config)
    plan = Plan(
        rank=1,
        config=config,
        precision=precision,
        metrics={"step_s": 12.3456, "peak_bytes": 65.4e9},
        time_s={},
        memory_bytes={},
        stage_layers=stage_layers,
    )
    return PlanSet(problem=problem, plans=(plan,), search=SearchReport(enumerated=1, feasible=1)), plan


def even_stages(n_layers: int, config: ParallelConfig) -> tuple[int, ...]:
    """Layers per stage of an even split, or of one in which embedding and loss count as layers."""
    if config.layer_split == LayerSplit.EMBEDDING_AND_LOSS_COUNT:
        share = (n_layers + 2) // config.pp
        stages = [share] * config.pp
        stages[0] -= 1
        stages[-1] -= 1
        return tuple(stages)
    return (n_layers // config.pp,) * config.pp


def _pick(draw: st.DrawFn, *values: int) -> int:
    return draw(st.sampled_from(values))


@st.composite
def random_plans(draw: st.DrawFn, models: tuple[ModelSpec, ...] = MODELS) -> tuple[PlanSet, Plan]:
    """Plans that keep Megatron's rules by construction, over every mode that its emitter writes."""
    model = draw(st.sampled_from(models))
    tp, cp = _pick(draw, 1, 2, 4, 8), _pick(draw, 1, 1, 2)
    pp, dp = _pick(draw, 1, 2, 4), _pick(draw, 1, 2, 4, 8)
    zero = draw(st.sampled_from((0, 1, 1, 1, 2, 3))) if pp == 1 else draw(st.sampled_from((0, 1, 1)))
    split, vp = draw(st.sampled_from([s for s in LayerSplit if s != LayerSplit.BALANCED])), _pick(draw, 1, 2, 3)
    if pp == 1:
        split, vp = LayerSplit.EVEN, 1
    extra = 2 if split == LayerSplit.EMBEDDING_AND_LOSS_COUNT else 0
    stages: tuple[int, ...] | None = None
    if split == LayerSplit.LAYOUT:
        cut = sorted(draw(st.lists(st.integers(0, model.n_layers), min_size=pp - 1, max_size=pp - 1)))
        stages = tuple(b - a for a, b in zip([0, *cut], [*cut, model.n_layers], strict=True))
    else:
        per_stage = (model.n_layers + extra) // pp * pp // (pp * vp) * vp * pp - extra
        model = with_layers(model, max(pp * vp, per_stage + (pp * vp if per_stage <= 0 else 0)))
        if (model.n_layers + extra) % (pp * vp):
            model = with_layers(model, pp * vp * 3 - extra)
    ep = _pick(draw, 1, 2, 4) if model.moe else 1
    etp = _pick(draw, 1, tp) if model.moe and not model.ffn_bias else 1
    if ep * etp > 1 and tp * cp * dp % (ep * etp):
        ep, etp = 1, 1
    replicas = _pick(draw, 1, 1, 2) if zero and (dp * cp) % 2 == 0 else 1
    if model.moe and (tp * cp * dp // (ep * etp)) % replicas:
        replicas = 1
    overlap_grad = _pick(draw, 0, 1)
    sequence_parallel = 1 if tp > 1 and (model.moe or draw(st.booleans())) else 0
    recompute, layers = draw(_recompute(model, vp))
    config = ParallelConfig(
        tp=tp,
        cp=cp,
        pp=pp,
        dp=dp,
        vp=vp,
        ep=ep,
        etp=etp,
        micro_batch_size=_pick(draw, 1, 2),
        zero_stage=zero,
        dp_shard=dp * cp // replicas,
        recompute=recompute,
        recompute_layers=layers,
        sequence_parallel=sequence_parallel,
        cp_comm=draw(st.sampled_from(_comms(model, cp))),
        overlap_grad_reduce=overlap_grad,
        overlap_param_gather=overlap_grad if zero else 1,
        tp_overlap=int(sequence_parallel and draw(st.booleans())),
        optimizer_offload=_pick(draw, 0, 0, 1) if zero else 0,
        layer_split=split,
    )
    precision = draw(st.sampled_from(("bf16", "bf16", "fp16", "fp8", "mxfp8")))
    return plan_set(
        model,
        config,
        precision=precision,
        seq_len=max(2048, 2 * cp * tp) if model.learned_positions == 0 else 2048,
        micro_batches=pp * _pick(draw, 1, 4),
        architecture=draw(st.sampled_from(("hopper", "blackwell"))),
        stage_layers=stages,
        optimizer=draw(st.sampled_from(("adam_fp32", "adam_bf16", "adam_8bit"))) if zero else "adam_fp32",
        grad_dtype_bytes=draw(st.sampled_from((4.0, 2.0))),
        fp8_params=bool(
            zero and not config.optimizer_offload and precision in ("fp8", "mxfp8") and draw(st.booleans())
        ),
    )


@st.composite
def _recompute(draw: st.DrawFn, model: ModelSpec, vp: int) -> tuple[int, int]:
    kind = draw(st.sampled_from(("none", "all", "some", "modules")))
    if kind == "none":
        return Recompute.NONE, 0
    if kind == "all":
        return Recompute.FULL, 0
    if kind == "some":
        return Recompute.FULL, vp * draw(st.integers(1, 2))
    allowed = [Recompute.CORE_ATTENTION, Recompute.NORM, Recompute.FFN]
    allowed += [Recompute.FFN_ACTIVATION] if model.moe else []
    allowed += [Recompute.MLA_UP_PROJECTION] if model.attention.kind == "mla" else []
    mask = 0
    for bit in draw(st.lists(st.sampled_from(allowed), min_size=1, unique=True)):
        mask |= bit
    return mask, 0


def with_layers(model: ModelSpec, n_layers: int) -> ModelSpec:
    """The model with another depth; an MoE keeps its dense layers where it can."""
    if model.moe is None:
        return replace(model, n_layers=n_layers)
    dense = min(model.n_dense_layers, n_layers - 1) if model.moe.dense_first else n_layers // 2
    attention = replace(model.attention, windowed_layers=min(model.attention.windowed_layers, n_layers // 2))
    return replace(model, n_layers=n_layers, attention=attention, moe=replace(model.moe, n_moe_layers=n_layers - dense))


def _comms(model: ModelSpec, cp: int) -> tuple[CpComm, ...]:
    if cp == 1:
        return (CpComm.RING,)
    return (CpComm.ALL_GATHER,) if model.attention.window else (CpComm.RING, CpComm.ALL_GATHER)
