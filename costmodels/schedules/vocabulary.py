"""Schedules of vocabulary parallelism: embedding and head split over all pipeline ranks (arXiv 2411.05288).

Built as the paper does: one micro-batch's passes form a block that repeats every interval (forward, backward and one
share of the vocabulary's passes); the last forward and its backward are pulled apart by as many intervals as there are
barriers, so that every barrier has an interval to finish in. Sorting a device's passes by the block's nominal time
gives its order.
"""

from __future__ import annotations

from .passes import Pass, PassKind, PipelineSchedule, check_sizes, straight_path

#: Default relative times of forward, backward and a micro-batch's vocabulary passes; they matter for the order only.
COSTS = (2.0, 4.0, 1.0)
#: Share of an interval by which S follows the nominal end of the last forward: transfers have that long to arrive, and
#: the other passes of the interval still fit before the barrier is needed.
_SLACK = 0.25


def vocab_1(n_devices: int, n_micro: int, costs: tuple[float, float, float] = COSTS) -> PipelineSchedule:
    """Two barriers: statistics of the softmax between S and T, the input gradient between T and the backward."""
    return _on_1f1b("vocab-1", n_devices, n_micro, costs, barriers=2)


def vocab_2(n_devices: int, n_micro: int, costs: tuple[float, float, float] = COSTS) -> PipelineSchedule:
    """One barrier: S holds both products of the input gradient, which is reduced with the statistics."""
    return _on_1f1b("vocab-2", n_devices, n_micro, costs, barriers=1)


def _on_1f1b(
    name: str, n_devices: int, n_micro: int, costs: tuple[float, float, float], barriers: int
) -> PipelineSchedule:
    check_sizes(name, n_devices, n_micro)
    p, (forward, backward, vocabulary) = n_devices, costs
    interval = forward + backward + vocabulary
    last = p * forward
    output = last + _SLACK * interval
    orders = []
    for d in range(p):
        back = last + barriers * interval + (p - 1 - d) * (interval - forward)
        first_back = last + barriers * interval + (p - 1) * (interval - forward) + backward
        block = (
            (-interval, PassKind.INPUT_FORWARD),
            (d * forward, PassKind.FORWARD),
            (output + interval, PassKind.OUTPUT_T),  # beside the next micro-batch's S: one visit of the head's weights
            (output, PassKind.OUTPUT_S),
            (back, PassKind.BACKWARD),
            (first_back, PassKind.INPUT_BACKWARD),
        )
        orders.append(_repeat(block, n_micro, interval))
    return PipelineSchedule(name, tuple(orders), straight_path(p), (0,) * n_micro, barriers=barriers)


def interlaced(n_devices: int, n_micro: int) -> PipelineSchedule:
    """The head as a synchronous tensor-parallel operation of all ranks in every interval (paper's baseline).

    Forward moves two devices per interval (a device that runs forward first hands to one that runs it second),
    backward one device per interval; the first device holds 1.5 p micro-batches.
    """
    check_sizes("interlaced", n_devices, n_micro)
    p, slot = n_devices, 1.0 / 8.0
    start = (p - 1) // 2
    orders = []
    for d in range(p):
        behind = p - 1 - d
        forward_first = behind % 2 == 1
        block = (
            (-2.0 + 3 * slot, PassKind.INPUT_FORWARD),
            (start - behind // 2 + (0 if forward_first else slot), PassKind.FORWARD),
            (start + 2 * slot, PassKind.OUTPUT_HEAD),
            (start + 1 + behind + (slot if forward_first else 0), PassKind.BACKWARD),
            (start + p + 1 + 4 * slot, PassKind.INPUT_BACKWARD),
        )
        orders.append(_repeat(block, n_micro, 1.0))
    return PipelineSchedule("interlaced", tuple(orders), straight_path(p), (0,) * n_micro)


def _repeat(block: tuple[tuple[float, PassKind], ...], n_micro: int, interval: float) -> tuple[Pass, ...]:
    """One device's order: the block's passes for every micro-batch, by nominal time, ties in the block's order."""
    timed = [(t + i * interval, place, Pass(kind, i)) for i in range(n_micro) for place, (t, kind) in enumerate(block)]
    return tuple(one for _, _, one in sorted(timed))
