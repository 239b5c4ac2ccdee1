"""Seconds of every kind of pass, per device and model chunk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...hardware_profiles.errors import InvalidProblemError
from .passes import SHARDED_KINDS, PassKind, PipelineSchedule

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class PassTimes:
    """What a micro-batch costs on each device.

    Attributes:
        forward_s: one number, one per device, or an array (devices, chunks).
        backward_s: input and weight gradient together, same shapes.
        weight_gradient_s: the part of ``backward_s`` that a split backward runs later; half of it where not given.
        sharded_s: by kind, the vocabulary's passes; one number or one per device; a kind that occurs in a schedule
            but not here takes no time.
    """

    forward_s: ArrayLike
    backward_s: ArrayLike
    weight_gradient_s: ArrayLike | None = None
    sharded_s: Mapping[PassKind, ArrayLike] = field(default_factory=dict)

    def table(self, schedule: PipelineSchedule) -> dict[PassKind, list[list[float]]]:
        """``result[kind][device][chunk]`` for a schedule.

        Raises:
            InvalidProblemError: an array of a wrong shape, or a negative time.
        """
        shape = schedule.n_devices, schedule.chunks
        forward = _spread("forward_s", self.forward_s, shape)
        backward = _spread("backward_s", self.backward_s, shape)
        if self.weight_gradient_s is None:
            weight = 0.5 * backward
        else:
            weight = _spread("weight_gradient_s", self.weight_gradient_s, shape)
        arrays = {
            PassKind.FORWARD: forward,
            PassKind.BACKWARD: backward,
            PassKind.INPUT_GRADIENT: backward - weight,
            PassKind.WEIGHT_GRADIENT: weight,
        }
        for kind in SHARDED_KINDS:
            arrays[kind] = _spread(kind.name.lower() + "_s", self.sharded_s.get(kind, 0.0), shape)
        for kind, values in arrays.items():
            if not np.all(values >= 0.0):
                raise InvalidProblemError(f"the times of {kind.name.lower()} passes hold a negative one.")
        return {kind: values.tolist() for kind, values in arrays.items()}


def _spread(name: str, given: ArrayLike, shape: tuple[int, int]) -> Floats:
    values = np.asarray(given, dtype=np.float64)
    if values.ndim == 1:
        values = values[:, None]
    if values.ndim and values.shape not in (shape, (shape[0], 1)):
        raise InvalidProblemError(
            f"{name} has shape {np.shape(given)}; give one number, {shape[0]} values or an array of {shape}."
        )
    return np.array(np.broadcast_to(values, shape))
