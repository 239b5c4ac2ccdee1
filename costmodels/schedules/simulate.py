"""Event simulation of a pipeline schedule: when every pass of every device starts and ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from ...hardware_profiles.errors import InvalidProblemError
from .pass_times import Floats, PassTimes
from .passes import SHARDED_KINDS, PassKind, PipelineSchedule

_F, _B, _I, _W = PassKind.FORWARD, PassKind.BACKWARD, PassKind.INPUT_GRADIENT, PassKind.WEIGHT_GRADIENT
_S, _T, _HEAD = PassKind.OUTPUT_S, PassKind.OUTPUT_T, PassKind.OUTPUT_HEAD
_IN_F, _IN_B = PassKind.INPUT_FORWARD, PassKind.INPUT_BACKWARD


@dataclass(frozen=True)
class Simulation:
    """What the simulation saw.

    Attributes:
        schedule: what was simulated.
        start_s, end_s: per device an array over its order of passes, seconds from the first pass.
        makespan_s: end of the last pass.
    """

    schedule: PipelineSchedule
    start_s: tuple[Floats, ...]
    end_s: tuple[Floats, ...]

    @cached_property
    def makespan_s(self) -> float:
        """End of the last pass of all devices."""
        return max(float(end[-1]) for end in self.end_s)

    @cached_property
    def busy_s(self) -> Floats:
        """Time that each device spends in passes, shape (devices,)."""
        return np.array([float((e - s).sum()) for s, e in zip(self.start_s, self.end_s, strict=True)])

    @cached_property
    def bubble_s(self) -> Floats:
        """Time that each device waits between the step's start and its end, shape (devices,)."""
        return self.makespan_s - self.busy_s

    @property
    def bubble_fraction(self) -> float:
        """Waiting over all time of all devices."""
        return float(self.bubble_s.mean() / self.makespan_s)

    def in_flight(self, *, until_weight_gradient: bool = False) -> tuple[Floats, ...]:
        """Micro-batches whose activations each device holds after each pass of its order.

        A chunk counts by its share of the device's layers (1 / chunks; a copy of the model in DualPipe counts whole).
        Activations are freed by the backward, or by the weight gradient where ``until_weight_gradient`` is set:
        a split backward frees part of them at its first half and the rest at its second.
        """
        frees = {_B, _W} if until_weight_gradient else {_B, _I}
        share = 1.0 if len(self.schedule.paths) > 1 else 1.0 / self.schedule.chunks
        held = []
        for order in self.schedule.orders:
            steps = [share if one.kind == _F else (-share if one.kind in frees else 0.0) for one in order]
            held.append(np.cumsum(np.array(steps)))
        return tuple(held)

    def peak_in_flight(self, *, until_weight_gradient: bool = False) -> Floats:
        """Largest ``in_flight`` of each device, shape (devices,)."""
        return np.array([h.max(initial=0.0) for h in self.in_flight(until_weight_gradient=until_weight_gradient)])


def simulate(
    schedule: PipelineSchedule,
    times: PassTimes,
    p2p_s: ArrayLike = 0.0,
    *,
    blocking_sends: bool = False,
    barrier_s: float = 0.0,
    broadcast_s: float = 0.0,
) -> Simulation:
    """Run a schedule: a pass starts when its device is free and its inputs have arrived.

    Args:
        schedule: from ``registry.build_schedule``.
        times: seconds of each kind of pass per device and chunk.
        p2p_s: seconds of one transfer: one number; one per boundary (p - 1); one per boundary and one from the last
            device back to the first (p); or a matrix [from, to].
        blocking_sends: the sender's next pass waits until its transfer has ended (Megatron's 1F1B without
            ``overlap_p2p_comm``) instead of running beside it.
        barrier_s: all-reduce or reduce over all devices between the vocabulary's passes, and of the embedding's output;
            it runs beside passes.
        broadcast_s: the last layer's output to all devices before S or the head, and the embedding's gradient.

    Raises:
        InvalidProblemError: times of a wrong shape, or an order that can never finish.

    Leaves out: contention of transfers on one link, the optimizer's step, gradient reduction.
    """
    return _Run(schedule, times, _links(p2p_s, schedule.n_devices), blocking_sends, barrier_s, broadcast_s).result()


def _links(p2p_s: ArrayLike, p: int) -> list[list[float]]:
    """Seconds of a transfer between every two devices."""
    given = np.asarray(p2p_s, dtype=np.float64)
    if given.shape == (p, p):
        return [[float(x) for x in row] for row in given]
    out = np.full((p, p), np.inf)
    np.fill_diagonal(out, 0.0)
    if given.ndim == 0:
        out[:] = np.where(np.eye(p) > 0, 0.0, given)
    elif given.shape in ((p - 1,), (p,)):
        for s, one in enumerate(given):
            out[s, (s + 1) % p] = out[(s + 1) % p, s] = one
    else:
        raise InvalidProblemError(
            f"p2p_s has shape {given.shape}; give one number, {p - 1} boundaries, {p} with the way back, or a matrix."
        )
    return [[float(x) for x in row] for row in out]


class _Run:
    """State of one simulation. Ends of passes lie in flat lists, -1 where a pass has not run."""

    def __init__(
        self,
        schedule: PipelineSchedule,
        times: PassTimes,
        links: list[list[float]],
        blocking: bool,
        barrier_s: float,
        broadcast_s: float,
    ) -> None:
        self.schedule, self.links, self.blocking = schedule, links, blocking
        self.barrier_s, self.broadcast_s = barrier_s, broadcast_s
        self.durations = times.table(schedule)
        p, m = schedule.n_devices, schedule.n_micro
        self.length = max(len(path) for path in schedule.paths)
        self.position = [{site: k for k, site in enumerate(path)} for path in schedule.paths]
        self.forward = [-1.0] * (m * self.length)
        self.backward = [-1.0] * (m * self.length)
        # of each micro-batch's sharded passes: how many devices are through, and when the last one was
        self.through = {kind: [0] * m for kind in SHARDED_KINDS}
        self.latest = {kind: [0.0] * m for kind in SHARDED_KINDS}
        self.head_arrivals: list[list[tuple[int, float]]] = [[] for _ in range(m)]
        self.clock = [0.0] * p
        self.at = [0] * p
        self.start: list[list[float]] = [[] for _ in range(p)]
        self.end: list[list[float]] = [[] for _ in range(p)]

    def result(self) -> Simulation:
        orders, p = self.schedule.orders, self.schedule.n_devices
        left = sum(len(order) for order in orders)
        while left:
            before = left
            for d in range(p):
                left -= self.advance(d)
            if left == before:
                stuck = [f"device {d}: {orders[d][k]}" for d, k in enumerate(self.at) if k < len(orders[d])]
                raise InvalidProblemError(f"schedule {self.schedule.name} can never finish; waiting: {stuck[0]}.")
        return Simulation(self.schedule, tuple(np.array(s) for s in self.start), tuple(np.array(e) for e in self.end))

    def advance(self, d: int) -> int:
        """Run passes of one device until one has to wait; how many passes have ended, on other devices too."""
        order, n = self.schedule.orders[d], 0
        while self.at[d] < len(order):
            kind, i, chunk = order[self.at[d]]
            if kind == _HEAD:
                ended = self.meet(d, i)
                n += ended
                if not ended:
                    break
                continue
            ready = self.input_ready(kind, i, chunk, d)
            if ready < 0.0:
                break
            self.run(d, kind, i, chunk, ready)
            n += 1
        return n

    def run(self, d: int, kind: PassKind, i: int, chunk: int, ready: float) -> None:
        begin = max(self.clock[d], ready)
        done = begin + self.durations[kind][d][chunk]
        self.start[d].append(begin)
        self.end[d].append(done)
        self.at[d] += 1
        sent = 0.0
        if kind in SHARDED_KINDS:
            self.through[kind][i] += 1
            self.latest[kind][i] = max(self.latest[kind][i], done)
        elif kind != _W:
            way = self.schedule.path_of[i]
            path = self.schedule.paths[way]
            k = self.position[way][d, chunk]  # type: ignore[index]  # a Site compares equal to its tuple
            if kind == _F:
                self.forward[i * self.length + k] = done
                sent = self.links[d][path[k + 1].device] if k + 1 < len(path) else 0.0
            else:
                self.backward[i * self.length + k] = done
                sent = self.links[d][path[k - 1].device] if k > 0 else 0.0
        self.clock[d] = done + (sent if self.blocking else 0.0)

    def input_ready(self, kind: PassKind, i: int, chunk: int, d: int) -> float:
        """When the inputs of a pass are on its device; negative: not yet known."""
        if kind in SHARDED_KINDS:
            return self.sharded_ready(kind, i)
        way = self.schedule.path_of[i]
        path = self.schedule.paths[way]
        k = self.position[way][d, chunk]  # type: ignore[index]
        here = i * self.length + k
        if kind == _W:
            return self.backward[here]
        if kind == _F:
            if k == 0:
                return self.collective(_IN_F, i, self.barrier_s) if _IN_F in self.schedule.kinds else 0.0
            before = self.forward[here - 1]
            return before if before < 0.0 else before + self.links[path[k - 1].device][d]
        if k + 1 < len(path):
            after = self.backward[here + 1]
            return after if after < 0.0 else after + self.links[path[k + 1].device][d]
        kinds = self.schedule.kinds
        if _HEAD in kinds:
            return self.collective(_HEAD, i, 0.0)
        if _S in kinds:
            return self.collective(_T if self.schedule.barriers == 2 else _S, i, self.barrier_s)
        return self.forward[here]

    def sharded_ready(self, kind: PassKind, i: int) -> float:
        if kind == _IN_F:
            return 0.0
        if kind == _T:
            return self.collective(_S, i, self.barrier_s)
        path = self.schedule.paths[self.schedule.path_of[i]]
        source = self.backward[i * self.length] if kind == _IN_B else self.forward[i * self.length + len(path) - 1]
        return source if source < 0.0 else source + self.broadcast_s

    def collective(self, kind: PassKind, i: int, seconds: float) -> float:
        """End of a collective over what all devices computed; negative: some device is not through."""
        if self.through[kind][i] < self.schedule.n_devices:
            return -1.0
        return self.latest[kind][i] + seconds

    def meet(self, d: int, i: int) -> int:
        """A synchronous head: all devices start and end together; how many passes have ended (all or none)."""
        arrived = self.head_arrivals[i]
        if all(one != d for one, _ in arrived):
            arrived.append((d, self.clock[d]))
        ready = self.sharded_ready(_HEAD, i)
        if len(arrived) < self.schedule.n_devices or ready < 0.0:
            return 0
        begin = max(ready, max(clock for _, clock in arrived))
        done = begin + max(self.durations[_HEAD][one][0] for one, _ in arrived)
        for one, _ in arrived:
            self.start[one].append(begin)
            self.end[one].append(done)
            self.at[one] += 1
            self.clock[one] = done
        self.through[_HEAD][i], self.latest[_HEAD][i] = len(arrived), done
        return len(arrived)


def device_order(simulation: Simulation, device: int) -> Sequence[tuple[PassKind, int, int, float, float]]:
    """One device's passes as (kind, micro-batch, chunk, start, end), in order."""
    order = simulation.schedule.orders[device]
    start, end = simulation.start_s[device], simulation.end_s[device]
    return [(*one, float(s), float(e)) for one, s, e in zip(order, start, end, strict=True)]
