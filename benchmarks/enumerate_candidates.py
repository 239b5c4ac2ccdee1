"""Candidates per second per core with the full cost model, and the ratio to a per-candidate Python loop.

Run: ``python benchmarks/enumerate_candidates.py [MODEL] [CLUSTER] [NODES]``. Prints JSON lines: the whole table priced
in chunks (time and memory of every candidate, nothing left out), the loop over single configurations with the same
``estimate``, and the parts of a whole search (enumerating, memory, time of what fits). One process; numpy's
element-wise arithmetic runs on one thread. Seconds are CPU seconds.
"""

from __future__ import annotations

import json
import sys
import time

from meshwright.costmodels.load_model import load_model
from meshwright.costmodels.load_software import default_software
from meshwright.costmodels.training import estimate
from meshwright.costmodels.workload import Workload
from meshwright.hardware_profiles.load import load_cluster
from meshwright.planner import PlanningProblem, plan
from meshwright.planner.rank import CHUNK_ROWS, peak_bytes, score
from meshwright.planner.space import enumerate_space

LOOP_ROWS = 300
REPEATS = 5


def best_of(call, repeats: int = REPEATS) -> float:
    """Least CPU time of several calls, in seconds (what other processes take does not count)."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return min(times)


def main(model_name: str = "llama-3.1-70b", cluster_name: str = "dgx-h100", nodes: str = "8") -> None:
    cluster = load_cluster(cluster_name, nodes=int(nodes))
    software = default_software("megatron-lm", cluster.gpu)
    problem = PlanningProblem(
        model=load_model(model_name),
        cluster=cluster,
        workload=Workload(seq_len=8192, global_batch=512),
        software=software,
    )
    space = enumerate_space(problem)
    table = space.table
    args = (problem.cluster, problem.software)

    def vectorised() -> None:
        for i in range(0, len(table), CHUNK_ROWS):
            estimate(problem.model, problem.workload, table.take(slice(i, i + CHUNK_ROWS)), *args)

    stride = max(len(table) // LOOP_ROWS, 1)
    configs = [table.row(i) for i in range(0, len(table), stride)]

    def loop() -> None:
        for config in configs:
            estimate(problem.model, problem.workload, config, *args)

    whole_s, loop_s = best_of(vectorised), best_of(loop, 2)
    fast, slow = len(table) / whole_s, len(configs) / loop_s
    print(json.dumps({"candidates": len(table), "chunk_rows": CHUNK_ROWS, "seconds": round(whole_s, 4)}))
    print(
        json.dumps({"candidates_per_s_per_core": round(fast), "loop_per_s": round(slow), "ratio": round(fast / slow)})
    )
    parts = {
        "enumerate_s": best_of(lambda: enumerate_space(problem)),
        "memory_of_all_s": best_of(lambda: peak_bytes(problem, table)),
        "memory_and_time_of_fitting_s": best_of(lambda: score(problem, space)),
        "plan_s": best_of(lambda: plan(problem)),
    }
    report = plan(problem).search
    rate = report.enumerated / parts["plan_s"]
    print(json.dumps({**{k: round(v, 4) for k, v in parts.items()}, "enumerated_per_s_of_plan": round(rate)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
