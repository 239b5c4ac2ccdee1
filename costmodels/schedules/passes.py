"""What a pipeline schedule is: for every device an ordered list of passes, and the paths that micro-batches take."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import NamedTuple

from ...hardware_profiles.errors import InvalidProblemError


class PassKind(IntEnum):
    """Kinds of work of a device.

    ``BACKWARD`` computes both gradients; a schedule that splits it runs ``INPUT_GRADIENT`` (on the critical path)
    and ``WEIGHT_GRADIENT`` (any time later). The last five belong to vocabulary parallelism, where every device
    holds a shard of embedding and head (arXiv 2411.05288): ``OUTPUT_S`` local logits, maximum and sum,
    ``OUTPUT_T`` the gradients that follow, ``OUTPUT_HEAD`` the head as one synchronous tensor-parallel operation,
    ``INPUT_FORWARD`` and ``INPUT_BACKWARD`` the embedding.
    """

    FORWARD = 0
    BACKWARD = 1
    INPUT_GRADIENT = 2
    WEIGHT_GRADIENT = 3
    OUTPUT_S = 4
    OUTPUT_T = 5
    OUTPUT_HEAD = 6
    INPUT_FORWARD = 7
    INPUT_BACKWARD = 8


#: Kinds that run on every device for a micro-batch, whatever its path.
SHARDED_KINDS = frozenset(
    (PassKind.OUTPUT_S, PassKind.OUTPUT_T, PassKind.OUTPUT_HEAD, PassKind.INPUT_FORWARD, PassKind.INPUT_BACKWARD)
)


class Pass(NamedTuple):
    """One piece of work: its kind, its micro-batch, and the model chunk of the device (0 for sharded kinds)."""

    kind: PassKind
    micro_batch: int
    chunk: int = 0


class Site(NamedTuple):
    """A model chunk on a device."""

    device: int
    chunk: int


@dataclass(frozen=True)
class PipelineSchedule:
    """A schedule of one step.

    Attributes:
        name: key in the registry.
        orders: ``orders[device]``, the passes in the order in which the device runs them.
        paths: the sequences of model chunks that a forward pass visits (DualPipe has two, the others one).
        path_of: for every micro-batch the number of its path.
        chunks: model chunks per device.
        barriers: of vocabulary parallelism, between the last forward and its backward: 0 (none), 1, 2.
    """

    name: str
    orders: tuple[tuple[Pass, ...], ...]
    paths: tuple[tuple[Site, ...], ...]
    path_of: tuple[int, ...]
    chunks: int = 1
    barriers: int = 0

    @property
    def n_devices(self) -> int:
        """Pipeline ranks."""
        return len(self.orders)

    @property
    def n_micro(self) -> int:
        """Micro-batches of a step."""
        return len(self.path_of)

    @cached_property
    def kinds(self) -> frozenset[PassKind]:
        """Kinds of passes that occur."""
        return frozenset(one.kind for order in self.orders for one in order)


def straight_path(n_devices: int, chunks: int = 1) -> tuple[tuple[Site, ...], ...]:
    """One path through the devices in order, chunk after chunk (Megatron's placement)."""
    return (tuple(Site(d, v) for v in range(chunks) for d in range(n_devices)),)


def check_sizes(name: str, n_devices: int, n_micro: int) -> None:
    """Raise ``InvalidProblemError`` for a pipeline without devices or micro-batches."""
    if n_devices < 1 or n_micro < 1:
        raise InvalidProblemError(
            f"schedule {name} needs at least one stage and one micro-batch; got {n_devices} and {n_micro}."
        )
