"""The pipeline partition kernel against CP-SAT: equal objectives, and CPU seconds beside the oracle's.

Run: ``python benchmarks/stage_partition.py [--instances 200] [--json]``. Random instances (seeds 0, 1, ...) of 8 to 64
layers on 2 to 8 stages: unlike layers or a few kinds of them, two or three recompute modes, embedding and head, more
micro-batches in flight on earlier stages, memory that binds, cuts and pieces that are constrained. CP-SAT runs to its
proof, on one thread. Then the kernel alone on 64 layers x 16 stages to 128 x 64. Seconds are CPU seconds.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from dataclasses import dataclass
from typing import Any

from meshwright.planner.solvers.partition import PartitionProblem, solvers
from meshwright.planner.solvers.result import Termination

SIZES = ((64, 16), (128, 16), (128, 32), (128, 64))


@dataclass(frozen=True)
class Layer:
    time: tuple[int, ...]
    live: tuple[int, ...]
    fixed: int
    peak: int
    redo: int


def _layer(draw: random.Random, modes: int) -> Layer:
    times, lives = [draw.randint(20, 60)], [draw.randint(4, 12)]
    for _ in range(1, modes):
        times.append(times[-1] + draw.randint(3, 15))
        lives.append(max(0, lives[-1] - draw.randint(1, 5)))
    return Layer(tuple(times), tuple(lives), draw.randint(2, 9), draw.randint(0, 6), draw.randint(0, 5))


def instance(
    draw: random.Random, layers: int, stages: int, *, vp: int = 1, kinds: int = 0, modes: int = 2,
    room: float = 1.0, constrained: bool = True,
) -> PartitionProblem:  # fmt: skip
    """A random problem.

    Args:
        kinds: different layers, in runs (0: every layer its own); room: memory of a stage over what the most loaded
            of equal stages needs without recompute.
    """
    pool = [_layer(draw, modes) for _ in range(kinds or layers)]
    picked = sorted(draw.randrange(len(pool)) for _ in range(layers)) if kinds else range(layers)
    embedding = Layer((draw.randint(1, 9),), (draw.randint(1, 3),), draw.randint(8, 30), 0, 0)
    head = Layer((draw.randint(30, 120),), (0,), draw.randint(8, 30), draw.randint(5, 20), 0)
    pieces = [embedding, *(pool[k] for k in picked), head]
    n = len(pieces)
    flight = tuple(stages - s for s in range(stages))
    fixed, live = sum(p.fixed for p in pieces), sum(p.live[0] for p in pieces)
    capacity = (int(room * (fixed + stages * live) / stages) + 30,) * stages
    extra: dict[str, Any] = {}
    if constrained:
        if draw.random() < 0.3 and n > 3:
            extra["forbidden_cuts"] = tuple(sorted(draw.sample(range(1, n), 2)))
        if draw.random() < 0.3:
            extra |= {"least": 1, "counted": tuple(0 < i < n - 1 for i in range(n))}
        if draw.random() < 0.3:
            extra["pins"] = {0: 0}
        if draw.random() < 0.3:
            extra["update"] = tuple(3 * draw.randint(0, 12) for _ in range(n))
        if draw.random() < 0.5:
            extra["working_sets"] = tuple(draw.randint(1, 2) for _ in range(stages))
        if draw.random() < 0.2:
            extra["together"] = ((n - 3, n - 1),)
    return PartitionProblem(
        stages=stages,
        vp=vp,
        time=tuple(p.time for p in pieces),
        live=tuple(p.live for p in pieces),
        fixed=tuple(p.fixed for p in pieces),
        peak=tuple(p.peak for p in pieces),
        redo=tuple(p.redo for p in pieces),
        in_flight=flight,
        capacity=capacity,
        stage_time=tuple(draw.randint(0, 3) for _ in range(stages)),
        stage_bytes=tuple(draw.randint(0, 5) for _ in range(stages)),
        sum_weight=1,
        max_weight=4 * stages * vp - 1,
        **extra,
    )


def random_instance(seed: int, largest: int = 64, deepest: int = 8) -> PartitionProblem:
    """One of the numbered instances."""
    draw = random.Random(seed)
    layers, stages = draw.randint(8, largest), draw.randint(2, deepest)
    kinds, modes = draw.choice((0, 1, 2, 3)), draw.choice((2, 2, 3))
    return instance(draw, layers, stages, kinds=kinds, modes=modes, room=draw.uniform(0.75, 1.1))


def timed(solver: Any, problem: PartitionProblem) -> tuple[Any, float]:
    start = time.process_time()
    found = solver.solve(problem)
    return found, time.process_time() - start


def compare(instances: int, oracle: str) -> dict[str, Any]:
    """Objectives of the kernel and of a generic solver on the numbered instances."""
    own, other = solvers()["dp"], solvers()[oracle]
    out: dict[str, Any] = {"instances": instances, "oracle": oracle, "equal": 0, "infeasible": 0, "recomputing": 0}
    out |= {"different": [], "not_proven": 0, "dp_cpu_s": 0.0, "oracle_cpu_s": 0.0}
    for seed in range(instances):
        problem = random_instance(seed)
        mine, seconds = timed(own, problem)
        its, its_seconds = timed(other, problem)
        out["dp_cpu_s"] += seconds
        out["oracle_cpu_s"] += its_seconds
        proven = its.termination in (Termination.OPTIMAL, Termination.INFEASIBLE)
        broken = problem.problems_of(mine.value) if mine.value is not None else []
        if not proven:
            out["not_proven"] += 1
        elif broken or mine.objective != its.objective or mine.termination != its.termination:
            out["different"].append(seed)
        else:
            out["equal"] += 1
            out["infeasible"] += its.termination == Termination.INFEASIBLE
            out["recomputing"] += mine.value is not None and any(mine.value.modes)
    return out


def speed() -> list[dict[str, Any]]:
    """CPU seconds of the kernel on large instances, unlike layers and like ones."""
    own, rows = solvers()["dp"], []
    for layers, stages in SIZES:
        for kinds in (0, 2):
            worst, passes, moved = 0.0, 0, 0
            for seed in range(5):
                problem = instance(
                    random.Random(seed), layers, stages, kinds=kinds, room=(0.6, 0.75, 0.9)[seed % 3], constrained=False
                )
                found, seconds = timed(own, problem)
                worst, passes = max(worst, seconds), max(passes, found.work)
                moved = max(moved, sum(found.value.modes) if found.value else 0)
            rows.append({"layers": layers, "stages": stages, "kinds": kinds or layers, "cpu_s": worst,
                         "passes": passes, "recomputed": moved})  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--instances", type=int, default=200)
    parser.add_argument("--oracle", default="cpsat", choices=("cpsat", "highs", "cbc"))
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    compared, rows = compare(args.instances, args.oracle), speed()
    if args.json:
        print(json.dumps({"compared": compared, "speed": rows}, indent=1))
        return
    print(f"{compared['equal']} of {args.instances} random instances: same proven answer as {args.oracle}")
    print(f"  ({compared['infeasible']} infeasible, {compared['recomputing']} that recompute, "
          f"{compared['not_proven']} not proven by it, different: {compared['different'] or 'none'})")  # fmt: skip
    print(f"  CPU seconds: dp {compared['dp_cpu_s']:.2f}, {args.oracle} {compared['oracle_cpu_s']:.2f}")
    print("layers stages kinds  slowest of 5, CPU s  passes  layers recomputed")
    for row in rows:
        print(f"{row['layers']:6} {row['stages']:6} {row['kinds']:5}  {row['cpu_s']:19.3f}  {row['passes']:6}"
              f"  {row['recomputed']:17}")  # fmt: skip


if __name__ == "__main__":
    main()
