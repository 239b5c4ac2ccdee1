"""FlagScale (Megatron-LM with a process mesh for each kind of device) on a mixed cluster: its two YAML files.

FlagScale's heterogeneous training gives every pool a mesh ``tp, cp, ep, dp, pp`` and every stage its layers
(``hetero_process_meshes``, ``hetero_pipeline_layer_split``; its argument checks of 2025 ask for one cp, no virtual
pipeline, sequence parallelism where tp differs, and equal tp on the first and last stage with tied embeddings). Every
other option is that of the Megatron-LM launch. Not run here: written after FlagScale's own examples and checks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import yaml

from ...costmodels.parallel import Recompute
from ...hardware_profiles.errors import UnsupportedByFrameworkError
from ..mixed.plan import PIPELINE, MixedPlan, MixedPlanSet
from .base import LaunchBundle, LaunchOptions, Proof
from .megatron_lm import MegatronLm
from .megatron_mixed import as_ordinary, node_blocks
from .shell import Flag

VERSIONS = "2025"
PROOF = Proof.GOLDEN
_SYSTEM = ("PARALLEL_ARGS", "MEMORY_ARGS", "PRECISION_ARGS")
_MODEL = ("MODEL_ARGS", "MOE_ARGS", "TRAINING_ARGS")
#: Options that the meshes replace.
_REPLACED = ("--pipeline-model-parallel-layout", "--recompute-granularity", "--recompute-method",
             "--recompute-num-layers", "--recompute-modules")  # fmt: skip


def refuse(plans: MixedPlanSet, plan: MixedPlan) -> str | None:
    """Why FlagScale cannot run a plan, or None."""
    if plan.shape != PIPELINE:
        return "its meshes are stages of one pipeline; write plans of this shape for megatron-lm"
    group, model = plan.groups[0], plans.problem.model
    first, last = group.stages[0], group.stages[-1]
    if group.vp > 1:
        return "its meshes exclude interleaving; pin vp=1"
    if (model.tied_embeddings or model.mtp_layers) and first.tp != last.tp:
        return "tied embeddings and multi-token prediction need the same tp on the first and the last stage; pin tp"
    modes = {s.recompute for s in group.stages}
    if len(modes) > 1 and not modes <= {0, int(Recompute.FULL)}:
        return "recomputation that differs between pools can be full or none there; pin recompute=none|full"
    # what else Megatron-LM would refuse, on the plan with the first stage's degrees everywhere
    return MegatronLm().refuse(*_first_everywhere(plans, plan))


def emit(plans: MixedPlanSet, plan: MixedPlan, options: LaunchOptions) -> LaunchBundle:
    """``config.yaml``, ``train/plan.yaml``, ``hostfile`` (to be filled in) and ``launch.json``.

    Raises:
        UnsupportedByFrameworkError: with the sentence of ``refuse``.
    """
    reason = refuse(plans, plan)
    if reason:
        raise UnsupportedByFrameworkError(f"plan {plan.rank} cannot be written for flagscale: {reason}.")
    blocks = node_blocks(plans, plan)
    hosts = [f"{b.pool}-node-{i} slots={b.gpus_per_node} type={b.pool}" for b in blocks for i in range(b.nodes)]
    notes = ["write the names of your nodes into hostfile; keep the order of the pools", "--lr is a placeholder"]
    manifest = {
        "emitter": "flagscale",
        "framework": "flagscale",
        "versions": VERSIONS,
        "proof": str(PROOF),
        "model": plans.problem.model.name,
        "plan_rank": plan.rank,
        "world_size": int(plan.metrics["gpus"]),
        "notes": notes,
    }
    files = {
        "config.yaml": _dump(_experiment(plans, blocks[0].gpus_per_node, sum(b.nodes for b in blocks))),
        "train/plan.yaml": _dump(_train(plans, plan, options)),
        "hostfile": "\n".join(hosts) + "\n",
        "launch.json": json.dumps(manifest, indent=2) + "\n",
    }
    return LaunchBundle(files=files, command="python run.py --config-path THIS_FOLDER --config-name config action=run")


def _experiment(plans: MixedPlanSet, per_node: int, nodes: int) -> dict[str, Any]:
    return {
        "defaults": ["_self_", {"train": "plan"}],
        "experiment": {
            "exp_name": plans.problem.model.name,
            "exp_dir": "./outputs",
            "task": {"type": "train", "backend": "megatron", "entrypoint": "./flagscale/train/train_gpt.py"},
            "runner": {
                "backend": "torchrun",
                "nnodes": nodes,
                "nproc_per_node": per_node,
                "hostfile": "hostfile",
                "rdzv_backend": "static",
            },
            "envs": {"CUDA_DEVICE_MAX_CONNECTIONS": 1},
        },
        "action": "run",
        "hydra": {"run": {"dir": "${experiment.exp_dir}/hydra"}},
    }


def _train(plans: MixedPlanSet, plan: MixedPlan, options: LaunchOptions) -> dict[str, Any]:
    ordinary, own = _first_everywhere(plans, plan)
    groups = MegatronLm().groups(ordinary, own, options)
    system = _section(groups, _SYSTEM)
    if len({s.tp for s in plan.groups[0].stages}) > 1:
        system["sequence_parallel"] = True
    system |= _recompute(plan)
    system["hetero"] = _meshes(plan)
    return {"system": system, "model": _section(groups, _MODEL), "data": _section(groups, ("DATA_ARGS",))}


def _meshes(plan: MixedPlan) -> dict[str, Any]:
    """One mesh for each pool: tp, cp, ep, dp, pp."""
    group = plan.groups[0]
    meshes: list[int] = []
    for pool in plan.pools:
        stages = [s for s in group.stages if s.pool == pool]
        meshes += [stages[0].tp, stages[0].cp, plan.ep, group.dp, len(stages)]
    return {
        "enable_hetero": True,
        "hetero_process_meshes": meshes,
        "hetero_pipeline_layer_split": [s.layers for s in group.stages],
        "hetero_device_types": list(plan.pools),
        "hetero_current_device_type": plan.pools[0],
        "standalone_embedding_stage": False,
    }


def _recompute(plan: MixedPlan) -> dict[str, Any]:
    """Whole layers on the stages that recompute, for all of their micro-batches."""
    group = plan.groups[0]
    full = int(Recompute.FULL)
    if not any(s.recompute & full for s in group.stages):
        return {}
    out: dict[str, Any] = {
        "recompute_granularity": "full",
        "recompute_method": "uniform",
        "recompute_num_layers": 1,
    }
    if len({s.recompute for s in group.stages}) > 1:
        m = group.micro_batches
        for name, value in (("granularity", None), ("method", 0), ("num_layers", 1)):
            flags = [int(bool(s.recompute & full)) if value is None else value for s in group.stages]
            out[f"recompute_{name}_per_stage_micro_batch"] = [f"[1, {m}, {f}]" for f in flags]
    return out


def _first_everywhere(plans: MixedPlanSet, plan: MixedPlan) -> Any:
    """The plan with the degrees and recomputation of its first stage on all stages, as an ordinary plan."""
    group = plan.groups[0]
    first = group.stages[0]
    even = tuple(replace(s, tp=first.tp, recompute=first.recompute) for s in group.stages)
    return as_ordinary(plans, replace(plan, groups=(replace(group, stages=even),)))


def _section(groups: Mapping[str, Sequence[Flag]], names: Sequence[str]) -> dict[str, Any]:
    """Megatron-LM's options as FlagScale's keys (it turns them back)."""
    keep_modules = [f for n in names for f in groups.get(n, ()) if f[0] == "--recompute-modules"]
    out: dict[str, Any] = {}
    for name in names:
        for flag in groups.get(name, ()):
            if flag[0] in _REPLACED and not (keep_modules and flag[0] != "--pipeline-model-parallel-layout"):
                continue
            key = flag[0].removeprefix("--").replace("-", "_")
            values = [_value(word) for word in flag[1:]]
            out[key] = True if not values else values[0] if len(values) == 1 else values
    return out


def _value(word: str) -> Any:
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return word


def _dump(value: dict[str, Any]) -> str:
    return yaml.safe_dump(value, sort_keys=False, default_flow_style=None, width=100)
