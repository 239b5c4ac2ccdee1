"""The problems of Piper's repository with its model: objective, stages and CPU seconds.

    python benchmarks/piper_bert32.py TABLES [--all] [--resnet]

``TABLES`` is the folder that holds ``peers/piper``. BERT-32 is solved on 512 devices of 8 GiB with 1920 micro-batches
and 25 x 2^30 bytes/s, the problem of the authors' ``single()``; ``--all`` adds GNMT and ResNet (times taken as
milliseconds) on the same devices, for which Piper's repository has no answer at this size. CPU seconds include reading
the file; those of Piper's own search (compiled with g++ -O2, 2 shared cores) were 2.1 to 3.5 s. ``--resnet`` compares
seven of the authors' ResNet problems (``runResnet``), times as in the file, with what Piper returns for them.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from meshwright.planner.layer_profiles import piper
from meshwright.planner.solvers.chain_partition import ChainSolver
from meshwright.planner.solvers.chain_problem import ChainProblem, largest_load, price

PIPER_LOAD_S = 0.00256112784601251  # printed with 15 digits by Piper's getTPSForResult for its own answer
#: (devices, GiB) -> largest load and CPU seconds of Piper at d7fc8cf, g++ -O2; None where it finds no plan.
PIPER_RESNET = {
    (8, 4.0): (73.4932860001, 2.8),
    (8, 8.0): (63.4335366048, 2.9),
    (16, 1.5): (None, 4.1),
    (32, 2.0): (24.6258985217, 6.1),
    (64, 1.0): (None, 7.6),
    (128, 1.5): (7.0249251386, 11.0),
    (128, 4.0): (4.30571355978, 12.1),
}
PROBLEMS = {"bert32a100": (1920, 1.0), "gnmt": (256, 1e-3), "resnet": (7680, 1e-3)}


def solve(path: Path, micro_batches: int, unit_s: float) -> None:
    """Solve one workload and print its stages."""
    started = time.process_time()
    problem = ChainProblem(
        profile=piper.read(path, seconds_per_unit=unit_s),
        devices=512,
        memory_bytes=8 * 2**30,
        bandwidth_bytes_per_s=25 * 2**30,
        micro_batches=micro_batches,
    )
    found = ChainSolver().solve(problem)
    cpu_s = time.process_time() - started
    if found.value is None:
        print(f"{path.stem}: {found.proof}, {cpu_s:.2f} CPU s")
        return
    load_s = largest_load(problem, found.value)  # priced anew, layer by layer
    used = sum(stage.tp * stage.dp for stage in found.value)
    print(f"{path.stem}: {load_s:.9f} s per micro-batch, {found.proof}, {len(found.value)} stages, {used} devices")
    print(f"  {cpu_s:.2f} CPU s, {found.work} stages checked one by one")
    if path.stem == "bert32a100":
        print(f"  Piper: {PIPER_LOAD_S:.9f} s; ours / Piper's = {load_s / PIPER_LOAD_S:.12f}")
    print("  layers  tp   dp  recomputed  load ms  in flight  GiB")
    for stage, cost in zip(found.value, price(problem, found.value), strict=True):
        print(
            f"  {len(stage.layers):6d} {stage.tp:3d} {stage.dp:4d} {sum(v > 0 for v in stage.variants):11d}"
            f" {1e3 * cost.load_s:8.4f} {cost.in_flight:10d} {cost.memory_bytes / 2**30:4.2f}"
        )


def compare_resnet(path: Path) -> None:
    """Solve the authors' ResNet problems and print both answers."""
    profile = piper.read(path)
    print("devices  GiB       ours  CPU s      Piper  CPU s  ours / Piper's")
    for (devices, gib), (load, seconds) in PIPER_RESNET.items():
        started = time.process_time()
        problem = ChainProblem(
            profile=profile,
            devices=devices,
            memory_bytes=gib * 2**30,
            bandwidth_bytes_per_s=25 * 2**30,
            micro_batches=7680,
        )
        found = ChainSolver().solve(problem)
        cpu_s = time.process_time() - started
        ours = f"{found.objective:10.6f}" if found.value else f"{found.proof:>10}"
        theirs = f"{load:10.6f} {seconds:6.1f}  {found.objective / load:.6f}" if load else f"      none {seconds:6.1f}"
        print(f"{devices:7d} {gib:4g} {ours} {cpu_s:6.1f} {theirs}")


def main() -> None:
    """Run the problems that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tables", type=Path)
    parser.add_argument("--all", action="store_true", help="GNMT and ResNet too")
    parser.add_argument("--resnet", action="store_true", help="the authors' ResNet problems beside Piper's answers")
    args = parser.parse_args()
    if args.resnet:
        compare_resnet(args.tables / "peers" / "piper" / "resnet.json")
        return
    for name in PROBLEMS if args.all else ["bert32a100"]:
        solve(args.tables / "peers" / "piper" / f"{name}.json", *PROBLEMS[name])


if __name__ == "__main__":
    main()
