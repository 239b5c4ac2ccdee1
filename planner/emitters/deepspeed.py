"""DeepSpeed 0.19: ``ds_config.json`` and a launch of the user's own training script.

DeepSpeed has no program of its own to train with. Degrees that its configuration file does not hold (pipeline stages,
experts, recompute) are handed to the script as options; the notes say what it must do with them.
Keys and the batch rule: DeepSpeed 0.19.8 ``runtime/config.py`` and ``runtime/zero/config.py``
(ZeRO++: ``zero_hpz_partition_size``, ``zero_quantized_weights``, ``zero_quantized_gradients``).
"""

from __future__ import annotations

import json
from typing import Any, ClassVar

from ...costmodels.parallel import CpComm, Recompute, Schedule
from ...hardware_profiles.errors import InvalidProblemError
from ..plan import Plan, PlanSet
from .base import LaunchBundle, LaunchOptions, Proof, require_expressible
from .common import (
    bundle,
    global_batch,
    hsdp_replicas,
    manifest,
    micro_batches,
    own_script_opening,
    refuse_layout,
    torchrun_array,
    zero_plus,
)
from .shell import Flag, array, flag, script


class DeepSpeed:
    """Emitter for a training script that calls ``deepspeed.initialize``."""

    name: ClassVar[str] = "deepspeed"
    framework: ClassVar[str] = "deepspeed"
    versions: ClassVar[str] = "0.19"
    proof: ClassVar[Proof] = Proof.GOLDEN

    def refuse(self, plan_set: PlanSet, plan: Plan) -> str | None:
        """Why DeepSpeed 0.19 cannot run the plan, or None (see ``Emitter``)."""
        return refuse_layout(plan, "its configuration") or _refuse_degrees(plan) or _refuse_numerics(plan_set, plan)

    def emit(self, plan_set: PlanSet, plan: Plan, options: LaunchOptions) -> LaunchBundle:
        """``launch.sh``, ``ds_config.json``, ``launch.json`` and, wrapped for Slurm, ``job.sbatch``.

        Raises:
            InvalidProblemError: no training script is named.
        """
        require_expressible(self, plan_set, plan)
        if not options.train_script:
            raise InvalidProblemError("DeepSpeed starts a script of your own; name it with --train-script.")
        notes = self.notes(plan)
        lines = [
            *own_script_opening(self, plan_set, plan, options, notes),
            *torchrun_array(),
            "",
            *array("SCRIPT_ARGS", script_flags(plan_set, plan, options)),
            "",
            "exec torchrun \\",
            '  "${TORCHRUN_ARGS[@]}" \\',
            '  "$TRAIN_SCRIPT" \\',
            '  --deepspeed_config "$HERE/ds_config.json" \\',
            '  "${SCRIPT_ARGS[@]}" \\',
            '  "$@"',
        ]
        files = {
            "launch.sh": script(lines),
            "ds_config.json": json.dumps(ds_config(plan_set, plan, options), indent=2) + "\n",
            "launch.json": manifest(self, plan_set, plan, notes),
        }
        return bundle(files, plan_set, plan, options)

    def notes(self, plan: Plan) -> list[str]:
        """What the training script must do with the options that it is given."""
        config = plan.config
        notes = ["the script must call deepspeed.initialize with ds_config.json and build the model of the plan."]
        if config.pp > 1:
            notes.append("--pipeline-parallel-size: build deepspeed.pipe.PipelineModule with that many stages.")
        if config.ep > 1:
            notes.append("--expert-parallel-size: give it to deepspeed.moe.layer.MoE as ep_size.")
        if config.recompute:
            notes.append("--gradient-checkpointing: recompute every layer.")
        if config.cp > 1:
            notes.append(
                "sequence_parallel_size: attention must go through DeepSpeed's DistributedAttention (Ulysses)."
            )
        if config.tp > 1:
            notes.append(
                "tensor_parallel.autotp_size: the model must be one that DeepSpeed's AutoTP knows, and "
                f"deepspeed.initialize needs an mpu whose data-parallel groups have {config.dp} ranks."
            )
        return notes


def ds_config(plan_set: PlanSet, plan: Plan, options: LaunchOptions) -> dict[str, Any]:
    """DeepSpeed's configuration; ``train_batch_size`` = micro-batch * accumulation * data-parallel ranks."""
    config, workload = plan.config, plan_set.problem.workload
    value: dict[str, Any] = {
        "train_batch_size": global_batch(workload),
        "train_micro_batch_size_per_gpu": config.micro_batch_size,
        "gradient_accumulation_steps": micro_batches(plan_set, plan),
        "gradient_clipping": 1.0,
        "steps_per_print": 1,
        "wall_clock_breakdown": False,
        "optimizer": {
            "type": "AdamW",
            "params": {"lr": options.lr, "betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.1},
        },
        "zero_optimization": zero_config(plan),
        "data_types": {"grad_accum_dtype": "fp32" if workload.grad_dtype_bytes >= 4 else plan.precision},
    }
    if plan.precision in ("bf16", "fp16"):
        value[plan.precision] = {"enabled": True}
    if config.tp > 1:
        value["tensor_parallel"] = {"autotp_size": config.tp}
    if config.cp > 1:
        value["sequence_parallel_size"] = config.cp
    return value


def zero_config(plan: Plan) -> dict[str, Any]:
    """The ``zero_optimization`` block."""
    config = plan.config
    zero: dict[str, Any] = {"stage": config.zero_stage}
    if config.zero_stage:
        zero["overlap_comm"] = bool(config.overlap_grad_reduce)
        zero["contiguous_gradients"] = True
        zero["reduce_scatter"] = True
    if config.zero_stage == 3:
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    if config.hpz > 1:
        zero["zero_hpz_partition_size"] = config.hpz
    if config.quantized_weights:
        zero["zero_quantized_weights"] = True
    if config.quantized_gradients:
        zero["zero_quantized_gradients"] = True
    if config.optimizer_offload:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    return zero


def script_flags(plan_set: PlanSet, plan: Plan, options: LaunchOptions) -> list[Flag]:
    """Options for the user's script."""
    config = plan.config
    flags = [
        flag("--model", plan_set.problem.model.name),
        flag("--seq-length", plan_set.problem.workload.seq_len),
        flag("--train-iters", options.train_iters),
    ]
    if config.pp > 1:
        flags.append(flag("--pipeline-parallel-size", config.pp))
    if config.ep > 1:
        flags.append(flag("--expert-parallel-size", config.ep))
    if config.recompute:
        flags.append(flag("--gradient-checkpointing"))
    for name, value in (("--data-path", options.data_path), ("--tokenizer", options.tokenizer)):
        if value:
            flags.append(flag(name, value))
    if options.save_dir:
        flags.append(flag("--save", options.save_dir))
    if options.extra_args:
        flags.append(tuple(options.extra_args))
    return flags


def _refuse_degrees(plan: Plan) -> str | None:
    config = plan.config
    if config.vp > 1 or (config.pp > 1 and config.schedule != Schedule.ONE_F_ONE_B):
        return "its pipeline runs plain 1F1B only"
    if config.pp > 1 and config.zero_stage >= 2:
        return f"its pipeline excludes ZeRO {config.zero_stage}"
    if config.pp > 1 and config.cp > 1:
        return "its pipeline and Ulysses sequence parallelism do not go together"
    if config.tp > 1 and config.zero_stage == 3:
        return "its tensor parallelism runs with ZeRO up to stage 2"
    if config.tp > 1 and config.pp > 1:
        return "its automatic tensor parallelism does not cut pipeline stages"
    if config.cp > 1 and config.cp_comm != CpComm.ULYSSES:
        return "it splits the sequence by Ulysses only"
    if config.zero_stage and hsdp_replicas(config) > 1:
        return "it shards over all data-parallel ranks, not over groups of them"
    if zero_plus(config) and config.zero_stage != 3:
        return f"its {zero_plus(config)} belongs to ZeRO 3"
    ranks = config.dp * config.cp
    if config.hpz and (config.hpz < 2 or config.hpz >= ranks or ranks % config.hpz):
        return f"a second partition of {config.hpz} ranks is no part of dp * cp = {ranks}"
    if config.tp_overlap:
        return "it does not overlap TP collectives with GEMMs"
    return None


def _refuse_numerics(plan_set: PlanSet, plan: Plan) -> str | None:
    config, workload = plan.config, plan_set.problem.workload
    if plan.precision not in ("bf16", "fp16", "fp32"):
        return f"it has no {plan.precision} training of its own"
    if workload.optimizer != "adam_fp32":
        return f"ds_config.json here describes Adam with fp32 states, not {workload.optimizer}"
    if config.optimizer_offload and config.zero_stage == 0:
        return "optimizer offload needs ZeRO 1 or more"
    if config.recompute not in (Recompute.NONE, Recompute.FULL) or config.recompute_layers:
        return "it recomputes all layers or none"
    if plan_set.problem.model.moe and config.zero_stage == 3:
        return "its MoE layers do not run under ZeRO 3"
    return None
