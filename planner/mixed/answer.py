"""From what the searches found to ``MixedPlan`` values: stages in words, metrics, reasons."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ...costmodels.flops import step_flops
from ...costmodels.interval import Z90, time_sigma
from ...hardware_profiles.mixed import mixed_sha256
from ..plan import Plan
from ..problem import PlanningProblem
from ..provenance import provenance
from .pipelines import Found
from .plan import ONE_POOL, PIPELINE, REPLICAS, MixedPlan, MixedStage, Pipelines
from .price import Pricer, Stages
from .problem import MixedProblem
from .replicas import ReplicaPlan, ReplicaSearch, Share
from .space import Choices

_KERNELS = ("forward_s", "backward_s", "recompute_s", "host_s", "tp_s", "cp_s", "ep_s")


def pipeline_plan(pricer: Pricer, found: Found, proof: str) -> MixedPlan:
    """One pipeline across pools."""
    problem, i, c = pricer.costs.problem, found.i, found.choices
    parts = pricer.parts(c, found.stages, i, np.array(found.layers))
    busy = parts["stage_s"] + parts["bubble_s"] + parts["transfer_s"]
    group = Pipelines(
        dp=int(c.dp[i]),
        micro_batch_size=int(pricer.costs.rows.micro_batch_size[c.row[i, 0]]),
        micro_batches=int(c.micro_batches[i]),
        vp=int(c.vp[i]),
        stages=_stages(pricer, c, found.stages, i, found.layers),
        step_s=busy,
    )
    weights = {
        problem.cluster.names[int(j)]: int(c.stages[i, n] * c.ranks[i, n]) for n, j in enumerate(c.order[i]) if j >= 0
    }
    return MixedPlan(
        rank=0,
        shape=PIPELINE,
        groups=(group,),
        ep=int(pricer.costs.rows.ep[c.row[i, 0]]),
        metrics=_metrics(problem, sum(parts.values()), weights, group.stages),
        time_s=parts,
        proof=proof,
    )


def replica_plan(search: ReplicaSearch, found: ReplicaPlan) -> MixedPlan:
    """Pipelines in each pool."""
    problem = search.problem
    groups = tuple(_group(search, share) for share in found.shares)
    weights = {problem.cluster.names[s.pool]: problem.cluster.pools[s.pool].n_gpus for s in found.shares}
    first = found.shares[0]
    return MixedPlan(
        rank=0,
        shape=REPLICAS,
        groups=groups,
        ep=int(search.costs.rows.ep[first.choices.row[first.i, 0]]),
        metrics=_metrics(problem, found.step_s, weights, [s for g in groups for s in g.stages]),
        time_s=dict(found.parts),
        proof="best of those priced",
    )


def one_pool_plan(problem: MixedProblem, pool: int, alone: PlanningProblem, plan: Plan) -> MixedPlan:
    """The best plan of one pool; its stages are all given the peak of the fullest."""
    name, config, t = problem.cluster.names[pool], plan.config, plan.time_s
    micro_batches = int(alone.workload.global_batch) // (config.dp * config.micro_batch_size)
    parts = {
        "stage_s": sum(t[k] for k in _KERNELS),
        "bubble_s": t["bubble_s"],
        "transfer_s": t["pp_s"],
        "dp_s": t["dp_s"] + t["param_gather_s"],
        "optimizer_s": t["optimizer_s"],
        "step_overhead_s": t["step_overhead_s"],
        "jitter_s": t["jitter_s"],
    }
    stages = tuple(
        MixedStage(
            pool=name, tp=config.tp, cp=config.cp, layers=layers, recompute=config.recompute,
            micro_batch_s=(parts["stage_s"] + parts["transfer_s"]) / micro_batches,
            peak_bytes=plan.metrics["peak_bytes"], memory_share=plan.metrics["memory_share"],
        )
        for layers in plan.stage_layers
    )  # fmt: skip
    busy = parts["stage_s"] + parts["bubble_s"] + parts["transfer_s"]
    group = Pipelines(
        dp=config.dp, micro_batch_size=config.micro_batch_size, micro_batches=micro_batches, vp=config.vp,
        stages=stages, step_s=busy,
    )  # fmt: skip
    return MixedPlan(
        rank=0,
        shape=ONE_POOL,
        groups=(group,),
        ep=config.ep,
        metrics=_metrics(problem, plan.metrics["step_s"], {name: config.world_size}, stages),
        time_s=parts,
        config=config,
        stage_layout=plan.stage_layout,
        proof="optimal over the space of one pool",
    )


def _stages(pricer: Pricer, c: Choices, s: Stages, i: int, layers: Sequence[int]) -> tuple[MixedStage, ...]:
    problem, pp = pricer.costs.problem, int(c.pp[i])
    held = np.zeros(s.pool.shape[1], dtype=np.int64)
    held[:pp] = layers
    one = Stages(*(getattr(s, name)[i : i + 1] for name in Stages.__slots__))
    peak = pricer.peaks(one, held[None, :])[0]
    at = (s.pool[i, :pp], s.row[i, :pp], s.kind[i, :pp], held[:pp])
    busy = pricer.whole[at] + s.hop[i, :pp]
    rows, out = pricer.costs.rows, []
    for k in range(pp):
        pool, row = problem.cluster.pools[int(s.pool[i, k])], int(s.row[i, k])
        out.append(
            MixedStage(
                pool=pool.name, tp=int(rows.tp[row]), cp=int(rows.cp[row]), layers=int(held[k]),
                recompute=int(rows.recompute[row]), micro_batch_s=float(busy[k]), peak_bytes=float(peak[k]),
                memory_share=float(peak[k]) / pool.gpu.memory_bytes,
            )
        )  # fmt: skip
    return tuple(out)


def _group(search: ReplicaSearch, share: Share) -> Pipelines:
    c, i = share.choices, share.i
    return Pipelines(
        dp=int(c.dp[i]),
        micro_batch_size=int(search.costs.rows.micro_batch_size[c.row[i, 0]]),
        micro_batches=share.micro_batches,
        vp=int(c.vp[i]),
        stages=_stages(search.pricer, c, share.stages, i, share.layers),
        step_s=share.step_s,
    )


def _metrics(
    problem: MixedProblem, step_s: float, gpus: dict[str, int], stages: Sequence[MixedStage]
) -> dict[str, float]:
    """Throughput, MFU over the healthy peaks of the GPUs in use, and the widest interval of their pools."""
    w, cluster = problem.workload, problem.cluster
    tokens, total = float(w.global_batch) * w.seq_len, sum(gpus.values())
    peak = 0.0
    spread = 0.0
    for name, n in gpus.items():
        i = cluster.names.index(name)
        pool = cluster.pools[i]
        peak += n * pool.gpu.peak(w.gemm_type) / cluster.speeds[i]
        spread = max(spread, float(time_sigma(pool, problem.model, w, problem.software[i], total)))
    wide = math.exp(Z90 * spread)
    flops = float(step_flops(problem.model, w.seq_len, 1.0)) * float(w.global_batch)
    return {
        "step_s": step_s,
        "step_low_s": step_s / wide,
        "step_high_s": step_s * wide,
        "tokens_per_s": tokens / step_s,
        "tokens_per_s_per_gpu": tokens / step_s / total,
        "gpus": float(total),
        "mfu": flops / step_s / peak,
        "memory_share": max(s.memory_share for s in stages),
    }


def with_reasons(plans: tuple[MixedPlan, ...], single: list[MixedPlan], feasible: int) -> tuple[MixedPlan, ...]:
    """Why each plan stands where it does."""
    winner = plans[0]
    best_alone = min(single, key=lambda p: p.metrics["step_s"], default=None)
    out = []
    for plan in plans:
        said = []
        if plan.rank == 1:
            said.append(f"fastest of {feasible:,} pipelines across pools seen to fit, of replicas and of single pools")
        else:
            slower = plan.metrics["step_s"] / winner.metrics["step_s"] - 1.0
            said.append(f"{slower:+.1%} step time against rank 1; {_differences(plan, winner)}")
        if best_alone is None:
            said.append("no pool can train this model alone")
        elif plan.shape != ONE_POOL:
            gain = best_alone.metrics["step_s"] / plan.metrics["step_s"]
            said.append(f"{gain:.2f} times as fast as the best pool alone ({best_alone.pools[0]})")
        out.append(replace(plan, reasons=tuple(said)))
    return tuple(out)


def _differences(plan: MixedPlan, other: MixedPlan, limit: int = 3) -> str:
    names = dict.fromkeys([*plan.time_s, *other.time_s])
    gaps = [(plan.time_s.get(n, 0.0) - other.time_s.get(n, 0.0), n) for n in names]
    gaps = sorted((g for g in gaps if abs(g[0]) >= 5e-4 * other.metrics["step_s"]), key=lambda g: (-abs(g[0]), g[1]))
    if not gaps:
        return "no time part differs by more than 0.05% of the step"
    return ", ".join(f"{n.removesuffix('_s').replace('_', ' ')} {d:+.3g} s" for d, n in gaps[:limit])


def mixed_provenance(problem: MixedProblem) -> dict[str, str]:
    """As of a plain plan on the first pool, with the hash of all pools and links."""
    out = provenance(problem.alone(0))
    out["profile_sha256"] = mixed_sha256(problem.cluster)
    return out
