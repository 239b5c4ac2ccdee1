"""TorchTitan 0.3: a ``launch.sh`` around ``torchtitan.train`` with every option of the plan.

The model comes from TorchTitan's own registry (``--module``, ``--config``); options override the rest.
Names: ``config/configs.py``, ``distributed/pipeline_parallel.py`` and ``models/*/config_registry.py`` of 0.3.0.
Later releases renamed the batch options, so the version is part of the emitter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from ...costmodels.model_spec import ModelSpec
from ...costmodels.parallel import Recompute, Schedule
from ...costmodels.stage_layout import Chunk, StageLayout
from ...hardware_profiles.errors import InvalidProblemError
from ..plan import Plan, PlanSet
from .base import LaunchBundle, LaunchOptions, Proof, require_expressible
from .common import (
    bundle,
    cluster_defaults,
    disagreement,
    global_batch,
    header,
    manifest,
    torchrun_array,
    user_env,
    world_check,
)
from .shell import Flag, array, default, flag, script

#: our model name -> (module, config function) of TorchTitan 0.3.0.
REGISTRY = {
    "llama-3-8b": ("llama3", "llama3_8b"),
    "llama-3.1-8b": ("llama3", "llama3_8b"),
    "llama-3-70b": ("llama3", "llama3_70b"),
    "llama-3.1-70b": ("llama3", "llama3_70b"),
    "llama-3.3-70b": ("llama3", "llama3_70b"),
    "llama-3.1-405b": ("llama3", "llama3_405b"),
    "qwen3-0.6b": ("qwen3", "qwen3_0_6b"),
    "qwen3-1.7b": ("qwen3", "qwen3_1_7b"),
    "qwen3-14b": ("qwen3", "qwen3_14b"),
    "qwen3-32b": ("qwen3", "qwen3_32b"),
    "qwen3-30b-a3b": ("qwen3", "qwen3_30b_a3b"),
    "deepseek-v3": ("deepseek_v3", "deepseek_v3_671b"),
    "gpt-oss-20b": ("gpt_oss", "gpt_oss_20b"),
    "gpt-oss-120b": ("gpt_oss", "gpt_oss_120b"),
}
SCHEDULES = {
    Schedule.GPIPE: "GPipe",
    Schedule.ZERO_BUBBLE_H1: "InterleavedZeroBubble",
    Schedule.ZERO_BUBBLE_V: "ZBVZeroBubble",
}
#: Masks that TorchTitan's activation checkpointing can express -> its subcommand.
CHECKPOINTING = {
    int(Recompute.NONE): "none",
    int(Recompute.NORM | Recompute.FFN_ACTIVATION): "selective",
    int(Recompute.FULL): "full",
}


class TorchTitan:
    """Emitter for ``python -m torchtitan.train``."""

    name: ClassVar[str] = "torchtitan"
    framework: ClassVar[str] = "torchtitan"
    versions: ClassVar[str] = "0.3"
    proof: ClassVar[Proof] = Proof.PARSER_SHALLOW

    def refuse(self, plan_set: PlanSet, plan: Plan) -> str | None:
        """Why TorchTitan 0.3 cannot run the plan, or None (see ``Emitter``)."""
        return _refuse_modes(plan_set, plan) or _refuse_pipeline(plan_set, plan) or _refuse_numerics(plan_set, plan)

    def emit(self, plan_set: PlanSet, plan: Plan, options: LaunchOptions) -> LaunchBundle:
        """``launch.sh``, ``launch.json`` and, wrapped for Slurm, ``job.sbatch``.

        A model that TorchTitan has no configuration of must be named through the environment.
        """
        require_expressible(self, plan_set, plan)
        module, config = registry_entry(plan_set, options)
        notes = self.notes(plan, options)
        if not (module and config):
            notes.append(
                f"TorchTitan 0.3 has no configuration of {plan_set.problem.model.name}; write one and name it by "
                "TORCHTITAN_MODULE and TORCHTITAN_CONFIG."
            )
        lines = [
            *header(self, plan_set, plan, notes),
            "set -euo pipefail",
            "",
            *cluster_defaults(plan_set),
            *registry_lines(module, config),
            "",
            *world_check(plan),
            'export PYTORCH_CUDA_ALLOC_CONF="${PYTORCH_CUDA_ALLOC_CONF:-expandable_segments:True}"',
            *user_env(options),
            "",
            *torchrun_array(),
            "",
            *array("TITAN_ARGS", titan_flags(plan_set, plan, options)),
            "",
            "# The subcommand comes last: TorchTitan reads no option of another section behind it.",
            "exec torchrun \\",
            '  "${TORCHRUN_ARGS[@]}" \\',
            "  -m torchtitan.train \\",
            '  --module "$TORCHTITAN_MODULE" --config "$TORCHTITAN_CONFIG" \\',
            '  "${TITAN_ARGS[@]}" \\',
            '  "$@" \\',
            f"  activation-checkpoint:{CHECKPOINTING[int(plan.config.recompute)]}",
        ]
        files = {"launch.sh": script(lines), "launch.json": manifest(self, plan_set, plan, notes)}
        return bundle(files, plan_set, plan, options)

    def notes(self, plan: Plan, options: LaunchOptions) -> list[str]:
        """Sentences that the user of the script must know."""
        notes = []
        if not options.tokenizer:
            notes.append("pass --tokenizer (a folder with the model's Hugging Face tokenizer files) for a real run.")
        if not options.data_path:
            notes.append("the data set is the one of TorchTitan's configuration; pass --data-path for your own.")
        if plan.config.optimizer_offload:
            notes.append("TorchTitan offloads parameters and gradients together with the optimizer.")
        return notes


def registry_entry(plan_set: PlanSet, options: LaunchOptions) -> tuple[str, str]:
    """Module and configuration function of the model; empty where neither TorchTitan nor the user has one."""
    module, config = REGISTRY.get(plan_set.problem.model.name, ("", ""))
    return options.torchtitan_module or module, options.torchtitan_config or config


def registry_lines(module: str, config: str) -> list[str]:
    """Variables that name the model; without a known one the script asks for them."""
    return [
        default(name, value) if value else f': "${{{name}:?set it to your own model in the registry of TorchTitan}}"'
        for name, value in (("TORCHTITAN_MODULE", module), ("TORCHTITAN_CONFIG", config))
    ]


def shard_degree(plan: Plan) -> int:
    """TorchTitan's shard degree: its mesh keeps context parallelism as an axis of its own."""
    return plan.config.dp_shard // plan.config.cp


def titan_flags(plan_set: PlanSet, plan: Plan, options: LaunchOptions) -> list[Flag]:
    """All options but the subcommand."""
    config, workload = plan.config, plan_set.problem.workload
    local = global_batch(workload) // config.dp if config.pp > 1 else config.micro_batch_size
    flags = [
        flag("--training.local_batch_size", local),
        flag("--training.global_batch_size", global_batch(workload)),
        flag("--training.seq_len", workload.seq_len),
        flag("--training.steps", options.train_iters),
        flag("--training.dtype", "bfloat16" if workload.optimizer == "adam_pure_bf16" else "float32"),
        flag("--training.mixed_precision_param", "bfloat16" if plan.precision == "bf16" else "float32"),
        flag("--parallelism.data_parallel_replicate_degree", config.dp // shard_degree(plan)),
        flag("--parallelism.data_parallel_shard_degree", shard_degree(plan)),
        flag("--parallelism.fsdp_reshard_after_forward", "always" if config.zero_stage == 3 else "never"),
        flag("--parallelism.tensor_parallel_degree", config.tp),
        flag("--parallelism.context_parallel_degree", config.cp),
        flag("--parallelism.expert_parallel_degree", config.ep),
        flag("--parallelism.pipeline_parallel_degree", config.pp),
    ]
    if config.tp > 1:
        word = "enable" if config.sequence_parallel else "no-enable"
        flags.append(flag(f"--parallelism.{word}_sequence_parallel"))
    if config.pp > 1:
        flags += pipeline_flags(plan_set, plan)
    if config.pp > 1 or config.ep > 1:  # host synchronisation inside the step
        flags.append(flag("--training.disable_cuda_graphs"))
    if config.optimizer_offload:
        flags.append(flag("--training.enable_cpu_offload"))
    if config.tp_overlap and config.tp > 1:
        flags += [flag("--compile.enable"), flag("--compile.enable_async_tensor_parallel")]
    if options.tokenizer:
        flags.append(flag("--hf_assets_path", options.tokenizer))
    if options.data_path:
        flags.append(flag("--dataloader.dataset_path", options.data_path))
    if options.save_dir:
        flags += [flag("--checkpoint.enable"), flag("--dump_folder", options.save_dir)]
    if options.extra_args:
        flags.append(tuple(options.extra_args))
    return flags


def pipeline_flags(plan_set: PlanSet, plan: Plan) -> list[Flag]:
    """Schedule, micro-batch and the three numbers from which TorchTitan derives its split."""
    config = plan.config
    name = SCHEDULES.get(Schedule(config.schedule), "Interleaved1F1B" if config.vp > 1 else "1F1B")
    flags = [
        flag("--parallelism.pipeline_parallel_schedule", name),
        flag("--parallelism.pipeline_parallel_microbatch_size", config.micro_batch_size),
    ]
    if plan.stage_layout:
        return [*flags, flag("--parallelism.module_fqns_per_model_part", *module_names(plan.stage_layout))]
    first, last, layers = split_numbers(plan_set, plan) or (0, 0, 0)
    return [
        *flags,
        flag("--parallelism.pipeline_parallel_layers_per_stage", layers),
        flag("--parallelism.pipeline_parallel_first_stage_less_layers", first),
        flag("--parallelism.pipeline_parallel_last_stage_less_layers", last),
    ]


def module_names(layout: StageLayout) -> list[str]:
    """Modules of every chunk in the order of the model, one comma-separated argument each (``config/manager.py`` reads
    lists of names so)."""
    out, at = [], 0
    for chunk in layout.flat:
        names = ["tok_embeddings"] * chunk.embedding + [f"layers.{at + i}" for i in range(chunk.layers)]
        at += chunk.layers
        out.append(",".join([*names, *["norm", "lm_head"] * chunk.head]))
    return out


def read_module_names(names: Sequence[str], pp: int) -> StageLayout:
    """Inverse of ``module_names``; recompute is not part of it.

    Raises:
        InvalidProblemError: modules are unknown or do not make a layout.
    """
    chunks = []
    for text in names:
        parts = text.split(",")
        layers = sum(part.startswith("layers.") for part in parts)
        if layers + sum(part in ("tok_embeddings", "norm", "lm_head") for part in parts) != len(parts):
            raise InvalidProblemError(f"--parallelism.module_fqns_per_model_part holds unknown modules: {text!r}.")
        chunks.append(Chunk(layers, "tok_embeddings" in parts, 0, "lm_head" in parts))
    rows = tuple(tuple(chunks[i : i + pp]) for i in range(0, len(chunks), pp))
    return StageLayout(rows, (False,) * sum(chunk.layers for chunk in chunks))


def titan_split(n_layers: int, stages: int, first: int, last: int) -> tuple[int, ...]:
    """Layers per stage as TorchTitan deals them: embedding and head weigh ``first`` and ``last`` layers."""
    base, extra = divmod(n_layers + first + last, stages)
    counts = [base + (1 if i < extra else 0) for i in range(stages)]
    counts[0] -= first
    counts[-1] -= last
    return tuple(counts)


def split_numbers(plan_set: PlanSet, plan: Plan) -> tuple[int, int, int] | None:
    """``(first, last, layers per stage)`` that give the plan's layers per rank, or None.

    Stage ``i`` lives on rank ``i % pp``; under the V schedule the second pass runs backwards.
    """
    config, n_layers = plan.config, plan_set.problem.model.n_layers
    stages = config.pp * config.vp
    for first, last in sorted(((a, b) for a in range(5) for b in range(5)), key=lambda ab: (sum(ab), ab)):
        layers = -(-(n_layers + first + last) // stages)
        if -(-(n_layers + first + last) // layers) != stages:
            continue
        counts = titan_split(n_layers, stages, first, last)
        if min(counts) < 0 or max(first, last) > (n_layers + first + last) // stages:
            continue
        ranks = [0] * config.pp
        for i, count in enumerate(counts):
            turn, place = divmod(i, config.pp)
            back = config.schedule == Schedule.ZERO_BUBBLE_V and turn % 2
            ranks[config.pp - 1 - place if back else place] += count
        if tuple(ranks) == plan.stage_layers:
            return first, last, layers
    return None


def _refuse_modes(plan_set: PlanSet, plan: Plan) -> str | None:
    config, model = plan.config, plan_set.problem.model
    if config.zero_stage not in (2, 3):
        return f"it always shards parameters (FSDP2); ZeRO {config.zero_stage} is not available"
    if config.dp_shard % config.cp or config.dp % shard_degree(plan):
        return f"dp_shard {config.dp_shard} is no product of cp {config.cp} and a divisor of dp {config.dp}"
    if config.etp > 1:
        return "its experts have no tensor-parallel degree of their own"
    if config.ep > 1 and model.moe is None:
        return f"ep {config.ep} needs a model with experts"
    if config.ep > 1 and (config.dp_shard * config.tp) % config.ep:
        return f"ep {config.ep} does not divide dp_shard * tp = {config.dp_shard * config.tp}"
    if config.recompute_layers or int(config.recompute) not in CHECKPOINTING:
        return "its activation checkpointing is none, selective (norms and activations) or full, for all layers"
    if config.tp_overlap and config.tp > 1 and not config.sequence_parallel:
        return "asynchronous tensor parallelism needs sequence parallelism"
    if plan_set.problem.workload.task == "lora":
        return "its pre-training program trains all weights, not adapters"
    return None


def _refuse_pipeline(plan_set: PlanSet, plan: Plan) -> str | None:
    config = plan.config
    if config.pp == 1:
        return None
    schedule = Schedule(config.schedule)
    needed = {
        Schedule.GPIPE: config.vp == 1,
        Schedule.ZERO_BUBBLE_H1: config.vp > 1,
        Schedule.ZERO_BUBBLE_V: config.vp == 2,
    }
    if not needed.get(schedule, True):
        return f"schedule {schedule.name} does not exist with vp {config.vp}"
    if plan.stage_layout:
        return _refuse_layout(plan, plan.stage_layout, plan_set.problem.model)
    if len(plan.stage_layers) != config.pp or split_numbers(plan_set, plan) is None:
        return f"its options cannot deal the layers as {', '.join(map(str, plan.stage_layers))}"
    return None


def _refuse_layout(plan: Plan, layout: StageLayout, model: ModelSpec) -> str | None:
    if plan.config.schedule == Schedule.ZERO_BUBBLE_V:
        return "a stage_layout goes straight through the stages, the V schedule back and forth"
    if layout.mtp_layers:
        return "its decoders have no multi-token prediction"
    if any(not chunk.layers for chunk in layout.flat):
        return "every model part needs a layer"
    return disagreement(plan, layout, model)


def _refuse_numerics(plan_set: PlanSet, plan: Plan) -> str | None:
    workload = plan_set.problem.workload
    if plan.precision not in ("bf16", "fp32"):
        return f"{plan.precision} is chosen inside its model configurations, not by an option"
    if workload.optimizer not in ("adam_fp32", "adam_pure_bf16"):
        return f"it has no optimizer of kind {workload.optimizer}"
    if workload.grad_dtype_bytes < 4:
        return "it reduces gradients in fp32 only"
    return None
