"""The next lower and higher value of each dimension of a configuration, dp taking up the GPUs."""

from __future__ import annotations

from dataclasses import replace

from ..costmodels.parallel import ParallelConfig, Recompute
from ..costmodels.rules import FRAMEWORKS
from .problem import PlanningProblem
from .space import divisors, natural_split, recompute_options

#: Dimensions in the order in which they are explained.
DIMENSIONS = (
    "tp", "cp", "pp", "vp", "ep", "etp", "micro_batch_size", "zero_stage", "dp_shard", "schedule", "cp_comm",
    "sequence_parallel", "recompute",
)  # fmt: skip


def neighbours_of(problem: PlanningProblem, config: ParallelConfig) -> list[tuple[str, int, ParallelConfig]]:
    """(dimension, value, configuration) of every neighbour; rules and memory are not looked at."""
    out = []
    for dimension in DIMENSIONS:
        current = getattr(config, dimension)
        for value in _next_values(problem, config, dimension):
            changed = _moved(problem, config, dimension, value)
            if value != current and changed is not None and changed != config:
                out.append((dimension, value, changed))
    return out


def _next_values(problem: PlanningProblem, c: ParallelConfig, dimension: str) -> list[int]:
    world = problem.cluster.n_gpus
    if dimension in ("tp", "cp", "pp"):
        return _beside(divisors(world), getattr(c, dimension))
    if dimension == "vp":
        return _beside(list(range(1, max(problem.model.n_layers // c.pp, 1) + 1)), c.vp) if c.pp > 1 else []
    if dimension == "ep":
        return _beside(divisors(problem.model.moe.n_experts), c.ep) if problem.model.moe else []
    if dimension == "etp":
        return _beside(divisors(c.tp), c.etp) if problem.model.moe else []
    if dimension == "micro_batch_size":
        share = max(int(problem.workload.global_batch) // c.dp, 1)
        return _beside(divisors(share), c.micro_batch_size)
    if dimension == "zero_stage":
        return [v for v in (c.zero_stage - 1, c.zero_stage + 1) if 0 <= v <= 3] if c.dp * c.cp > 1 else []
    if dimension == "dp_shard":
        return _beside(divisors(c.dp * c.cp), c.dp_shard) if c.zero_stage else []
    if dimension == "schedule":
        return [v for v in range(4) if v != c.schedule] if c.pp > 1 else []
    if dimension == "cp_comm":
        return [v for v in range(3) if v != c.cp_comm] if c.cp > 1 else []
    if dimension == "sequence_parallel":
        return [1 - c.sequence_parallel] if c.tp > 1 else []
    frameworks = FRAMEWORKS if problem.framework == "any" else (problem.framework,)
    offered = [recompute_options(replace(problem, pins={}, framework=name)) for name in frameworks]
    return sorted({mask for options in offered for mask, _ in options})


def _beside(values: list[int], current: int) -> list[int]:
    """The largest value below and the smallest above."""
    below = [v for v in values if v < current][-1:]
    return below + [v for v in values if v > current][:1]


def _moved(problem: PlanningProblem, c: ParallelConfig, dimension: str, value: int) -> ParallelConfig | None:
    """The configuration with one field changed and the fields that hang on it repaired; None if GPUs do not divide."""
    values: dict[str, int] = {dimension: value}
    if dimension in ("tp", "cp", "pp"):
        size = {n: values.get(n, getattr(c, n)) for n in ("tp", "cp", "pp")}
        model_ranks = size["tp"] * size["cp"] * size["pp"]
        if problem.cluster.n_gpus % model_ranks:
            return None
        values["dp"] = problem.cluster.n_gpus // model_ranks
        values["dp_shard"] = _shard(c, values["dp"] * size["cp"])
        if dimension == "tp":
            values |= {"sequence_parallel": int(value > 1 and (c.sequence_parallel or c.tp == 1))}
            values |= {"etp": value if c.etp == c.tp else c.etp, "tp_overlap": c.tp_overlap if value > 1 else 0}
        if dimension == "pp" and value == 1:
            values |= {"vp": 1, "schedule": 0}
    if dimension in ("pp", "vp"):
        pp, vp = values.get("pp", c.pp), values.get("vp", c.vp)
        values["layer_split"] = natural_split(problem.model.n_layers, pp, vp)
    replicas = values.get("dp", c.dp) * values.get("cp", c.cp)
    if c.hpz and (replicas <= c.hpz or replicas % c.hpz):
        values["hpz"] = 0
    if values.get("zero_stage", 3) != 3:
        values |= {"hpz": 0, "quantized_weights": 0, "quantized_gradients": 0}
    if dimension == "recompute" and (c.recompute & Recompute.FULL or value & Recompute.FULL):
        values["recompute_layers"] = 0
    if dimension == "sequence_parallel" and value == 0:
        values["tp_overlap"] = 0
    return replace(c, **values)


def _shard(c: ParallelConfig, ranks: int) -> int:
    """Sharding over everything stays so; a node-local group stays if it still divides."""
    whole = c.dp_shard == c.dp * c.cp
    return ranks if whole or ranks % c.dp_shard else c.dp_shard
