"""DualPipe: two copies of the model, micro-batches fed from both ends (DeepSeek-V3: arXiv 2412.19437, 3.2.1)."""

from __future__ import annotations

from ...hardware_profiles.errors import InvalidProblemError
from .passes import Pass, PassKind, PipelineSchedule, Site, check_sizes


def dualpipe(n_devices: int, n_micro: int) -> PipelineSchedule:
    """Pass lists of DualPipe; chunk 0 of a device belongs to the copy fed at device 0, chunk 1 to the other copy.

    Even micro-batches enter at device 0, odd ones at device p - 1. A forward and a backward that DeepSeek runs as one
    overlapped pair are two passes in a row here: what overlapping saves belongs into the times of the passes.

    Raises:
        InvalidProblemError: an odd number of devices or micro-batches, or fewer than two micro-batches per device.
    """
    check_sizes("dualpipe", n_devices, n_micro)
    if n_devices % 2 or n_micro % 2 or n_micro < 2 * n_devices:
        raise InvalidProblemError(
            "DualPipe needs an even number of stages and an even number of micro-batches, at least two per stage; "
            f"got {n_devices} stages and {n_micro} micro-batches."
        )
    down = tuple(Site(d, 0) for d in range(n_devices))
    up = tuple(Site(d, 1) for d in reversed(range(n_devices)))
    orders = tuple(_Builder(d, n_devices, n_micro).order() for d in range(n_devices))
    return PipelineSchedule("dualpipe", orders, (down, up), tuple(i % 2 for i in range(n_micro)), chunks=2)


class _Builder:
    """Writes one device's list; direction 0 is the one that enters at the device's own half of the pipeline."""

    def __init__(self, device: int, n_devices: int, n_micro: int) -> None:
        self.half = n_devices // 2
        self.near = min(device, n_devices - 1 - device)
        self.flip = device >= self.half
        self.per_way = n_micro // 2
        self.n_devices = n_devices
        self.passes: list[Pass] = []
        self.forwards, self.backwards = [0, 0], [0, 0]
        self.pending: list[Pass] = []

    def forward(self, way: int) -> None:
        chunk = way ^ self.flip
        self.passes.append(Pass(PassKind.FORWARD, 2 * self.forwards[way] + chunk, chunk))
        self.forwards[way] += 1

    def backward(self, way: int, *, split: bool = False) -> None:
        chunk = way ^ self.flip
        i = 2 * self.backwards[way] + chunk
        self.backwards[way] += 1
        self.passes.append(Pass(PassKind.INPUT_GRADIENT, i, chunk))
        self.pending.append(Pass(PassKind.WEIGHT_GRADIENT, i, chunk))
        if not split:
            self.weight()

    def weight(self) -> None:
        self.passes.append(self.pending.pop(0))

    def order(self) -> tuple[Pass, ...]:
        """The eight phases: fill from both ends, pairs of forward and backward, drain with weight gradients."""
        gap = self.half - self.near - 1
        for _ in range(2 * gap):
            self.forward(0)
        for _ in range(self.near + 1):
            self.forward(0)
            self.forward(1)
        for _ in range(gap):
            self.backward(1, split=True)
            self.weight()
            self.forward(1)
        for _ in range(self.per_way - self.n_devices + self.near + 1):
            self.forward(0)
            self.backward(1)
            self.forward(1)
            self.backward(0)
        for _ in range(gap):
            self.backward(1)
            self.forward(1)
            self.backward(0)
        split = False
        for i in range(self.near + 1):
            middle = i == (self.near + 1) // 2
            split = split or (middle and self.near % 2 == 1)
            self.backward(1, split=split)
            split = split or (middle and self.near % 2 == 0)
            self.backward(0, split=split)
        for _ in range(gap):
            self.weight()
            self.backward(0, split=True)
        while self.pending:
            self.weight()
        return tuple(self.passes)
