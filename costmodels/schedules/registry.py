"""Schedules by name, and which one a configuration runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ...hardware_profiles.errors import InvalidProblemError
from ..parallel import Schedule, VocabParallel
from .dualpipe import dualpipe
from .gpipe import gpipe
from .interleaved import interleaved
from .one_f_one_b import one_f_one_b
from .passes import PipelineSchedule
from .vocabulary import interlaced, vocab_1, vocab_2
from .zero_bubble_h1 import zero_bubble_h1
from .zero_bubble_v import zero_bubble_v

#: name -> builder of (devices, micro-batches); ``interleaved`` takes the chunks as well, some take relative costs.
SCHEDULES: Mapping[str, Callable[..., PipelineSchedule]] = {
    "1f1b": one_f_one_b,
    "gpipe": gpipe,
    "interleaved": interleaved,
    "zb-h1": zero_bubble_h1,
    "zb-v": zero_bubble_v,
    "dualpipe": dualpipe,
    "vocab-1": vocab_1,
    "vocab-2": vocab_2,
    "interlaced": interlaced,
}

_OF_CODE = {
    Schedule.ONE_F_ONE_B: "1f1b",
    Schedule.GPIPE: "gpipe",
    Schedule.ZERO_BUBBLE_H1: "zb-h1",
    Schedule.ZERO_BUBBLE_V: "zb-v",
}


#: Schedules of a vocabulary split over the pipeline.
SPLIT_VOCABULARY = {
    VocabParallel.TWO_BARRIERS: "vocab-1",
    VocabParallel.ONE_BARRIER: "vocab-2",
    VocabParallel.INTERLACED: "interlaced",
}


def build_schedule(
    name: str,
    n_devices: int,
    n_micro: int,
    chunks: int = 1,
    costs: tuple[float, float, float] | None = None,
) -> PipelineSchedule:
    """A schedule by its name in ``SCHEDULES``.

    Args:
        chunks: model chunks per device, for ``interleaved``; the others have their own number.
        costs: relative times for which an order is built: of forward, input and weight gradient for ``zb-v``; of
            forward, backward and a device's vocabulary passes for ``vocab-1`` and ``vocab-2``.

    Raises:
        InvalidProblemError: an unknown name, or sizes that the schedule does not take.
    """
    if name not in SCHEDULES:
        raise InvalidProblemError(f"there is no schedule {name!r}; known: {', '.join(SCHEDULES)}.")
    if name == "interleaved":
        return interleaved(n_devices, n_micro, chunks)
    if costs is not None and name in ("zb-v", "vocab-1", "vocab-2"):
        return SCHEDULES[name](n_devices, n_micro, costs)
    return SCHEDULES[name](n_devices, n_micro)


def schedule_name(config: Any) -> str:
    """The name in ``SCHEDULES`` of what one ``ParallelConfig`` runs."""
    if config.vocab_parallel:
        return SPLIT_VOCABULARY[VocabParallel(config.vocab_parallel)]
    if config.vp > 1 and config.schedule == Schedule.ONE_F_ONE_B:
        return "interleaved"
    return _OF_CODE[Schedule(config.schedule)]
