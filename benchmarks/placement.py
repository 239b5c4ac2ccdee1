"""What placement on unequal links is worth, how fast it is, and how it compares with generic solvers.

    python benchmarks/placement.py worth            # gain over rack order, 30 clusters per size, CPU seconds
    python benchmarks/placement.py seeds            # spread of the objective between seeds
    python benchmarks/placement.py oracle           # 50 clusters of 4 to 8 nodes against CP-SAT's proven optimum

The generator is fixed: racks of 8 nodes, pods of 4 racks, 400 Gb/s per GPU within a rack, 200 between racks of a pod,
100 beyond; every link times a lognormal factor of sigma 0.2; 5% of the nodes at half speed. Nodes are given in order
of their racks, and rack order is the baseline: rings of data parallelism fill racks, pipelines cross them. The traffic
is that of a plan with 8 GPUs of tensor parallelism in a node, 8 stages (`--stages`), and as many replicas as fill the
cluster.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

from meshwright.costmodels.load_model import load_model
from meshwright.costmodels.load_software import default_software
from meshwright.costmodels.parallel import ParallelConfig
from meshwright.costmodels.workload import Workload
from meshwright.hardware_profiles.link_matrix import LinkMatrix
from meshwright.hardware_profiles.load import load_cluster
from meshwright.planner.place import PlacementTask
from meshwright.planner.plan import Plan
from meshwright.planner.problem import PlanningProblem
from meshwright.planner.search import estimate_plan
from meshwright.planner.solvers.placement import OBJECTIVES, solvers
from meshwright.planner.solvers.placement_anneal import Annealing
from meshwright.planner.solvers.result import Limits, Termination


def rack_links(n: int, seed: int, *, rack: int = 8, sigma: float = 0.2, slow: float = 0.05) -> LinkMatrix:
    """Links of one generated cluster."""
    draw = np.random.default_rng(seed)
    racks = np.arange(n) // rack
    pods = racks // 4
    same = np.equal.outer
    gbit = np.where(same(racks, racks), 400.0, np.where(same(pods, pods), 200.0, 100.0))
    noise = np.triu(draw.normal(0.0, sigma, (n, n)), 1)
    factor = np.ones(n)
    factor[draw.choice(n, round(slow * n), replace=False)] = 0.5
    rate = gbit * np.exp(noise + noise.T) * np.minimum.outer(factor, factor) * 1e9 / 8
    names = tuple(f"n{i:03d}" for i in range(n))
    return LinkMatrix(nodes=names, bytes_per_s=rate, racks=tuple(f"r{r}" for r in racks), source=f"seed {seed}")


def planned(nodes: int, stages: int) -> tuple[PlanningProblem, Plan]:
    """Llama 3.1 70B on DGX H100, tp 8 in a node, 1F1B without interleaving."""
    cluster = load_cluster("dgx-h100", nodes=nodes)
    problem = PlanningProblem(
        model=load_model("llama-3.1-70b"),
        cluster=cluster,
        workload=Workload(seq_len=4096, global_batch=16 * nodes),
        software=default_software("megatron-lm", cluster.gpu),
    )
    config = ParallelConfig(tp=8, pp=stages, dp=nodes // stages, sequence_parallel=1)
    return problem, estimate_plan(problem, config).plans[0]


def worth(sizes: list[int], clusters: int, stages: int) -> None:
    head = "gain over rack order: median (worst, best)  of the step   gap  CPU s: median (max)"
    print(f"nodes  links            objective  {head}")
    for n in sizes:
        request = planned(n, stages)
        for name, sigma, slow in (("noise and slow", 0.2, 0.05), ("noise only", 0.2, 0.0), ("neither", 0.0, 0.0)):
            for objective in OBJECTIVES:
                gains, steps, gaps, cpu = [], [], [], []
                for seed in range(clusters if sigma else 1):
                    task = PlacementTask(*request, rack_links(n, seed, sigma=sigma, slow=slow), objective)
                    begun = time.process_time()
                    found = Annealing().solve(task.problem, Limits(), seed)
                    cpu.append(time.process_time() - begun)
                    before, after = task.order(range(n)), task.order(found.value)
                    old, new = (o.critical_s if objective == "critical" else o.sum_s for o in (before, after))
                    gains.append(1 - new / old)
                    steps.append(1 - after.step_s / before.step_s)
                    gaps.append(found.gap)
                gain = f"{statistics.median(gains):6.1%} ({min(gains):.1%}, {max(gains):.1%})"
                seconds = f"{statistics.median(cpu):5.2f} ({max(cpu):.2f})"
                rest = f"{statistics.median(steps):8.2%}  {statistics.median(gaps):4.0%}  {seconds}"
                print(f"{n:5d}  {name:15s}  {objective:9s}  {gain:41s}{rest}", flush=True)


def spread(sizes: list[int], clusters: int, seeds: int) -> None:
    print("nodes  objective  spread between seeds, (worst - best) / best: median  worst   CPU s a run")
    for n in sizes:
        request = planned(n, 8)
        for objective in OBJECTIVES:
            spreads, cpu = [], []
            for cluster in range(clusters):
                task = PlacementTask(*request, rack_links(n, cluster), objective)
                begun = time.process_time()
                values = [Annealing().solve(task.problem, Limits(), s).objective for s in range(seeds)]
                cpu.append((time.process_time() - begun) / seeds)
                spreads.append(max(values) / min(values) - 1)
            print(
                f"{n:5d}  {objective:9s}  {'':42s}{statistics.median(spreads):13.2%} {max(spreads):6.2%} "
                f"{max(cpu):10.2f}",
                flush=True,
            )


def oracle(count: int) -> None:
    shapes = [(2, 2), (2, 3), (2, 4), (4, 2), (1, 8), (8, 1)]
    equal = {"enumerated": 0, "annealed": 0}
    proven = 0
    cpu = {"cpsat": 0.0, "enumerated": 0.0, "annealed": 0.0}
    for i in range(count):
        stages, replicas = shapes[i % len(shapes)]
        n = stages * replicas
        objective = OBJECTIVES[i // len(shapes) % 2]
        task = PlacementTask(*planned(n, stages), rack_links(n, i, rack=max(n // 2, 2)), objective)
        results = {}
        for name, solver, limits in (
            ("cpsat", solvers()["cpsat"], Limits()),
            ("enumerated", Annealing(), Limits()),
            ("annealed", Annealing(enumerate_up_to=0), Limits()),
        ):
            begun = time.process_time()
            results[name] = solver.solve(task.problem, limits, i)
            cpu[name] += time.process_time() - begun
        proven += results["cpsat"].termination == Termination.OPTIMAL
        for name in equal:
            equal[name] += abs(results[name].objective / results["cpsat"].objective - 1) < 1e-5
    print(f"{count} clusters of 4 to 8 nodes; CP-SAT proved {proven} optimal in {cpu['cpsat']:.1f} CPU s")
    for name in equal:
        print(f"{name}: equal on {equal[name]} of {count}, {cpu[name]:.1f} CPU s in all")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["worth", "seeds", "oracle"])
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128], help="nodes, multiples of 8")
    parser.add_argument("--stages", type=int, default=8, help="of the plan whose worth is measured")
    parser.add_argument("--clusters", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--count", type=int, default=50)
    given = parser.parse_args()
    if given.what == "worth":
        worth(given.sizes, given.clusters, given.stages)
    elif given.what == "seeds":
        spread(given.sizes, min(given.clusters, 10), given.seeds)
    else:
        oracle(given.count)


if __name__ == "__main__":
    main()
