"""Pins that no configuration can obey, found before anything is enumerated, each with its rule's sentence."""

from __future__ import annotations

from itertools import islice, product
from math import prod

import numpy as np

from ..costmodels.candidates import CandidateTable
from ..costmodels.parallel import ParallelConfig
from ..costmodels.rules import first_violation_sentence, violations
from ..hardware_profiles.errors import InvalidProblemError
from .problem import PlanningProblem

_DEGREES = ("tp", "cp", "pp", "dp")
_MAX_COMBINATIONS = 4096


def check_pins(problem: PlanningProblem) -> None:
    """Raise if every combination of the pinned values breaks a rule that these values alone decide.

    Rules that no field decides (a sequence longer than the position table) are checked too.

    Raises:
        InvalidProblemError: the sentence of the rule that the first combination breaks.
    """
    pins = problem.pins
    args = (problem.model, problem.workload, problem.cluster, problem.framework)
    sentence = first_violation_sentence(*args, ParallelConfig(), fields=frozenset())
    if sentence:
        raise InvalidProblemError(sentence[0].upper() + sentence[1:])
    if not pins:
        return
    names = tuple(pins)
    combinations = list(islice(product(*pins.values()), _MAX_COMBINATIONS))
    configs = [_config(dict(zip(names, values, strict=True))) for values in combinations]
    fields = frozenset({*names} | ({"sequence_parallel"} if "tp" in pins else set()))
    broken = violations(*args, CandidateTable.from_configs(configs), fields=fields)
    bad = np.logical_or.reduce([np.asarray(v) for v in broken.values()]) if broken else np.zeros(len(configs), bool)
    if bad.all():
        sentence = first_violation_sentence(*args, configs[0], fields=fields)
        shown = ", ".join(f"{n}={v}" for n, v in zip(names, combinations[0], strict=True))
        raise InvalidProblemError(f"Pin {shown}: {sentence}")
    _check_world(problem)
    _check_batch(problem)


def _config(values: dict[str, int]) -> ParallelConfig:
    """The pinned fields over defaults, with sequence parallelism as the search would set it."""
    if "sequence_parallel" not in values:
        values = {**values, "sequence_parallel": int(values.get("tp", 1) > 1)}
    return ParallelConfig(**values)


def _check_world(problem: PlanningProblem) -> None:
    pinned = [n for n in _DEGREES if n in problem.pins]
    world = problem.cluster.n_gpus
    combinations = list(product(*(problem.pins[n] for n in pinned)))
    if not any(world % prod(values) == 0 for values in combinations):
        shown = "*".join(f"{n}={v}" for n, v in zip(pinned, combinations[0], strict=True))
        raise InvalidProblemError(
            f"Pin {shown} does not divide the {world} GPUs of the cluster; pin a divisor or change --nodes."
        )


def _check_batch(problem: PlanningProblem) -> None:
    pins, batch = problem.pins, int(problem.workload.global_batch)
    sizes, replicas = pins.get("micro_batch_size", (1,)), pins.get("dp", (1,))
    if not any(batch % (m * d) == 0 for m in sizes for d in replicas):
        m, d = sizes[0], replicas[0]
        raise InvalidProblemError(
            f"The global batch of {batch} is not divisible by micro_batch_size*dp = {m}*{d}; change the batch or the "
            "pin."
        )
