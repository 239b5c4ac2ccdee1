"""Small random graphs of layers, and their best chain by trying everything."""

import itertools
import random

from meshwright.costmodels.layer_profile import LayerEdge, LayerProfile, LayerRun, ProfiledLayer
from meshwright.hardware_profiles.errors import InvalidProblemError
from meshwright.planner.solvers.chain_problem import ChainProblem, ChainStage, largest_load


def random_problem(seed: int, count: int, devices: int, micro_batches: int, variants: int = 2, degrees=(1, 2)):
    draw = random.Random(seed)
    edges = [
        LayerEdge(a, b, draw.randint(0, 8)) for a in range(count) for b in range(a + 1, count) if draw.random() < 0.5
    ]
    layers = []
    for node in range(count):
        runs = []
        for tp in degrees:
            for variant in range(variants):
                runs.append(
                    LayerRun(
                        tp=tp,
                        variant=f"v{variant}",
                        time_s=draw.randint(1, 40) / tp + 3 * variant,
                        parameter_bytes=draw.randint(0, 30),
                        in_flight_bytes=draw.randint(0, 12) / (1 + 2 * variant),
                        fixed_bytes=draw.randint(0, 6),
                        sync_in_bytes={e.source: draw.randint(0, 4) for e in edges if e.target == node},
                        sync_out_bytes={e.target: draw.randint(0, 4) for e in edges if e.source == node},
                    )
                )
        layers.append(ProfiledLayer(f"layer {node}", tuple(runs)))
    profile = LayerProfile(layers=tuple(layers), edges=tuple(edges), source=f"case {seed}", kind="random")
    return ChainProblem(
        profile=profile,
        devices=devices,
        memory_bytes=draw.randint(4, 45),
        bandwidth_bytes_per_s=draw.choice([2.0, 7.0, 50.0]),
        micro_batches=micro_batches,
    )


def ordered_partitions(nodes, edges):
    """Every way to take non-empty sets off the front, each closed under what feeds it."""
    if not nodes:
        yield ()
        return
    for size in range(1, len(nodes) + 1):
        for first in itertools.combinations(nodes, size):
            rest = tuple(n for n in nodes if n not in first)
            if any(e.source in rest and e.target in first for e in edges):
                continue
            for tail in ordered_partitions(rest, edges):
                yield (first, *tail)


def brute_force(problem):
    """Least largest load over every chain, infinite where none fits; priced by ``largest_load`` alone."""
    best = float("inf")
    nodes = tuple(range(len(problem.profile.layers)))
    shapes = list(itertools.product(problem.tp_degrees, problem.dp_degrees))
    for parts in ordered_partitions(nodes, problem.profile.edges):
        for chosen in itertools.product(shapes, repeat=len(parts)):
            if sum(t * d for t, d in chosen) > problem.devices:
                continue
            menus = [
                itertools.product(*(range(len(problem.runs[t][n])) for n in part))
                for part, (t, _) in zip(parts, chosen, strict=True)
            ]
            for variants in itertools.product(*menus):
                chain = tuple(
                    ChainStage(part, t, d, v) for part, (t, d), v in zip(parts, chosen, variants, strict=True)
                )
                try:
                    best = min(best, largest_load(problem, chain))
                except InvalidProblemError:
                    continue
    return best
