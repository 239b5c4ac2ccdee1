"""Hugging Face Accelerate: ``accelerate.yaml`` (FSDP2, HSDP, TP, CP) and a launch of the user's own script.

Keys: Accelerate 1.15 ``commands/launch.py`` (groups FSDP and ParallelismConfig) and ``parallelism_config.py``.
Accelerate starts a script; batch and length of the run go to it under the names of Transformers' ``TrainingArguments``,
so that a Trainer script takes them as they are. Layers to wrap are left to the model's own ``_no_split_modules``.
"""

from __future__ import annotations

from typing import Any, ClassVar

import yaml

from ...costmodels.parallel import CpComm, Recompute
from ...hardware_profiles.errors import InvalidProblemError
from ..plan import Plan, PlanSet
from .base import LaunchBundle, LaunchOptions, Proof, require_expressible
from .common import (
    bundle,
    hsdp_replicas,
    manifest,
    micro_batches,
    own_script_opening,
    refuse_zero_plus,
)
from .shell import Flag, array, flag, script

_ROTATION = {CpComm.RING: "alltoall", CpComm.ALL_GATHER: "allgather"}


class Accelerate:
    """Emitter for a training script that uses ``accelerate`` (or Transformers' Trainer)."""

    name: ClassVar[str] = "accelerate"
    framework: ClassVar[str] = "pytorch"
    versions: ClassVar[str] = "1.15"
    proof: ClassVar[Proof] = Proof.PARSER_SHALLOW

    def refuse(self, plan_set: PlanSet, plan: Plan) -> str | None:
        """Why Accelerate 1.15 cannot run the plan, or None (see ``Emitter``)."""
        return refuse_zero_plus(plan.config) or _refuse_degrees(plan) or _refuse_numerics(plan_set, plan)

    def emit(self, plan_set: PlanSet, plan: Plan, options: LaunchOptions) -> LaunchBundle:
        """``launch.sh``, ``accelerate.yaml``, ``launch.json`` and what ``--wrap`` adds.

        Raises:
            InvalidProblemError: no training script is named.
        """
        require_expressible(self, plan_set, plan)
        if not options.train_script:
            raise InvalidProblemError("Accelerate starts a script of your own; name it with --train-script.")
        notes = self.notes(plan_set, plan)
        lines = [
            *own_script_opening(self, plan_set, plan, options, notes),
            *array("SCRIPT_ARGS", script_flags(plan_set, plan, options)),
            "",
            "exec accelerate launch \\",
            '  --config_file "$HERE/accelerate.yaml" \\',
            '  --num_machines "$NNODES" --num_processes "$(( NNODES * GPUS_PER_NODE ))" \\',
            '  --main_process_ip "$MASTER_ADDR" --main_process_port "$MASTER_PORT" \\',
            '  --rdzv_backend c10d --rdzv_conf "id=$JOB_ID" \\',
            '  "$TRAIN_SCRIPT" "${SCRIPT_ARGS[@]}" "$@"',
        ]
        files = {
            "launch.sh": script(lines),
            "accelerate.yaml": yaml.safe_dump(launch_config(plan_set, plan), sort_keys=False),
            "launch.json": manifest(self, plan_set, plan, notes),
        }
        return bundle(files, plan_set, plan, options)

    def notes(self, plan_set: PlanSet, plan: Plan) -> list[str]:
        """Sentences that the user of the script must know."""
        notes = [
            "the options of the script are those of Transformers' TrainingArguments; a script of another kind must "
            "read them itself.",
            "the script must fail if Accelerate reports another distributed type than FSDP (it falls back in silence "
            "on a machine without GPUs).",
        ]
        if plan.config.tp > 1:
            notes.append("tensor parallelism needs a Transformers model with a tp_plan, loaded on Accelerate's mesh.")
        if plan.config.cp > 1:
            notes.append("context parallelism needs SDPA attention and buffers given to maybe_context_parallel.")
        return notes


def launch_config(plan_set: PlanSet, plan: Plan) -> dict[str, Any]:
    """What ``accelerate launch --config_file`` reads; unknown keys inside ``fsdp_config`` would pass unseen."""
    config, cluster = plan.config, plan_set.problem.cluster
    replicate = hsdp_replicas(config)
    value: dict[str, Any] = {
        "compute_environment": "LOCAL_MACHINE",
        "debug": False,
        "distributed_type": "FSDP",
        "mixed_precision": "bf16",
        "num_machines": cluster.nodes,
        "num_processes": config.world_size,
        "use_cpu": False,
        "fsdp_config": {
            "fsdp_version": 2,
            "fsdp_reshard_after_forward": config.zero_stage == 3,
            "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
            "fsdp_offload_params": bool(config.optimizer_offload),
            "fsdp_activation_checkpointing": bool(config.recompute),
            "fsdp_state_dict_type": "SHARDED_STATE_DICT",
            "fsdp_cpu_ram_efficient_loading": True,
        },
        "parallelism_config": {
            "parallelism_config_dp_replicate_size": replicate,
            "parallelism_config_dp_shard_size": config.dp // replicate,
            "parallelism_config_tp_size": config.tp,
            "parallelism_config_cp_size": config.cp,
        },
    }
    if config.cp > 1:
        rotation = _ROTATION[CpComm(config.cp_comm)]
        value["parallelism_config"]["parallelism_config_cp_comm_strategy"] = rotation
    return value


def script_flags(plan_set: PlanSet, plan: Plan, options: LaunchOptions) -> list[Flag]:
    """The batch and the length of the run, as ``TrainingArguments`` names them."""
    flags = [
        flag("--per_device_train_batch_size", plan.config.micro_batch_size),
        flag("--gradient_accumulation_steps", micro_batches(plan_set, plan)),
        flag("--max_steps", options.train_iters),
        flag("--learning_rate", options.lr),
        flag("--bf16"),
    ]
    if options.save_dir:
        flags.append(flag("--output_dir", options.save_dir))
    return [*flags, options.extra_args] if options.extra_args else flags


def _refuse_degrees(plan: Plan) -> str | None:
    config = plan.config
    if config.pp > 1 or config.ep > 1 or config.etp > 1:
        return "Accelerate has neither pipeline nor expert parallelism (use torchtitan or megatron-lm)"
    if config.zero_stage not in (2, 3):
        return f"Accelerate's FSDP2 shards gradients or everything (ZeRO 2 or 3), the plan has ZeRO {config.zero_stage}"
    if config.cp > 1 and config.cp_comm not in _ROTATION:
        return "Accelerate's context parallelism rotates or gathers keys and values; Ulysses belongs to DeepSpeed"
    if config.dp % hsdp_replicas(config):
        return f"dp_shard {config.dp_shard} does not divide dp {config.dp}"
    if config.dp // hsdp_replicas(config) == 1 and config.cp == 1:
        return "FSDP2 needs a data- or context-parallel dimension to shard over, the plan has dp 1"
    if config.tp_overlap and config.tp > 1:
        return "Accelerate does not overlap tensor-parallel collectives with GEMMs (use torchtitan)"
    if config.recompute not in (Recompute.NONE, Recompute.FULL) or config.recompute_layers:
        return "Accelerate recomputes all layers or none"
    return None


def _refuse_numerics(plan_set: PlanSet, plan: Plan) -> str | None:
    workload = plan_set.problem.workload
    if plan.precision != "bf16":
        return f"the launch is written for bf16, the plan has {plan.precision}"
    if workload.optimizer != "adam_fp32":
        return f"FSDP2 under Accelerate keeps fp32 weights and Adam states; the plan has {workload.optimizer}"
    if workload.task == "lora":
        return "adapters belong to the script (PEFT); plan them for another framework"
    return None
