"""Options of Megatron-LM 0.19 for a plan: degrees, schedule, sharding, recompute, numerics; and what it refuses."""

from __future__ import annotations

from ...costmodels.model_spec import ModelSpec
from ...costmodels.parallel import CpComm, LayerSplit, ParallelConfig, Recompute, Schedule
from ...costmodels.stage_layout import StageLayout
from ...costmodels.workload import Workload
from ..plan import Plan, PlanSet
from .common import disagreement, hsdp_replicas, micro_batches
from .megatron_layout import encode_layout, encode_stage_layout
from .shell import Flag, flag

CP_COMM = {CpComm.RING: "p2p", CpComm.ALL_GATHER: "all_gather", CpComm.ULYSSES: "a2a"}
FSDP_STRATEGY = {2: "optim_grads", 3: "optim_grads_params"}
#: Moments by optimizer kind; all need ``--use-precision-aware-optimizer``.
MOMENT_DTYPE = {"adam_bf16": "bf16", "adam_precision_aware": "bf16", "adam_8bit": "fp8", "adam_pure_bf16": "bf16"}
FP8_FLAGS = {
    "fp8": (flag("--fp8-format", "hybrid"), flag("--fp8-recipe", "tensorwise")),
    "mxfp8": (flag("--fp8-format", "e4m3"), flag("--fp8-recipe", "mxfp8")),
    "nvfp4": (flag("--fp4-format", "e2m1"), flag("--fp4-recipe", "nvfp4")),
}


def needs_layout(plan: Plan) -> bool:
    """Whether the split of layers must be spelt out."""
    return plan.config.pp > 1 and plan.config.layer_split == LayerSplit.LAYOUT


def pipeline_flags(plan: Plan, mtp_layers: int) -> list[Flag]:
    """Stages, chunks and how the layers are dealt."""
    config = plan.config
    flags = [flag("--pipeline-model-parallel-size", config.pp)]
    if config.pp == 1:
        return flags
    if plan.stage_layout:
        return [*flags, flag("--pipeline-model-parallel-layout", encode_stage_layout(plan.stage_layout))]
    if needs_layout(plan):
        return [
            *flags,
            flag("--pipeline-model-parallel-layout", encode_layout(plan.stage_layers, config.vp, mtp_layers)),
        ]
    if config.vp > 1:
        flags.append(flag("--num-virtual-stages-per-pipeline-rank", config.vp))
    if config.layer_split == LayerSplit.EMBEDDING_AND_LOSS_COUNT:
        flags += [flag("--account-for-embedding-in-pipeline-split"), flag("--account-for-loss-in-pipeline-split")]
    return flags


def parallel_flags(plan_set: PlanSet, plan: Plan) -> list[Flag]:
    """Degrees, overlap and sharding."""
    config, model = plan.config, plan_set.problem.model
    flags = [flag("--tensor-model-parallel-size", config.tp)]
    if config.sequence_parallel and config.tp > 1:
        flags.append(flag("--sequence-parallel"))
    if config.tp_overlap and config.tp > 1:
        flags.append(flag("--tp-comm-overlap"))
    flags += pipeline_flags(plan, model.mtp_layers)
    flags.append(flag("--context-parallel-size", config.cp))
    if config.cp > 1:
        flags.append(flag("--cp-comm-type", CP_COMM[CpComm(config.cp_comm)]))
    if model.moe:
        flags += [
            flag("--expert-model-parallel-size", config.ep),
            flag("--expert-tensor-parallel-size", config.etp),
        ]
    return flags + sharding_flags(config)


def sharding_flags(config: ParallelConfig) -> list[Flag]:
    """ZeRO stage, its groups and its overlap."""
    flags: list[Flag] = []
    if config.zero_stage >= 1:
        flags.append(flag("--use-distributed-optimizer"))
    if config.zero_stage >= 2:
        flags += [
            flag("--use-megatron-fsdp"),
            flag("--data-parallel-sharding-strategy", FSDP_STRATEGY[config.zero_stage]),
            flag("--no-gradient-accumulation-fusion"),
            flag("--ckpt-format", "fsdp_dtensor"),
            flag("--init-model-with-meta-device"),
        ]
    if config.zero_stage >= 1 and hsdp_replicas(config) > 1:
        flags.append(flag("--num-distributed-optimizer-instances", hsdp_replicas(config)))
        if config.zero_stage >= 2:
            flags.append(flag("--outer-dp-sharding-strategy", "no_shard"))
    if config.overlap_grad_reduce:
        flags.append(flag("--overlap-grad-reduce"))
    if config.overlap_param_gather and config.zero_stage >= 1:
        flags.append(flag("--overlap-param-gather"))
    return flags


def recompute_flags(plan_set: PlanSet, plan: Plan) -> list[Flag]:
    """``--recompute-*``: whole layers by ``uniform`` or ``block``, or single modules."""
    config, model = plan.config, plan_set.problem.model
    if config.recompute & Recompute.FULL:
        if not config.recompute_layers:
            method, layers = "uniform", 1
        else:  # Megatron counts the layers of one chunk, ParallelConfig those of one rank
            method, layers = "block", config.recompute_layers // max(1, config.vp)
        return [
            flag("--recompute-granularity", "full"),
            flag("--recompute-method", method),
            flag("--recompute-num-layers", layers),
        ]
    names = recompute_modules(config.recompute, moe=model.moe is not None, dense=model.n_dense_layers > 0)
    if not names:
        return []
    return [flag("--recompute-granularity", "selective"), flag("--recompute-modules", *names)]


def recompute_modules(mask: int, *, moe: bool, dense: bool) -> list[str]:
    """Megatron's module names of a selective mask."""
    ffn = (["moe"] if moe else []) + (["mlp"] if dense else [])
    table = (
        (Recompute.CORE_ATTENTION, ["core_attn"]),
        (Recompute.NORM, ["layernorm"]),
        (Recompute.FFN_ACTIVATION, ["moe_act"]),
        (Recompute.MLA_UP_PROJECTION, ["mla_up_proj"]),
        (Recompute.FFN, ffn),
    )
    return [name for bit, names in table if mask & bit for name in names]


def precision_flags(plan: Plan, workload: Workload, *, moe: bool) -> list[Flag]:
    """Numerics of GEMMs, gradients and parameters."""
    precision, config = plan.precision, plan.config
    if precision in ("fp32", "tf32"):
        return []
    flags = [flag("--fp16" if precision == "fp16" else "--bf16")]
    flags += FP8_FLAGS.get(precision, ())
    if precision in FP8_FLAGS and moe:
        flags.append(flag("--moe-router-padding-for-quantization"))
    if workload.fp8_params and precision in FP8_FLAGS:
        flags.append(flag("--fp4-param-gather" if precision == "nvfp4" else "--fp8-param-gather"))
        if precision == "mxfp8" and config.zero_stage == 1:
            flags.append(flag("--reuse-grad-buf-for-mxfp8-param-ag"))
    if config.zero_stage >= 2:
        width = "bf16" if workload.grad_dtype_bytes < 4 else "fp32"
        flags.append(flag("--megatron-fsdp-main-grads-dtype", width))
        flags.append(flag("--megatron-fsdp-grad-comm-dtype", width))
    elif workload.grad_dtype_bytes < 4 and precision != "fp16":
        flags.append(flag("--grad-reduce-in-bf16"))
    elif workload.grad_dtype_bytes >= 4:
        flags.append(flag("--accumulate-allreduce-grads-in-fp32"))
    return flags


def optimizer_flags(plan: Plan, workload: Workload) -> list[Flag]:
    """Optimizer states: their width and where they live."""
    config = plan.config
    moments = MOMENT_DTYPE.get(workload.optimizer)
    flags: list[Flag] = []
    if moments or config.optimizer_offload:
        flags.append(flag("--use-precision-aware-optimizer"))
    if moments:
        flags += [flag("--exp-avg-dtype", moments), flag("--exp-avg-sq-dtype", moments)]
    if workload.optimizer == "adam_pure_bf16":
        flags.append(flag("--megatron-fsdp-main-params-dtype", "bf16"))
    if config.optimizer_offload:
        flags += [
            flag("--optimizer-cpu-offload"),
            flag("--optimizer-offload-fraction", "1.0"),
            flag("--overlap-cpu-optimizer-d2h-h2d"),
        ]
    return flags


def refuse_plan(plan_set: PlanSet, plan: Plan) -> str | None:
    """Why Megatron-LM 0.19 cannot run the plan, or None."""
    for rule in (_refuse_schedule, _refuse_axes, _refuse_sharding, _refuse_recompute, _refuse_numerics):
        reason = rule(plan_set, plan)
        if reason:
            return reason
    return None


def _refuse_schedule(plan_set: PlanSet, plan: Plan) -> str | None:
    config, model = plan.config, plan_set.problem.model
    if config.pp == 1:
        return "vp above 1 needs pp above 1" if config.vp > 1 else None
    if config.schedule != Schedule.ONE_F_ONE_B:
        return f"it runs 1F1B and interleaved 1F1B only, not {Schedule(config.schedule).name}"
    if config.vp > 1 and micro_batches(plan_set, plan) % config.pp:
        return (
            f"interleaving needs the {micro_batches(plan_set, plan)} micro-batches of a pipeline "
            f"to be a multiple of pp {config.pp}"
        )
    if plan.stage_layout:
        return _refuse_layout(plan, plan.stage_layout, model)
    if config.layer_split == LayerSplit.LAYOUT:
        if len(plan.stage_layers) != config.pp or sum(plan.stage_layers) != model.n_layers:
            return f"the plan's stage_layers do not deal {model.n_layers} layers to {config.pp} stages"
        return None
    extra = 2 if config.layer_split == LayerSplit.EMBEDDING_AND_LOSS_COUNT else 0
    if (model.n_layers + extra) % (config.pp * config.vp):
        counted = f"{model.n_layers} layers" + (" plus embedding and loss" if extra else "")
        return f"{counted} do not divide by pp * vp = {config.pp * config.vp}; a layout would be needed"
    return None


def _refuse_layout(plan: Plan, layout: StageLayout, model: ModelSpec) -> str | None:
    """Why an explicit layout does not go with the rest of the plan or with ``pipeline_parallel_layer_layout.py``."""
    reason = disagreement(plan, layout, model)
    if reason:
        return reason
    holders = [i for i, chunk in enumerate(layout.flat) if chunk.mtp]
    if len(holders) > 1:
        return "its layouts keep all multi-token prediction on one chunk"
    if holders and (holders[0] < (layout.vp - 1) * layout.pp or holders[0] % layout.pp == 0):
        return "its layouts keep multi-token prediction on the last chunk of a rank other than the first"
    return None


def _refuse_axes(plan_set: PlanSet, plan: Plan) -> str | None:
    config, model, workload = plan.config, plan_set.problem.model, plan_set.problem.workload
    attention = model.attention
    if model.moe is None and config.ep > 1:
        return f"ep {config.ep} needs a model with experts"
    if model.moe and config.tp > 1 and not config.sequence_parallel:
        return "experts with tp above 1 need sequence parallelism"
    if model.moe and model.ffn_bias and config.etp > 1:
        return "experts with biases need expert tp 1"
    if config.sequence_parallel and config.tp > 1 and workload.seq_len % (config.tp * config.cp):
        return f"{workload.seq_len} tokens do not divide by tp * cp = {config.tp * config.cp} (sequence parallelism)"
    if config.tp_overlap and config.tp > 1 and not config.sequence_parallel:
        return "--tp-comm-overlap needs sequence parallelism"
    if config.cp > 1 and config.cp_comm == CpComm.RING and attention.window and attention.windowed_layers:
        return "sliding-window attention over context-parallel ranks needs all-gather or Ulysses, not the ring"
    if config.cp > 1 and config.cp_comm == CpComm.ULYSSES:
        split = config.tp * config.cp
        heads = attention.n_heads if attention.kind == "mla" else attention.n_kv_heads
        if heads % split:
            return f"Ulysses needs the {heads} key-value heads to divide by tp * cp = {split}"
    return None


def _refuse_sharding(plan_set: PlanSet, plan: Plan) -> str | None:
    config, workload = plan.config, plan_set.problem.workload
    if config.zero_stage >= 2 and config.pp > 1:
        return f"ZeRO {config.zero_stage} (Megatron-FSDP) runs with TP, EP and CP, not with pipeline stages"
    ranks = config.dp * config.cp
    if config.zero_stage >= 1 and (config.dp_shard > ranks or ranks % config.dp_shard):
        return f"dp_shard {config.dp_shard} does not divide dp * cp = {ranks}"
    if config.zero_stage >= 1 and config.overlap_param_gather and not config.overlap_grad_reduce:
        return "--overlap-param-gather needs --overlap-grad-reduce"
    replicas = hsdp_replicas(config)
    expert_dp = config.tp * config.cp * config.dp // max(1, config.ep * config.etp)
    if config.zero_stage >= 1 and plan_set.problem.model.moe and expert_dp % replicas:
        return f"{replicas} optimizer instances do not divide the experts' data-parallel degree {expert_dp}"
    if config.optimizer_offload and config.zero_stage == 0:
        return "optimizer offload needs the distributed optimizer (ZeRO 1 or more)"
    if workload.task == "lora":
        return "pretrain_gpt.py trains all weights; LoRA needs Megatron-Bridge"
    return None


def _refuse_recompute(plan_set: PlanSet, plan: Plan) -> str | None:
    config, model = plan.config, plan_set.problem.model
    mask = config.recompute
    if mask & Recompute.FULL:
        if config.recompute_layers % max(1, config.vp):
            return (
                f"it recomputes whole layers per model chunk, and {config.recompute_layers} layers do not divide "
                f"by vp {config.vp}"
            )
        return None
    if mask & Recompute.FFN_ACTIVATION and model.moe is None:
        return "recomputing the feed-forward activation alone exists for experts only (moe_act)"
    if mask & Recompute.MLA_UP_PROJECTION and model.attention.kind != "mla":
        return "recomputing the up-projection needs latent attention (mla_up_proj)"
    return None


def _refuse_numerics(plan_set: PlanSet, plan: Plan) -> str | None:
    config, workload = plan.config, plan_set.problem.workload
    if workload.optimizer not in ("adam_fp32", *MOMENT_DTYPE):
        return f"it has no optimizer of kind {workload.optimizer}"
    if workload.optimizer == "adam_pure_bf16" and config.zero_stage < 2:
        return "an optimizer without fp32 weights exists in Megatron-FSDP (ZeRO 2 or 3) only"
    if workload.optimizer in MOMENT_DTYPE and config.zero_stage == 0:
        return f"{workload.optimizer} needs the distributed optimizer (ZeRO 1 or more)"
    if workload.fp8_params and plan.precision in FP8_FLAGS:
        if config.zero_stage == 0:
            return "quantized parameters need the distributed optimizer (ZeRO 1 or more)"
        if config.optimizer_offload:
            return "quantized parameters and optimizer offload go together with delayed scaling only"
    if plan.precision in ("fp32", "tf32") and workload.grad_dtype_bytes < 4:
        return f"{plan.precision} training keeps gradients in fp32"
    return None
