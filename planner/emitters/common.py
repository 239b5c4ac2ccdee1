"""What every emitter says of a plan: its one-line title, predicted figures, cluster shape and manifest."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from ...costmodels.model_spec import ModelSpec
from ...costmodels.parallel import LayerSplit, ParallelConfig, Recompute, recompute_label
from ...costmodels.stage_layout import StageLayout
from ...costmodels.workload import Workload
from ..plan import Plan, PlanSet
from .base import Emitter, LaunchBundle, LaunchOptions
from .shell import comment, default, export


def global_batch(workload: Workload) -> int:
    """Sequences per step (a workload with an array of them is priced, never launched)."""
    return int(workload.global_batch)


def micro_batches(plan_set: PlanSet, plan: Plan) -> int:
    """Micro-batches that one pipeline runs per step."""
    return global_batch(plan_set.problem.workload) // (plan.config.micro_batch_size * plan.config.dp)


def hsdp_replicas(config: ParallelConfig) -> int:
    """Groups that each hold all shards: 1 unless ZeRO shards over fewer ranks than ``dp * cp``."""
    return max(1, config.dp * config.cp // max(1, config.dp_shard))


def zero_plus(config: ParallelConfig) -> str:
    """The parts of ZeRO++ that a plan uses (``hpZ over 8 ranks, qwZ``), empty if none."""
    words = [f"hpZ over {config.hpz} ranks"] if config.hpz else []
    words += [word for word, on in (("qwZ", config.quantized_weights), ("qgZ", config.quantized_gradients)) if on]
    return ", ".join(words)


def refuse_zero_plus(config: ParallelConfig) -> str | None:
    """Why a framework without ZeRO++ cannot run the plan, or None."""
    return f"it has no ZeRO++ ({zero_plus(config)})" if zero_plus(config) else None


def describe(config: ParallelConfig) -> str:
    """One line such as ``tp 4, pp 2 (vp 2), dp 8, ZeRO 1, micro-batch 1, recompute none``."""
    parts = [f"tp {config.tp}" + (" with sequence parallelism" if config.sequence_parallel else "")]
    if config.cp > 1:
        parts.append(f"cp {config.cp}")
    if config.ep > 1 or config.etp > 1:
        parts.append(f"ep {config.ep}, expert tp {config.etp}")
    parts.append(f"pp {config.pp}" + (f" (vp {config.vp})" if config.vp > 1 else ""))
    parts.append(f"dp {config.dp}")
    parts.append(f"ZeRO {config.zero_stage}")
    parts.append(f"micro-batch {config.micro_batch_size}")
    parts.append(f"recompute {recompute_label(config.recompute, config.recompute_layers)}")
    return ", ".join(parts)


def header(emitter: Emitter, plan_set: PlanSet, plan: Plan, notes: Sequence[str]) -> list[str]:
    """Comment block at the top of a script: what it runs, what was predicted, what to know."""
    problem = plan_set.problem
    cluster, workload = problem.cluster, problem.workload
    lines = comment(
        f"{problem.model.name} on {cluster.nodes} x {cluster.gpus_per_node} {cluster.gpu.name} ({cluster.name}), "
        f"{emitter.name} {emitter.versions}; plan {plan.rank} by meshwright."
    )
    lines += comment(describe(plan.config) + f", {plan.precision}.")
    lines += comment(
        f"{workload.seq_len} tokens a sequence, {global_batch(workload)} sequences a step, "
        f"{micro_batches(plan_set, plan)} micro-batches a pipeline."
    )
    if plan.metrics.get("step_s") and plan.metrics.get("peak_bytes"):
        lines += comment(
            f"Predicted: {plan.metrics['step_s']:.3g} s a step, "
            f"{plan.metrics['peak_bytes'] / 2**30:.1f} GiB on the fullest GPU."
        )
    for note in notes:
        lines += comment(f"Note: {note}")
    return lines


def cluster_defaults(plan_set: PlanSet) -> list[str]:
    """Variables of the rendezvous, each taken from the environment where it is set."""
    cluster = plan_set.problem.cluster
    return [
        default("NNODES", cluster.nodes),
        default("GPUS_PER_NODE", cluster.gpus_per_node),
        default("MASTER_ADDR", "127.0.0.1"),
        default("MASTER_PORT", 29500),
        default("JOB_ID", "meshwright"),
    ]


def world_check(plan: Plan) -> list[str]:
    """Stop with a sentence when the machines at hand are not the planned ones."""
    world = plan.config.world_size
    return [
        f"if (( NNODES * GPUS_PER_NODE != {world} )); then",
        f'  echo "this plan needs {world} GPUs, but NNODES * GPUS_PER_NODE is $(( NNODES * GPUS_PER_NODE ))" >&2',
        "  exit 2",
        "fi",
        'if (( NNODES > 1 )) && [[ "$MASTER_ADDR" == 127.0.0.1 ]]; then',
        '  echo "set MASTER_ADDR to the name of the first node, the same on every node" >&2',
        "  exit 2",
        "fi",
    ]


def torchrun_array() -> list[str]:
    """The ``torchrun`` words of a launch on every node.

    Where the scheduler or a placement numbers the nodes, that order holds (ranks follow it, and with them the plan's
    neighbours); otherwise the c10d rendezvous hands out node ranks as nodes arrive.
    """
    return [
        "TORCHRUN_ARGS=(",
        '  --nnodes "$NNODES"',
        '  --nproc-per-node "$GPUS_PER_NODE"',
        ")",
        'NODE_RANK="${NODE_RANK:-${SLURM_NODEID:-${PET_NODE_RANK:-${SKYPILOT_NODE_RANK:-}}}}"',
        'if [[ -n "$NODE_RANK" ]]; then',
        '  TORCHRUN_ARGS+=(--node-rank "$NODE_RANK" --master-addr "$MASTER_ADDR" --master-port "$MASTER_PORT")',
        "else",
        '  TORCHRUN_ARGS+=(--rdzv-backend c10d --rdzv-endpoint "$MASTER_ADDR:$MASTER_PORT" --rdzv-id "$JOB_ID")',
        "fi",
    ]


def own_script_opening(
    emitter: Emitter, plan_set: PlanSet, plan: Plan, options: LaunchOptions, notes: Sequence[str]
) -> list[str]:
    """How a launch of the user's own training script begins: comments, variables, the check of the machines."""
    return [
        *header(emitter, plan_set, plan, notes),
        "set -euo pipefail",
        "",
        *cluster_defaults(plan_set),
        default("TRAIN_SCRIPT", options.train_script),
        'HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"',
        "",
        *world_check(plan),
        *user_env(options),
        "",
    ]


def user_env(options: LaunchOptions) -> list[str]:
    """Exports that the user asked for (last, so that they win)."""
    return [export(name, value) for name, value in options.env.items()]


def manifest(emitter: Emitter, plan_set: PlanSet, plan: Plan, notes: Sequence[str]) -> str:
    """``launch.json``: what the bundle is and how far its kind has been proven."""
    value = {
        "emitter": emitter.name,
        "framework": emitter.framework,
        "versions": emitter.versions,
        "proof": str(emitter.proof),
        "model": plan_set.problem.model.name,
        "plan_rank": plan.rank,
        "precision": plan.precision,
        "world_size": plan.config.world_size,
        "config": {k: int(v) for k, v in asdict(plan.config).items()},
        "stage_layers": list(plan.stage_layers),
        **({"stage_layout": plan.stage_layout.to_dict()} if plan.stage_layout else {}),
        "notes": list(notes),
    }
    return json.dumps(value, indent=2) + "\n"


def disagreement(plan: Plan, layout: StageLayout, model: ModelSpec) -> str | None:
    """Why a plan's layout contradicts its configuration or its model, or None.

    A configuration says how many layers recompute on a rank, dealt to its chunks; the layout says which.
    """
    config = plan.config
    if (layout.pp, layout.vp) != (config.pp, config.vp) or plan.stage_layers != layout.stage_layers:
        return f"the plan's stage_layout is not one of pp {config.pp} and vp {config.vp} with its stage_layers"
    if (layout.n_layers, layout.mtp_layers) != (model.n_layers, model.mtp_layers):
        return f"the plan's stage_layout does not deal the layers of {model.name}"
    if config.layer_split != LayerSplit.LAYOUT:
        return "the plan has a stage_layout, but its layer_split is not that of a layout"
    full = bool(config.recompute & Recompute.FULL)
    asked = max(chunk.layers for chunk in layout.flat) if not config.recompute_layers else 0
    per_chunk = (asked or config.recompute_layers // config.vp) * full
    most = max(chunk.layers for chunk in layout.flat)
    if layout.leading_recompute is None or min(per_chunk, most) != layout.leading_recompute:
        return "the layers that recompute in the plan's stage_layout are not those of its configuration"
    return None


def refuse_layout(plan: Plan, what: str) -> str | None:
    """Why ``what`` cannot write an explicit layout, or None where the plan has none."""
    return f"{what} cannot deal layers to stages one by one" if plan.stage_layout else None


def refuse_dense_only(plan_set: PlanSet, what: str) -> str | None:
    """Why a script of our own that builds plain transformers cannot build the model, or None."""
    model = plan_set.problem.model
    if model.moe:
        return f"{what} builds dense models, and {model.name} has experts"
    if model.attention.kind != "mha":
        return f"{what} builds ordinary attention, and {model.name} has latent attention"
    if model.parallel_block or model.mtp_layers:
        return f"{what} has neither parallel blocks nor multi-token prediction"
    if model.attention.window and model.attention.windowed_layers:
        return f"{what} has no sliding windows"
    if plan_set.problem.workload.task == "lora":
        return f"{what} trains all weights, not adapters"
    return None


def bundle(files: Mapping[str, str], plan_set: PlanSet, plan: Plan, options: LaunchOptions) -> LaunchBundle:
    """The files around a ``launch.sh`` as a bundle: what ``--wrap`` adds, and the command that starts it."""
    extra, command = {}, "bash launch.sh"
    if options.wrap == "slurm":
        from .slurm import job_script

        extra, command = {"job.sbatch": job_script(plan_set, plan, options)}, "sbatch job.sbatch"
    elif options.wrap == "kubernetes":
        from .kubernetes import job_manifests

        extra, command = {"job.yaml": job_manifests(files, plan_set, options)}, "kubectl apply -f job.yaml"
    elif options.wrap == "skypilot":
        from .skypilot import task

        extra, command = {"job.sky.yaml": task(plan_set, options)}, "sky launch job.sky.yaml"
    return LaunchBundle(files={**files, **extra}, executable=frozenset({"launch.sh"}), command=command)
