"""Megatron-LM 0.19 on a mixed cluster: ``launch.sh`` whose node ranks follow the pools, and a heterogeneous Slurm job.

Megatron-LM has one tp, cp, dp and micro-batch size for all stages, but stages may hold different numbers of layers
(``--pipeline-model-parallel-layout``). Its pipeline stages are blocks of neighbouring ranks, so nodes ordered by pool
give every pool its stages; with ``--use-tp-pp-dp-mapping`` whole pipelines are such blocks, which gives every pool its
replicas. Node ranks are fixed (static rendezvous): a dynamic one would deal them as nodes arrive.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from ...costmodels.parallel import LayerSplit, ParallelConfig
from ...hardware_profiles.errors import InvalidProblemError, UnsupportedByFrameworkError
from ...hardware_profiles.types import Cluster, Tier
from ..mixed.plan import ONE_POOL, REPLICAS, MixedPlan, MixedPlanSet
from ..plan import Plan, PlanSet, SearchReport
from .base import LaunchBundle, LaunchOptions
from .common import user_env
from .megatron_lm import MegatronLm, environment
from .shell import Flag, array, comment, default, flag, quote, script

_RUNS_ELSEWHERE = (
    "plan with --framework megatron-lm for plans that it can run (FlagScale runs others with a process mesh for each "
    "kind of device)"
)


@dataclass(frozen=True, slots=True)
class Block:
    """Nodes of one pool in the launch: ranks ``first_node`` to ``first_node + nodes - 1``."""

    pool: str
    first_node: int
    nodes: int
    gpus_per_node: int


def refuse(plans: MixedPlanSet, plan: MixedPlan) -> str | None:
    """Why Megatron-LM cannot run a plan, in one sentence that says what would make it expressible, or None."""
    stages = [s for g in plan.groups for s in g.stages]
    for word, values in (
        ("tensor-parallel degrees", {s.tp for s in stages}),
        ("context-parallel degrees", {s.cp for s in stages}),
        ("recomputation", {s.recompute for s in stages}),
        ("micro-batch sizes", {g.micro_batch_size for g in plan.groups}),
        ("numbers of micro-batches", {g.micro_batches for g in plan.groups}),
        ("layouts of layers", {tuple(s.layers for s in g.stages) for g in plan.groups}),
    ):
        if len(values) > 1:
            return f"its stages differ in their {word}, of which Megatron-LM has one for all; {_RUNS_ELSEWHERE}"
    if plan.shape == ONE_POOL:
        ordinary, own = _one_pool(plans, plan)
        return MegatronLm().refuse(ordinary, own)
    ordinary, own = as_ordinary(plans, plan)
    return MegatronLm().refuse(ordinary, own)


def emit(plans: MixedPlanSet, plan: MixedPlan, options: LaunchOptions) -> LaunchBundle:
    """Files of a plan: ``launch.sh``, ``launch.json`` and, wrapped for Slurm, ``job.sbatch``.

    Raises:
        UnsupportedByFrameworkError: with the sentence of ``refuse``.
    """
    reason = refuse(plans, plan)
    if reason:
        raise UnsupportedByFrameworkError(f"plan {plan.rank} cannot be written for megatron-lm: {reason}.")
    if plan.shape == ONE_POOL:
        return MegatronLm().emit(*_one_pool(plans, plan), options)
    blocks = node_blocks(plans, plan)
    files = {"launch.sh": _launch_script(plans, plan, blocks, options)}
    if options.wrap == "slurm":
        files["job.sbatch"] = job_script(plans, plan, blocks, options)
    files["launch.json"] = _manifest(plans, plan, blocks)
    command = "sbatch job.sbatch" if options.wrap == "slurm" else "POOL=... NODE_RANK=... bash launch.sh"
    return LaunchBundle(files=files, executable=frozenset({"launch.sh"}), command=command)


def node_blocks(plans: MixedPlanSet, plan: MixedPlan) -> tuple[Block, ...]:
    """Nodes of every pool in the order of their ranks."""
    out, first = [], 0
    for pool in plan.pools:
        cluster = plans.problem.cluster.pool(pool)
        gpus = sum(s.tp * s.cp * g.dp for g in plan.groups for s in g.stages if s.pool == pool)
        nodes = -(-gpus // cluster.gpus_per_node)
        out.append(Block(pool, first, nodes, cluster.gpus_per_node))
        first += nodes
    return tuple(out)


def as_ordinary(plans: MixedPlanSet, plan: MixedPlan) -> tuple[PlanSet, Plan]:
    """The plan on a stand-in cluster of equal nodes, so that the options are those of an ordinary plan."""
    problem, group = plans.problem, plan.groups[0]
    stage = group.stages[0]
    dp = sum(g.dp for g in plan.groups)
    shard = dp * stage.cp
    if plan.shape == REPLICAS and len({g.dp for g in plan.groups}) == 1:
        shard //= len(plan.groups)  # one optimizer instance in each pool
    config = ParallelConfig(
        tp=stage.tp, cp=stage.cp, ep=plan.ep, pp=len(group.stages), vp=group.vp, dp=dp, dp_shard=shard,
        micro_batch_size=group.micro_batch_size, zero_stage=1, recompute=stage.recompute,
        sequence_parallel=int(stage.tp > 1), layer_split=LayerSplit.LAYOUT,
    )  # fmt: skip
    config = replace(config, **_switches(plans))
    blocks = node_blocks(plans, plan)
    # one environment for all nodes: the one that the older GPUs need
    older = [p for p in plan.pools if "blackwell" not in problem.cluster.pool(p).gpu.architecture.lower()]
    alone = problem.alone(problem.cluster.names.index((older or plan.pools)[0]))
    nodes = sum(b.nodes for b in blocks)
    last = Tier(kind="ethernet", domain_gpus=config.world_size, bytes_per_s=1.0, latency_s=0.0)
    stand_in: Cluster = replace(alone.cluster, nodes=nodes, max_nodes=0, tiers=(*alone.cluster.tiers[:-1], last))
    ordinary = replace(alone, cluster=stand_in)
    own = Plan(
        rank=plan.rank,
        config=config,
        precision=problem.workload.precision,
        metrics={**plan.metrics},
        time_s=dict(plan.time_s),
        memory_bytes={},
        stage_layers=tuple(s.layers for s in group.stages),
    )
    return PlanSet(problem=ordinary, plans=(own,), search=SearchReport(enumerated=1)), own


def _switches(plans: MixedPlanSet) -> dict[str, int]:
    base, defaults = ParallelConfig(), plans.problem.software[0].defaults
    return {n: int(defaults.get(n, getattr(base, n))) for n in ("overlap_grad_reduce", "overlap_param_gather")}


def _one_pool(plans: MixedPlanSet, plan: MixedPlan) -> tuple[PlanSet, Plan]:
    """A plan on one pool as the ordinary plan that it is."""
    if plan.config is None:
        raise InvalidProblemError(f"plan {plan.rank} has no configuration; write the plans again with this release.")
    i = plans.problem.cluster.names.index(plan.pools[0])
    pool = plans.problem.cluster.pools[i]
    alone = plans.problem.alone(i, plan.config.world_size // pool.gpus_per_node or None)
    own = Plan(
        rank=plan.rank,
        config=plan.config,
        precision=plans.problem.workload.precision,
        metrics={**plan.metrics, "peak_bytes": plan.groups[0].stages[0].peak_bytes},
        time_s=dict(plan.time_s),
        memory_bytes={},
        stage_layers=tuple(s.layers for s in plan.groups[0].stages),
        stage_layout=plan.stage_layout,
    )
    return PlanSet(problem=alone, plans=(own,), search=SearchReport(enumerated=1)), own


# -- launch.sh ----------------------------------------------------------------------------------------------------


def _launch_script(plans: MixedPlanSet, plan: MixedPlan, blocks: Sequence[Block], options: LaunchOptions) -> str:
    ordinary, own = as_ordinary(plans, plan)
    groups = {name: flags for name, flags in MegatronLm().groups(ordinary, own, options).items() if flags}
    groups["PARALLEL_ARGS"] = [*groups["PARALLEL_ARGS"], *order_flags(plan)]
    lines = [
        *_header(plans, plan, options),
        "set -euo pipefail",
        "",
        "# Each node says its pool and its number inside it (from 0); the order of pools fixes the ranks.",
        *_node_rank(blocks),
        default("MASTER_ADDR", "127.0.0.1"),
        default("MASTER_PORT", 29500),
        default("MEGATRON_DIR", options.megatron_dir),
        f"NNODES={sum(b.nodes for b in blocks)}",
        'if [[ "$MASTER_ADDR" == 127.0.0.1 ]]; then',
        f'  echo "set MASTER_ADDR to the name of the first node of pool {blocks[0].pool}, the same on every node" >&2',
        "  exit 2",
        "fi",
        "",
        "# Environment of the training processes.",
        *environment(ordinary, own),
        *user_env(options),
        "",
        "TORCHRUN_ARGS=(",
        '  --nnodes "$NNODES"',
        '  --nproc-per-node "$GPUS_PER_NODE"',
        '  --node-rank "$(( FIRST_NODE + NODE_RANK ))"',
        '  --master-addr "$MASTER_ADDR"',
        '  --master-port "$MASTER_PORT"',
        ")",
    ]
    for name, flags in groups.items():
        lines += ["", *array(name, flags)]
    words = ['"${TORCHRUN_ARGS[@]}"', '"$MEGATRON_DIR/pretrain_gpt.py"', *(f'"${{{name}[@]}}"' for name in groups)]
    return script([*lines, "", "exec torchrun \\", *(f"  {word} \\" for word in words), '  "$@"'])


def order_flags(plan: MixedPlan) -> list[Flag]:
    """The order of ranks: whole pipelines side by side where every pool has its own."""
    return [flag("--use-tp-pp-dp-mapping")] if plan.shape == REPLICAS else []


def _header(plans: MixedPlanSet, plan: MixedPlan, options: LaunchOptions) -> list[str]:
    problem, ordinary = plans.problem, as_ordinary(plans, plan)
    lines = comment(
        f"{problem.model.name} on {int(plan.metrics['gpus'])} GPUs of {problem.cluster.name} ({plan.shape}), "
        f"megatron-lm {MegatronLm.versions}; plan {plan.rank} by meshwright."
    )
    for group in plan.groups:
        for i, stage in enumerate(group.stages):
            lines += comment(f"stage {i}: {stage.layers} layers on {stage.pool}, {stage.tp * stage.cp * group.dp} GPUs")
    lines += comment(f"Predicted: {plan.metrics['step_s']:.3g} s a step.")
    for note in MegatronLm().notes(*ordinary, options):
        lines += comment(f"Note: {note}")
    return lines


def _node_rank(blocks: Sequence[Block]) -> list[str]:
    """Bash that turns POOL and NODE_RANK into the first node rank of the pool."""
    lines = ['POOL="${POOL:-}"', 'NODE_RANK="${NODE_RANK:-}"', 'case "$POOL" in']
    for b in blocks:
        lines.append(f"  {quote(b.pool)}) FIRST_NODE={b.first_node} NODES={b.nodes} GPUS_PER_NODE={b.gpus_per_node} ;;")
    names = ", ".join(b.pool for b in blocks)
    return [
        *lines,
        f"  *) echo {quote(f'set POOL to the pool of this node: {names}')} >&2; exit 2 ;;",
        "esac",
        'if ! [[ "$NODE_RANK" =~ ^[0-9]+$ ]] || (( NODE_RANK >= NODES )); then',
        '  echo "set NODE_RANK to the number of this node inside pool $POOL, 0 to $(( NODES - 1 ))" >&2',
        "  exit 2",
        "fi",
    ]


def _manifest(plans: MixedPlanSet, plan: MixedPlan, blocks: Sequence[Block]) -> str:
    ordinary, own = as_ordinary(plans, plan)
    value = {
        "emitter": "megatron-lm",
        "framework": "megatron-lm",
        "versions": MegatronLm.versions,
        "proof": str(MegatronLm.proof),
        "model": plans.problem.model.name,
        "plan_rank": plan.rank,
        "shape": plan.shape,
        "precision": own.precision,
        "world_size": own.config.world_size,
        "config": {k: int(v) for k, v in asdict(own.config).items()},
        "stage_layers": list(own.stage_layers),
        "nodes": [asdict(b) for b in blocks],
        "notes": MegatronLm().notes(ordinary, own, LaunchOptions()),
    }
    return json.dumps(value, indent=2) + "\n"


# -- job.sbatch ---------------------------------------------------------------------------------------------------


def job_script(plans: MixedPlanSet, plan: MixedPlan, blocks: Sequence[Block], options: LaunchOptions) -> str:
    """A heterogeneous Slurm job: one component for each pool, in the order of the node ranks.

    ``--partition pool:name,pool:name`` gives every component its own partition. Directives and the variables
    ``SLURM_JOB_NODELIST_HET_GROUP_n`` are those of Slurm's page on heterogeneous jobs.
    """
    from .slurm import directive, job_name

    partitions = _partitions(options.partition, [b.pool for b in blocks])
    ordinary, _ = as_ordinary(plans, plan)
    lines = [directive("job-name", job_name(ordinary, options)), directive("output", "%x-%j.out")]
    if options.account:
        lines.append(directive("account", options.account))
    if options.time_limit:
        lines.append(directive("time", options.time_limit))
    for i, b in enumerate(blocks):
        lines += ["#SBATCH hetjob"] if i else []
        lines += comment(f"pool {b.pool}")
        lines += [directive("nodes", b.nodes), directive("ntasks-per-node", 1)]
        lines += [directive("gpus-per-node", b.gpus_per_node), "#SBATCH --exclusive"]
        if partitions[i]:
            lines.append(directive("partition", partitions[i]))
    srun = ["srun", "--kill-on-bad-exit=1"]
    if options.container_image:
        srun.append(f"--container-image={options.container_image}")
    if options.container_mounts:
        srun.append(f"--container-mounts={options.container_mounts}")
    words = " ".join(quote(w) for w in srun)
    lines += [
        "set -euo pipefail",
        "",
        'cd "${SLURM_SUBMIT_DIR:-.}"',
        'mapfile -t HOSTS < <(scontrol show hostnames "$SLURM_JOB_NODELIST_HET_GROUP_0")',
        'MASTER_ADDR="${HOSTS[0]}"',
        'MASTER_PORT="$(( 20000 + SLURM_JOB_ID % 20000 ))"',
        "export MASTER_ADDR MASTER_PORT",
        "",
        "# One step for each pool; a node's number inside its pool is its SLURM_NODEID there.",
        "STEPS=()",
    ]
    for i, b in enumerate(blocks):
        inner = f'POOL={quote(b.pool)} NODE_RANK=$SLURM_NODEID exec bash launch.sh "$@"'
        lines.append(f'{words} --het-group={i} bash -c {quote(inner)} launch "$@" &')
        lines.append('STEPS+=("$!")')
    lines += ['for step in "${STEPS[@]}"; do', '  wait "$step"', "done"]
    return script(lines)


def _partitions(text: str, pools: Sequence[str]) -> list[str]:
    """One partition for all pools, or ``pool:name`` for some of them, joined by commas."""
    if ":" not in text:
        return [text] * len(pools)
    given: dict[str, str] = {}
    for word in text.split(","):
        pool, colon, name = word.partition(":")
        if not colon or pool not in pools:
            raise InvalidProblemError(f"--partition {text}: write pool:partition for the pools {', '.join(pools)}.")
        given[pool] = name
    return [given.get(pool, "") for pool in pools]
