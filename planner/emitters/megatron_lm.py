"""Megatron-LM 0.19: a complete ``launch.sh`` around ``pretrain_gpt.py``.

Option names and rules: argument parser, ``TransformerConfig`` and ``OptimizerConfig`` of megatron-core 0.19.2.
Learning rate, schedule and data are placeholders: they change neither time nor memory.
"""

from __future__ import annotations

from typing import ClassVar

from ..plan import Plan, PlanSet
from .base import LaunchBundle, LaunchOptions, Proof, require_expressible
from .common import (
    bundle,
    cluster_defaults,
    global_batch,
    header,
    manifest,
    refuse_zero_plus,
    torchrun_array,
    user_env,
    world_check,
)
from .megatron_model import model_flags, model_notes, moe_flags, refuse_model
from .megatron_parallel import (
    optimizer_flags,
    parallel_flags,
    precision_flags,
    recompute_flags,
    refuse_plan,
)
from .shell import Flag, array, default, export, flag, script

#: Arrays of the script, in order; the launch reader needs no knowledge of these names.
ARRAYS = (
    "MODEL_ARGS",
    "MOE_ARGS",
    "PARALLEL_ARGS",
    "MEMORY_ARGS",
    "PRECISION_ARGS",
    "TRAINING_ARGS",
    "DATA_ARGS",
    "EXTRA_ARGS",
)


class MegatronLm:
    """Emitter for Megatron-LM's ``pretrain_gpt.py``."""

    name: ClassVar[str] = "megatron-lm"
    framework: ClassVar[str] = "megatron-lm"
    versions: ClassVar[str] = "0.19"
    proof: ClassVar[Proof] = Proof.PARSER_DEEP

    def refuse(self, plan_set: PlanSet, plan: Plan) -> str | None:
        """Why Megatron-LM 0.19 cannot run the plan, or None (see ``Emitter``)."""
        return refuse_model(plan_set.problem.model) or refuse_zero_plus(plan.config) or refuse_plan(plan_set, plan)

    def emit(self, plan_set: PlanSet, plan: Plan, options: LaunchOptions) -> LaunchBundle:
        """``launch.sh``, ``launch.json`` and, wrapped for Slurm, ``job.sbatch``."""
        require_expressible(self, plan_set, plan)
        notes = self.notes(plan_set, plan, options)
        lines = [
            *header(self, plan_set, plan, notes),
            "set -euo pipefail",
            "",
            "# Where things are; every one of these can be set from outside.",
            *cluster_defaults(plan_set),
            default("MEGATRON_DIR", options.megatron_dir),
            "",
            *world_check(plan),
            "",
            "# Environment of the training processes.",
            *environment(plan_set, plan),
            *user_env(options),
            "",
            *torchrun_array(),
        ]
        used = {name: flags for name, flags in self.groups(plan_set, plan, options).items() if flags}
        for name, flags in used.items():
            lines += ["", *array(name, flags)]
        words = ['"${TORCHRUN_ARGS[@]}"', '"$MEGATRON_DIR/pretrain_gpt.py"', *(f'"${{{name}[@]}}"' for name in used)]
        lines += ["", "exec torchrun \\", *(f"  {word} \\" for word in words), '  "$@"']
        files = {"launch.sh": script(lines), "launch.json": manifest(self, plan_set, plan, notes)}
        return bundle(files, plan_set, plan, options)

    def notes(self, plan_set: PlanSet, plan: Plan, options: LaunchOptions) -> list[str]:
        """Sentences that the user of the script must know."""
        notes = model_notes(plan_set.problem.model)
        if options.data_path == "":
            notes.append("mock data and a null tokenizer; pass --data-path and --tokenizer for a real run.")
        notes.append("--lr, --min-lr and --train-iters are placeholders.")
        if plan.config.tp_overlap and plan.config.tp > 1:
            notes.append("--tp-comm-overlap needs Transformer Engine with user buffers.")
        return notes

    def groups(self, plan_set: PlanSet, plan: Plan, options: LaunchOptions) -> dict[str, list[Flag]]:
        """Options of ``pretrain_gpt.py`` by the array that holds them."""
        problem = plan_set.problem
        model, workload = problem.model, problem.workload
        values = (
            model_flags(model, seq_len=workload.seq_len),
            moe_flags(model, token_drop=workload.token_drop),
            parallel_flags(plan_set, plan),
            [*recompute_flags(plan_set, plan), *optimizer_flags(plan, workload)],
            precision_flags(plan, workload, moe=model.moe is not None),
            training_flags(plan_set, plan, options),
            data_flags(plan_set, options),
            [tuple(options.extra_args)] if options.extra_args else [],
        )
        return dict(zip(ARRAYS, values, strict=True))


def environment(plan_set: PlanSet, plan: Plan) -> list[str]:
    """Exports that the plan needs, each with its reason."""
    config = plan.config
    architecture = plan_set.problem.cluster.gpu.architecture.lower()
    lines = []
    if config.zero_stage >= 2:
        lines += ["# Megatron-FSDP refuses 1: gathers must run beside compute.", "unset CUDA_DEVICE_MAX_CONNECTIONS"]
    elif (config.tp > 1 or config.cp > 1) and "blackwell" not in architecture:
        lines += ["# One queue keeps TP and CP collectives ahead of the GEMMs (before Blackwell)."]
        lines += [export("CUDA_DEVICE_MAX_CONNECTIONS", 1)]
    lines += ["# Less fragmentation of the caching allocator."]
    lines += [default("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True"), "export PYTORCH_CUDA_ALLOC_CONF"]
    if plan.precision == "fp32":
        lines += ["# fp32 means fp32: no TF32 in cuBLAS.", export("NVIDIA_TF32_OVERRIDE", 0)]
    if plan.precision == "tf32":
        lines += ["# TF32 for every fp32 GEMM.", export("TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", 1)]
    return lines


def training_flags(plan_set: PlanSet, plan: Plan, options: LaunchOptions) -> list[Flag]:
    """Batch, length of the run, optimizer placeholders, logging and checkpoints."""
    flags = [
        flag("--micro-batch-size", plan.config.micro_batch_size),
        flag("--global-batch-size", global_batch(plan_set.problem.workload)),
        flag("--train-iters", options.train_iters),
        flag("--lr", options.lr),
        flag("--min-lr", options.min_lr),
        flag("--lr-decay-style", "cosine"),
        flag("--lr-warmup-iters", min(2000, options.train_iters // 10)),
        flag("--weight-decay", 0.1),
        flag("--adam-beta1", 0.9),
        flag("--adam-beta2", 0.95),
        flag("--clip-grad", 1.0),
        flag("--init-method-std", 0.02),
        flag("--transformer-impl", "transformer_engine"),
        flag("--log-interval", 1),
        flag("--log-throughput"),
        flag("--eval-iters", 0),
        flag("--eval-interval", 1_000_000),
        flag("--distributed-timeout-minutes", 60),
    ]
    if options.save_dir:
        flags += [flag("--save", options.save_dir), flag("--save-interval", 1000)]
    if options.load_dir:
        flags.append(flag("--load", options.load_dir))
    return flags


def data_flags(plan_set: PlanSet, options: LaunchOptions) -> list[Flag]:
    """Mock data with a null tokenizer of the model's vocabulary, or the user's own."""
    vocab = plan_set.problem.model.vocab
    if options.tokenizer:
        flags = [flag("--tokenizer-type", "HuggingFaceTokenizer"), flag("--tokenizer-model", options.tokenizer)]
    else:
        flags = [flag("--tokenizer-type", "NullTokenizer")]
    flags += [flag("--vocab-size", vocab), flag("--make-vocab-size-divisible-by", 128)]
    if options.data_path:
        flags += [flag("--data-path", options.data_path), flag("--split", "99,1,0")]
    else:
        flags.append(flag("--mock-data"))
    return flags
