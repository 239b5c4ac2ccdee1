"""Native PyTorch: a readable ``train.py`` (device mesh, FSDP2, DTensor TP, pipeline schedules) and its launch.

``train.py`` is ``pytorch_train.py`` of this folder, word for word; the plan goes beside it as ``plan_config.json``.
"""

from __future__ import annotations

import json
from importlib.resources import files as package_files
from typing import Any, ClassVar

from ...costmodels.parallel import Recompute, Schedule
from ..plan import Plan, PlanSet
from .base import LaunchBundle, LaunchOptions, Proof, require_expressible
from .common import (
    bundle,
    cluster_defaults,
    header,
    hsdp_replicas,
    manifest,
    micro_batches,
    refuse_dense_only,
    refuse_layout,
    torchrun_array,
    user_env,
    world_check,
)
from .megatron_layout import chunk_layers
from .shell import array, flag, script

SCHEDULES = {
    Schedule.GPIPE: "GPipe",
    Schedule.ZERO_BUBBLE_H1: "InterleavedZeroBubble",
    Schedule.ZERO_BUBBLE_V: "ZBVZeroBubble",
}


class PytorchFsdp:
    """Emitter for plain PyTorch (2.6 and later)."""

    name: ClassVar[str] = "pytorch"
    framework: ClassVar[str] = "pytorch"
    versions: ClassVar[str] = "2.6+"
    proof: ClassVar[Proof] = Proof.EXECUTED

    def refuse(self, plan_set: PlanSet, plan: Plan) -> str | None:
        """Why the generated script cannot run the plan, or None (see ``Emitter``)."""
        return (
            refuse_dense_only(plan_set, "the generated script")
            or refuse_layout(plan, "the generated script")
            or _refuse_modes(plan_set, plan)
            or _refuse_numerics(plan_set, plan)
        )

    def emit(self, plan_set: PlanSet, plan: Plan, options: LaunchOptions) -> LaunchBundle:
        """``launch.sh``, ``train.py``, ``plan_config.json``, ``launch.json`` and, for Slurm, ``job.sbatch``."""
        require_expressible(self, plan_set, plan)
        notes = self.notes(plan_set, plan)
        flags = [flag("--steps", options.train_iters), flag("--lr", options.lr)]
        if options.extra_args:
            flags.append(tuple(options.extra_args))
        lines = [
            *header(self, plan_set, plan, notes),
            "set -euo pipefail",
            "",
            *cluster_defaults(plan_set),
            'HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"',
            "",
            *world_check(plan),
            'export PYTORCH_CUDA_ALLOC_CONF="${PYTORCH_CUDA_ALLOC_CONF:-expandable_segments:True}"',
            *user_env(options),
            "",
            *torchrun_array(),
            "",
            *array("TRAIN_ARGS", flags),
            "",
            'exec torchrun "${TORCHRUN_ARGS[@]}" "$HERE/train.py" "${TRAIN_ARGS[@]}" "$@"',
        ]
        source = package_files(__package__).joinpath("pytorch_train.py").read_text(encoding="utf-8")
        files = {
            "launch.sh": script(lines),
            "train.py": _without_lint_marks(source),
            "plan_config.json": json.dumps(plan_config(plan_set, plan), indent=2) + "\n",
            "launch.json": manifest(self, plan_set, plan, notes),
        }
        return bundle(files, plan_set, plan, options)

    def notes(self, plan_set: PlanSet, plan: Plan) -> list[str]:
        """Sentences that the user of the script must know."""
        notes = ["the data are random tokens; put your own loader in step()."]
        model = plan_set.problem.model
        if model.tied_embeddings and plan.config.pp > 1:
            notes.append("embedding and head are not tied across pipeline stages.")
        if not model.gated_ffn:
            notes.append("the feed-forward uses GELU.")
        if model.dropout:
            notes.append("dropout is left out.")
        if plan.config.optimizer_offload:
            notes.append("FSDP2 offloads parameters and gradients together with the optimizer.")
        return notes


def _without_lint_marks(source: str) -> str:
    """The script without our linters' comments at its top."""
    lines = source.splitlines(keepends=True)
    while lines[0].startswith("# "):
        del lines[0]
    return "".join(lines)


def stage_list(plan: Plan) -> list[int]:
    """Layers by stage, in the order in which data passes them."""
    config = plan.config
    rows = chunk_layers(plan.stage_layers, config.vp)
    back = config.schedule == Schedule.ZERO_BUBBLE_V
    return [n for turn, row in enumerate(rows) for n in (reversed(row) if back and turn % 2 else row)]


def plan_config(plan_set: PlanSet, plan: Plan) -> dict[str, Any]:
    """What ``train.py`` needs to know."""
    config, model, workload = plan.config, plan_set.problem.model, plan_set.problem.workload
    attention = model.attention
    replicate = config.dp if config.zero_stage == 0 else hsdp_replicas(config)
    schedule = SCHEDULES.get(Schedule(config.schedule), "Interleaved1F1B" if config.vp > 1 else "1F1B")
    local_layers = max(plan.stage_layers or (model.n_layers,))
    return {
        "model": {
            "name": model.name,
            "n_layers": model.n_layers,
            "hidden": model.hidden,
            "ffn_hidden": model.ffn_hidden,
            "vocab": model.vocab,
            "n_heads": attention.n_heads,
            "n_kv_heads": attention.n_kv_heads,
            "head_dim": attention.head_dim,
            "qkv_bias": attention.qkv_bias,
            "out_bias": attention.out_bias,
            "qk_norm": attention.qk_norm,
            "gated_ffn": model.gated_ffn,
            "ffn_bias": model.ffn_bias,
            "norm": model.norm,
            "tied_embeddings": model.tied_embeddings,
            "learned_positions": model.learned_positions,
        },
        "seq_len": workload.seq_len,
        "micro_batch_size": config.micro_batch_size,
        "micro_batches": micro_batches(plan_set, plan),
        "tp": config.tp,
        "sequence_parallel": bool(config.sequence_parallel and config.tp > 1),
        "pp": config.pp,
        "stages": stage_list(plan) if config.pp > 1 else [model.n_layers],
        "schedule": schedule,
        "v_shaped": config.schedule == Schedule.ZERO_BUBBLE_V,
        "dp_replicate": replicate,
        "dp_shard": config.dp // replicate,
        "zero_stage": config.zero_stage,
        "recompute": bool(config.recompute & Recompute.FULL),
        "recompute_layers": config.recompute_layers or local_layers,
        "precision": plan.precision,
        "pure_bf16": workload.optimizer == "adam_pure_bf16",
        "grad_dtype_bytes": workload.grad_dtype_bytes,
        "optimizer_offload": bool(config.optimizer_offload),
    }


def _refuse_modes(plan_set: PlanSet, plan: Plan) -> str | None:
    config, model = plan.config, plan_set.problem.model
    if config.zero_stage not in (0, 2, 3):
        return "PyTorch has DDP (ZeRO 0) and FSDP2 (2 or 3); ZeRO 1 is not in the generated script"
    if config.cp > 1 or config.ep > 1 or config.etp > 1:
        return "the generated script has no context or expert parallelism (use megatron-lm or torchtitan)"
    if config.zero_stage and config.dp % config.dp_shard:
        return f"dp_shard {config.dp_shard} does not divide dp {config.dp}"
    if config.tp_overlap and config.tp > 1:
        return "the generated script does not overlap tensor-parallel collectives with GEMMs (use torchtitan)"
    if config.recompute not in (Recompute.NONE, Recompute.FULL):
        return "the generated script recomputes whole layers or none"
    if config.tp > 1 and (model.attention.n_kv_heads % config.tp or model.attention.qk_norm):
        return "the generated script splits whole key-value heads without norms on them over tp"
    if model.tied_embeddings and config.tp > 1 and config.pp == 1:
        return "the generated script ties embedding and head only where tp is 1"
    if config.pp > 1 and (len(plan.stage_layers) != config.pp or 0 in stage_list(plan)):
        return f"the plan's stage_layers do not give each of {config.pp * config.vp} chunks a layer"
    if config.pp > 1 and config.schedule == Schedule.ZERO_BUBBLE_H1 and config.vp == 1:
        return "PyTorch's zero-bubble schedules need two chunks per rank"
    if config.pp > 1 and config.schedule == Schedule.ZERO_BUBBLE_V and config.vp != 2:
        return "the V-shaped schedule has exactly two chunks per rank"
    if config.optimizer_offload and config.zero_stage == 0:
        return "optimizer offload needs ZeRO 2 or 3"
    return None


def _refuse_numerics(plan_set: PlanSet, plan: Plan) -> str | None:
    workload = plan_set.problem.workload
    if plan.precision not in ("bf16", "fp32", "tf32"):
        return f"the generated script has no {plan.precision} training"
    if workload.optimizer not in ("adam_fp32", "adam_pure_bf16"):
        return f"the generated script has no optimizer of kind {workload.optimizer}"
    return None
