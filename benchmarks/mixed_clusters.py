"""Plans on mixed clusters against the best pool alone and, where it can be enumerated, the best plan of all.

    python benchmarks/mixed_clusters.py [--mixes 60] [--small 24] [--json]

A fixed generator draws two or three pools (GPU kind, nodes, degraded or not), the links between them, a model, a
sequence length and a batch. ``gain`` is the step time of the best pool alone over that of the mixed plan (1 where a
pool alone is best), ``of sum`` the throughput against the sum of what all pools reach alone. On small mixes (a model
cut to a few layers, few degrees) every order of pools, number of stages, degree, micro-batch, recomputation and split
of layers is priced one by one; ``optimum`` is the plan's step time over the best of those.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from meshwright.costmodels.load_model import load_model
from meshwright.costmodels.load_software import default_software
from meshwright.costmodels.model_spec import ModelSpec
from meshwright.costmodels.workload import Workload
from meshwright.hardware_profiles.errors import InvalidProblemError, NoFeasiblePlanError
from meshwright.hardware_profiles.load import load_cluster
from meshwright.hardware_profiles.mixed import Link, MixedCluster
from meshwright.planner.mixed.costs import price_pools
from meshwright.planner.mixed.price import Pricer
from meshwright.planner.mixed.problem import MixedProblem
from meshwright.planner.mixed.search import plan_mixed
from meshwright.planner.mixed.space import enumerate_choices
from meshwright.planner.search import plan

SEED = 20261
KINDS = ("dgx-h100", "dgx-h200", "dgx-b200", "dgx-a100-80", "dgx-a100-40", "hgx-a800", "pcie-a100-8", "pcie-l40s-8")
MODELS = ("llama-3.1-8b", "llama-2-13b", "qwen2.5-32b", "llama-3.1-70b", "olmo-2-32b", "mixtral-8x7b")
LINKS = (  # kind, GB/s per GPU, GB/s of the whole link (0: none), latency in microseconds
    ("infiniband", 25.0, 0.0, 3.0),
    ("roce", 12.5, 0.0, 5.0),
    ("ethernet", 3.125, 0.0, 20.0),
    ("ethernet", 3.125, 12.5, 50.0),
)


@dataclass(frozen=True)
class Mix:
    name: str
    problem: MixedProblem
    small: bool


def mixes(n: int = 60, small: int = 24, seed: int = SEED, framework: str = "megatron-lm") -> list[Mix]:
    """The first ``small`` can be enumerated."""
    draw = random.Random(seed)
    return [_mix(draw, i, i < small, framework) for i in range(n)]


def _mix(draw: random.Random, i: int, small: bool, framework: str) -> Mix:
    n_pools = draw.choice((2, 2, 3))
    kinds = draw.sample(KINDS, n_pools) if draw.random() < 0.75 else [draw.choice(KINDS)] * n_pools
    pools, speeds = [], []
    for j, kind in enumerate(kinds):
        nodes = draw.choice((1, 1, 2) if small else (1, 2, 2, 3, 4, 4, 6, 8))
        speed = draw.choice((1.0, 1.0, 1.0, 0.9, 0.75, 0.6))
        pool = replace(load_cluster(kind, nodes=nodes), name=f"p{j}-{kind}")
        gpu = pool.gpu
        if speed < 1.0:
            gpu = replace(gpu, peak_flops={k: v * speed for k, v in gpu.peak_flops.items()},
                          hbm_bytes_per_s=gpu.hbm_bytes_per_s * speed)  # fmt: skip
        pools.append(replace(pool, gpu=gpu))
        speeds.append(speed)
    between = []
    for a, b in combinations(range(n_pools), 2):
        kind, rate, total, latency = draw.choice(LINKS)
        between.append(Link(pools=(pools[a].name, pools[b].name), kind=kind, bytes_per_s=rate * 1e9,
                            total_bytes_per_s=total * 1e9, latency_s=latency * 1e-6))  # fmt: skip
    model: ModelSpec = load_model(draw.choice(MODELS))
    batch, seq_len = draw.choice((64, 128, 256)), draw.choice((2048, 4096, 8192))
    pins: dict[str, tuple[int, ...]] = {}
    if small:
        layers = draw.choice((6, 7, 8))
        moe = replace(model.moe, n_moe_layers=layers) if model.moe else None
        model = replace(model, n_layers=layers, moe=moe, name=f"{model.name}/{layers}")
        batch = draw.choice((16, 32))
        pins = {"cp": (1,), "tp": draw.choice(((4, 8), (2, 8), (8,))), "micro_batch_size": (1, 2), "vp": (1,)}
    software = tuple(default_software("megatron-lm", pool.gpu) for pool in pools)
    cluster = MixedCluster(name=f"mix-{i}", pools=tuple(pools), between=tuple(between), speeds=tuple(speeds))
    problem = MixedProblem(
        model=model, cluster=cluster, workload=Workload(seq_len=seq_len, global_batch=batch), software=software,
        framework=framework, pins=pins, top=3,
    )  # fmt: skip
    size = "+".join(
        f"{p.nodes}{k.split('-', 1)[-1]}{'' if s == 1 else f'@{s:g}'}"
        for p, k, s in zip(pools, kinds, speeds, strict=True)
    )
    return Mix(f"{i} {model.name} {size}", problem, small)


def best_alone(problem: MixedProblem) -> list[float]:
    """Step time of the best plan on each pool, with all of its nodes or any smaller number of them."""
    out = []
    for j, pool in enumerate(problem.cluster.pools):
        steps = []
        for nodes in range(1, pool.nodes + 1):
            try:
                steps.append(plan(problem.alone(j, nodes)).plans[0].metrics["step_s"])
            except (NoFeasiblePlanError, InvalidProblemError):
                continue
        out.append(min(steps, default=float("inf")))
    return out


def enumerated_optimum(problem: MixedProblem) -> tuple[float, int]:
    """The fastest pipeline across pools by pricing every choice with every split of layers; how many there were."""
    pricer = Pricer(price_pools(problem))
    choices, narrowed = enumerate_choices(pricer.costs)
    if narrowed:
        raise ValueError(f"the space of {problem.cluster.name} was narrowed: {narrowed}")
    best, priced, layers = float("inf"), 0, problem.model.n_layers
    splits = {p: np.array(list(_compositions(layers, p))) for p in range(1, layers + 1)}
    for at in range(0, len(choices), 2048):
        some = choices.take(np.arange(at, min(at + 2048, len(choices))))
        stages = pricer.stages(some)
        for i in range(len(some)):
            pp = int(some.pp[i])
            for split in splits[pp]:
                priced += 1
                held = np.zeros((1, stages.pool.shape[1]), dtype=np.int64)
                held[0, :pp] = split
                one = type(stages)(*(getattr(stages, n)[i : i + 1] for n in type(stages).__slots__))
                if (pricer.peaks(one, held)[0, :pp] > pricer.limit[stages.pool[i, :pp]]).any():
                    continue
                best = min(best, sum(pricer.parts(some, stages, i, split).values()))
    return best, priced


def _compositions(total: int, parts: int) -> Any:
    """All ways to write ``total`` as ``parts`` positive numbers."""
    if parts == 1:
        yield (total,)
        return
    for first in range(1, total - parts + 2):
        for rest in _compositions(total - first, parts - 1):
            yield (first, *rest)


def measure(mix: Mix) -> dict[str, Any]:
    """One row of the table."""
    started = time.process_time()
    try:
        answer = plan_mixed(mix.problem)
    except NoFeasiblePlanError:
        return {"mix": mix.name, "step_s": None}
    seconds = time.process_time() - started
    step, alone = answer.plans[0].metrics["step_s"], best_alone(mix.problem)
    row: dict[str, Any] = {
        "mix": mix.name,
        "step_s": step,
        "shape": answer.plans[0].shape,
        "alone_s": min(alone) if min(alone) < float("inf") else None,
        "gain": min(alone) / step if min(alone) < float("inf") else None,
        "of_sum": 1.0 / step / sum(1.0 / a for a in alone) if min(alone) < float("inf") else None,
        "cpu_s": seconds,
    }
    if mix.small:
        # single pools and replicas are candidates too: the enumeration covers pipelines across pools
        optimum, priced = enumerated_optimum(mix.problem)
        row |= {"optimum": step / min(optimum, min(alone)), "priced": priced}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mixes", type=int, default=60)
    parser.add_argument("--small", type=int, default=24)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rows = []
    for mix in mixes(args.mixes, args.small):
        rows.append(measure(mix))
        if not args.json:
            print(_line(rows[-1]), flush=True)
    solved = [r for r in rows if r["step_s"] is not None]
    gains = [r["gain"] for r in solved if r["gain"] is not None]
    optima = [r["optimum"] for r in solved if "optimum" in r]
    summary = {
        "mixes": len(rows),
        "nothing fits": len(rows) - len(solved),
        "only together": len(solved) - len(gains),
        "worse than a pool alone": sum(g < 1.0 - 1e-9 for g in gains),
        "least gain": min(gains),
        "median gain": float(np.median(gains)),
        "largest gain": max(gains),
        "worst ratio to the enumerated optimum": max(optima, default=None),
        "median CPU s": float(np.median([r["cpu_s"] for r in solved])),
        "most CPU s": max(r["cpu_s"] for r in solved),
    }
    if args.json:
        print(json.dumps({"rows": rows, "summary": summary}, indent=1))
        return
    for name, value in summary.items():
        print(f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}")


def _line(r: dict[str, Any]) -> str:
    if r["step_s"] is None:
        return f"{r['mix']:58.58s} nothing fits"
    gain = "  only together" if r["gain"] is None else f"gain {r['gain']:5.2f} of sum {r['of_sum']:4.2f}"
    best = f" optimum {r['optimum']:.5f} of {r['priced']:,}" if "optimum" in r else ""
    return f"{r['mix']:58.58s} {r['step_s']:8.3f} s {r['shape']:21s} {gain}{best}  {r['cpu_s']:.2f} s"


if __name__ == "__main__":
    main()
