"""Pipeline stages from a measured profile: the partition problem with profiled layers as its pieces.

One stage holds a run of consecutive layers on the ``tp`` devices of the profile's setting; 1F1B keeps
``min(stages - s, micro_batches)`` micro-batches in flight on stage ``s``. Data parallelism changes neither cut nor
memory here (no ZeRO: the profile's states are taken as they are), traffic between stages is left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..costmodels.layer_profile import LayerProfile, LayerRun
from ..hardware_profiles.errors import InvalidProblemError
from ..hardware_profiles.types import GIB
from .solvers.base import choose
from .solvers.partition import Partition, PartitionProblem, solvers
from .solvers.result import TO_COMPLETION, Limits, SolveResult, Termination

NS = 1e-9
KIB = 1024.0


@dataclass(frozen=True, slots=True)
class ProfiledStage:
    """A stage: layers by position, variant of each, seconds of a micro-batch, micro-batches in flight, bytes."""

    layers: tuple[int, ...]
    variants: tuple[str, ...]
    load_s: float
    in_flight: int
    memory_bytes: float


@dataclass(frozen=True, slots=True)
class ProfiledStages:
    """Stages, and how long a step takes: ``sum + (micro_batches - 1) * largest`` of their loads.

    Attributes:
        step_s: forward and backward of one step; bound_s: what no cut can beat; found: the solver's answer.
    """

    stages: tuple[ProfiledStage, ...]
    step_s: float
    bound_s: float
    found: SolveResult[Partition]


def partition_problem(
    profile: LayerProfile, setting: tuple[str, int, int], stages: int, micro_batches: int, memory_bytes: float
) -> PartitionProblem:
    """Write the cut of a profile as a partition problem in nanoseconds and KiB.

    Of each layer's variants the fastest comes first, and what it holds counts as fixed. What a slower one holds beyond
    that at one moment (Piper's B of a recomputed layer) is freed before the next layer needs it, so that the largest on
    a stage counts; one that holds less saves nothing. Times are rounded to the nearest unit, bytes up.

    Raises:
        InvalidProblemError: more stages than layers, or a number out of range.
        MissingProfileDataError: the profile has no such setting.
    """
    count = len(profile.layers)
    if not 1 <= stages <= count:
        raise InvalidProblemError(f"{stages} stages cannot be cut from the {count} layers of {profile.source}.")
    if micro_batches < 1 or not memory_bytes > 0:
        raise InvalidProblemError("A pipeline needs at least one micro-batch and memory above 0.")
    modes = [_modes(variants) for variants in profile.at(setting)]
    fixed = [runs[0].fixed_bytes for runs in modes]
    redo = [max(run.fixed_bytes for run in runs) - plain for runs, plain in zip(modes, fixed, strict=True)]
    return PartitionProblem(
        stages=stages,
        time=tuple(tuple(round(run.time_s / NS) for run in runs) for runs in modes),
        live=tuple(tuple(_kib(run.in_flight_bytes) for run in runs) for runs in modes),
        fixed=tuple(_kib(value) for value in fixed),
        redo=tuple(_kib(value) for value in redo),
        in_flight=_in_flight(stages, micro_batches),
        capacity=(math.floor(memory_bytes / KIB),) * stages,
        sum_weight=1,
        max_weight=micro_batches - 1,
        counted=(True,) * count,
        least=1,
    )


def cut(
    profile: LayerProfile,
    setting: tuple[str, int, int],
    stages: int,
    micro_batches: int,
    memory_bytes: float,
    *,
    solver: str = "dp",
    limits: Limits = TO_COMPLETION,
) -> ProfiledStages:
    """Cut a profile into stages of least step time; without a feasible cut ``stages`` is empty and ``step_s`` infinite.

    Raises:
        InvalidProblemError, MissingProfileDataError: as ``partition_problem``; no such solver.
    """
    problem = partition_problem(profile, setting, stages, micro_batches, memory_bytes)
    found = choose(solvers(), solver).solve(problem, limits)
    if found.value is None:
        return ProfiledStages((), math.inf, found.bound * NS, found)
    modes = [_modes(variants) for variants in profile.at(setting)]
    need = problem.stage_need(found.value)
    out = []
    for s, (start, end) in enumerate(zip(found.value.cuts, found.value.cuts[1:], strict=False)):
        runs = [modes[i][found.value.modes[i]] for i in range(start, end)]
        load_s = math.fsum(run.time_s for run in runs)
        names = tuple(run.variant for run in runs)
        out.append(ProfiledStage(tuple(range(start, end)), names, load_s, problem.in_flight[s], float(need[s]) * KIB))
    loads = [stage.load_s for stage in out]
    step_s = math.fsum(loads) + (micro_batches - 1) * max(loads)
    return ProfiledStages(tuple(out), step_s, min(found.bound * NS, step_s), found)


def least_memory_bytes(profile: LayerProfile, setting: tuple[str, int, int], stages: int, micro_batches: int) -> float:
    """The least memory of a stage under which a cut into so many stages exists, to one part in a hundred."""
    low, high = 0.0, GIB
    while cut(profile, setting, stages, micro_batches, high).found.termination == Termination.INFEASIBLE:
        low, high = high, 2.0 * high
    while high - low > 0.01 * high:
        middle = 0.5 * (low + high)
        fits = cut(profile, setting, stages, micro_batches, middle).found.value is not None
        low, high = (low, middle) if fits else (middle, high)
    return high


def _modes(variants: tuple[LayerRun, ...]) -> list[LayerRun]:
    return sorted(variants, key=lambda run: (run.time_s, run.in_flight_bytes, run.variant))


def _in_flight(stages: int, micro_batches: int) -> tuple[int, ...]:
    return tuple(min(stages - s, micro_batches) for s in range(stages))


def _kib(n_bytes: float) -> int:
    return math.ceil(n_bytes / KIB)
