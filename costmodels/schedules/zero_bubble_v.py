"""ZB-V: two chunks per device in the shape of a V, backward split (Qi et al., arXiv 2401.10241, section 6)."""

from __future__ import annotations

from heapq import heappop, heappush

from .passes import Pass, PassKind, PipelineSchedule, Site, check_sizes

#: (kind, chunk) in the order in which a device prefers them: what another device waits for longest comes first.
_PREFERENCE = (
    (PassKind.INPUT_GRADIENT, 0),
    (PassKind.INPUT_GRADIENT, 1),
    (PassKind.FORWARD, 1),
    (PassKind.FORWARD, 0),
)


def zero_bubble_v(
    n_devices: int, n_micro: int, costs: tuple[float, float, float] = (1.0, 1.0, 1.0)
) -> PipelineSchedule:
    """Pass lists of ZB-V, built greedily for the relative times of F, B and W within p micro-batches of activations.

    A micro-batch visits devices 0 .. p-1 (chunk 0) and returns p-1 .. 0 (chunk 1). A free device runs the first ready
    pass of: backward of chunk 0, of chunk 1, forward of chunk 1, forward of chunk 0, weight gradient. With equal
    passes no schedule ends before ``6 m + p - 1`` of them (device p-1 starts p-1 late and has 6 m to do): met at
    p = 2 and 4, missed by one or two up to p = 8 and by four at p = 16, whatever m (tests/costmodels/schedules).

    Args:
        costs: F, B (input gradient) and W of a chunk in any unit, as the authors' scheduler takes them.
    """
    check_sizes("zb-v", n_devices, n_micro)
    orders = _Greedy(n_devices, n_micro, costs).run()
    path = tuple(Site(d, 0) for d in range(n_devices)) + tuple(Site(d, 1) for d in reversed(range(n_devices)))
    return PipelineSchedule("zb-v", orders, (path,), (0,) * n_micro, chunks=2)


class _Greedy:
    def __init__(self, n_devices: int, n_micro: int, costs: tuple[float, float, float]) -> None:
        self.p, self.m = n_devices, n_micro
        self.limit = 2 * n_devices
        forward, input_gradient, weight = costs
        self.cost = {
            PassKind.FORWARD: forward,
            PassKind.INPUT_GRADIENT: input_gradient,
            PassKind.WEIGHT_GRADIENT: weight,
        }
        self.orders: list[list[Pass]] = [[] for _ in range(n_devices)]
        self.held = [0] * n_devices
        self.weights: list[list[Pass]] = [[] for _ in range(n_devices)]
        # ends of the passes of a chunk, by micro-batch: a device runs them in that order
        self.ends: dict[tuple[PassKind, int], list[list[float]]] = {
            key: [[] for _ in range(n_devices)] for key in _PREFERENCE
        }

    def source(self, kind: PassKind, chunk: int, d: int) -> list[float] | None:
        """Ends of the passes whose output this one needs; None for the model's input."""
        down = (kind == PassKind.FORWARD) == (chunk == 0)
        before = d - 1 if down else d + 1
        if 0 <= before < self.p:
            return self.ends[kind, chunk][before]
        if kind == PassKind.FORWARD:
            return self.ends[kind, 0][d] if chunk else None
        return self.ends[PassKind.FORWARD, 1][d] if chunk else self.ends[kind, 1][d]

    def ready(self, kind: PassKind, chunk: int, d: int, now: float) -> bool:
        i = len(self.ends[kind, chunk][d])
        # chunk 1 may take the last place, so that a pipe full of chunk 0 always drains
        if i >= self.m or (kind == PassKind.FORWARD and self.held[d] >= self.limit - (chunk == 0)):
            return False
        source = self.source(kind, chunk, d)
        return source is None or (len(source) > i and source[i] <= now)

    def run(self) -> tuple[tuple[Pass, ...], ...]:
        events = [(0.0, d) for d in range(self.p)]
        busy_until = [0.0] * self.p
        while events:
            now, d = heappop(events)
            if busy_until[d] > now:
                continue
            key = self.choose(d, now)
            if key is None:
                continue  # the end of a neighbour's pass wakes it
            end = now + self.take(d, key, now)
            busy_until[d] = end
            for near in (d - 1, d, d + 1):
                if 0 <= near < self.p:
                    heappush(events, (end, near))
        return tuple(tuple(order) for order in self.orders)

    def choose(self, d: int, now: float) -> tuple[PassKind, int] | None:
        for kind, chunk in _PREFERENCE:
            if self.ready(kind, chunk, d, now):
                return kind, chunk
        return (PassKind.WEIGHT_GRADIENT, 0) if self.weights[d] else None

    def take(self, d: int, key: tuple[PassKind, int], now: float) -> float:
        """Put a pass into the device's order; its seconds."""
        kind, chunk = key
        seconds = self.cost[kind]
        if kind == PassKind.WEIGHT_GRADIENT:
            self.orders[d].append(self.weights[d].pop(0))
            self.held[d] -= 1
            return seconds
        ends = self.ends[key][d]
        self.orders[d].append(Pass(kind, len(ends), chunk))
        if kind == PassKind.FORWARD:
            self.held[d] += 1
        else:
            self.weights[d].append(Pass(PassKind.WEIGHT_GRADIENT, len(ends), chunk))
        ends.append(now + seconds)
        return seconds
