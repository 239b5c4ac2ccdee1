"""What uneven pipeline stages save over even ones, and what the choice costs.

Run: ``python benchmarks/uneven_stages.py [--top 40] [--json]``. For each model and cluster the planner's best plans
(Megatron-LM, even stages, ``--top`` of them) are refined one by one; ``even`` is the best of them with even stages,
``uneven`` the best after refinement, each priced exactly stage by stage. ``rank`` is that plan's place before. On some
clusters the even deal is the best one: the table says so. Seconds of a plan are CPU seconds on this machine, mean and
worst.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from typing import Any

from meshwright.costmodels.load_model import load_model
from meshwright.costmodels.load_software import default_software
from meshwright.costmodels.workload import Workload
from meshwright.hardware_profiles.load import load_cluster
from meshwright.planner import PlanningProblem, plan
from meshwright.planner.emitters.megatron_layout import encode_stage_layout
from meshwright.planner.refine_stages import refine_stages

#: model, cluster, nodes, tokens of a sequence, sequences of a step
CASES = (
    ("llama-3.1-405b", "dgx-h200", 12, 8192, 480),
    ("llama-3.1-405b", "dgx-h100", 28, 8192, 504),
    ("llama-3.1-405b", "dgx-h100", 64, 8192, 512),
    ("deepseek-v3", "dgx-h100", 56, 4096, 3584),
    ("deepseek-v3", "hgx-h800", 256, 4096, 4096),
    ("nemotron-4-340b", "dgx-h100", 64, 4096, 768),
    ("nemotron-4-340b", "dgx-h100", 16, 4096, 768),
)


def one(model: str, cluster_name: str, nodes: int, seq_len: int, batch: int, top: int) -> dict[str, Any]:
    cluster = load_cluster(cluster_name, nodes=nodes)
    problem = PlanningProblem(
        model=load_model(model),
        cluster=cluster,
        workload=Workload(seq_len=seq_len, global_batch=batch),
        software=default_software("megatron-lm", cluster.gpu),
        top=top,
        refine="off",
    )
    plans, seconds, refined = plan(problem).plans, [], []
    start = time.process_time()
    default = plan(replace(problem, top=10, refine="default")).plans[0].metrics["step_s"]
    default_cpu_s = time.process_time() - start
    for each in plans:
        start = time.process_time()
        refined.append(refine_stages(problem, each))
        seconds.append(time.process_time() - start)
    best = min(range(len(plans)), key=lambda i: (refined[i].refined_step_s, i))
    even, chosen = min(r.even_step_s for r in refined), refined[best]
    return {
        "model": model,
        "cluster": cluster_name,
        "gpus": cluster.n_gpus,
        "plans": len(plans),
        "even_s": even,
        "uneven_s": chosen.refined_step_s,
        "gain": 1.0 - chosen.refined_step_s / even,
        "plan_s": default,
        "plan_cpu_s": default_cpu_s,
        "gain_of_that_plan": chosen.gain,
        "simulated_gain_of_that_plan": chosen.simulated_gain,
        "rank": plans[best].rank,
        "faster_by_refinement": sum(r.gain > 0 for r in refined),
        "largest_gain_of_a_plan": max(r.gain for r in refined),
        "layout": encode_stage_layout(chosen.layout),
        "reason": chosen.reason,
        "proof": chosen.solve.proof if chosen.solve else "",
        "cpu_s_mean": sum(seconds) / len(seconds),
        "cpu_s_worst": max(seconds),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--top", type=int, default=40)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rows = [one(*case, args.top) for case in CASES]
    if args.json:
        print(json.dumps(rows, indent=1))
        return
    print(f"{'model':16} {'cluster':9} {'GPUs':>5} {'even s':>8} {'uneven s':>8} {'gain':>6} {'rank':>4}"
          f" {'plans that gain':>15} {'CPU s a plan':>13} {'`plan`':>8} {'CPU s':>5}")  # fmt: skip
    for row in rows:
        gains = f"{row['faster_by_refinement']} of {row['plans']}"
        seconds = f"{row['cpu_s_mean']:6.3f} {row['cpu_s_worst']:6.3f}"
        print(f"{row['model']:16} {row['cluster']:9} {row['gpus']:5} {row['even_s']:8.3f} {row['uneven_s']:8.3f}"
              f" {row['gain']:6.2%} {row['rank']:4} {gains:>15} {seconds:>13} {row['plan_s']:8.3f}"
              f" {row['plan_cpu_s']:5.2f}")  # fmt: skip
    for row in rows:
        print(f"\n{row['model']} on {row['gpus']} GPUs: {row['reason']}")
        if row["gain"] > 0:
            simulated = row["simulated_gain_of_that_plan"]
            alone = f"  this plan against itself with even stages: {row['gain_of_that_plan']:.2%}"
            print(alone + ("" if simulated is None else f"; its pipeline simulated pass by pass: {simulated:.2%}"))
            print(f"  {row['layout']}")


if __name__ == "__main__":
    main()
