"""Schedules of vocabulary parallelism: embedding and head split over all pipeline ranks (arXiv 2411.05288).

Built as the paper does: one micro-batch's passes form a block that repeats every interval (forward, backward and one
share of the vocabulary's passes); the last forward and its backward are pulled apart by as many intervals as there are
barriers, so that every barrier has an interval to finish in. Sorting a device's passes by the block's nominal time
gives its order.
"""

from __future__ import annotations

from .passes import Pass, PassKind, PipelineSchedule, check_sizes, straight_path

#: Nominal times of forward, backward, and the vocabulary's passes within an interval; only the order matters.
_FORWARD, _BACKWARD, _VOCABULARY = 2.0, 4.0, 1.0
_INTERVAL = _FORWARD + _BACKWARD + _VOCABULARY


def vocab_1(n_devices: int, n_micro: int) -> PipelineSchedule:
    """Two barriers: statistics of the softmax between S and T, the input gradient between T and the backward."""
    return _on_1f1b("vocab-1", n_devices, n_micro, barriers=2)


def vocab_2(n_devices: int, n_micro: int) -> PipelineSchedule:
    """One barrier: S holds both products of the input gradient, which is reduced with the statistics."""
    return _on_1f1b("vocab-2", n_devices, n_micro, barriers=1)


def _on_1f1b(name: str, n_devices: int, n_micro: int, barriers: int) -> PipelineSchedule:
    check_sizes(name, n_devices, n_micro)
    p = n_devices
    last = (p - 1) * _FORWARD + _FORWARD
    orders = []
    for d in range(p):
        back = last + barriers * _INTERVAL + (p - 1 - d) * (_INTERVAL - _FORWARD)
        first_back = last + barriers * _INTERVAL + (p - 1) * (_INTERVAL - _FORWARD) + _BACKWARD
        block = (
            (-_INTERVAL, PassKind.INPUT_FORWARD),
            (d * _FORWARD, PassKind.FORWARD),
            (last + _INTERVAL, PassKind.OUTPUT_T),  # beside the next micro-batch's S: one visit of the head's weights
            (last, PassKind.OUTPUT_S),
            (back, PassKind.BACKWARD),
            (first_back, PassKind.INPUT_BACKWARD),
        )
        orders.append(_repeat(block, n_micro))
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
        orders.append(_repeat(tuple((t * _INTERVAL, kind) for t, kind in block), n_micro))
    return PipelineSchedule("interlaced", tuple(orders), straight_path(p), (0,) * n_micro)


def _repeat(block: tuple[tuple[float, PassKind], ...], n_micro: int) -> tuple[Pass, ...]:
    """One device's order: the block's passes for every micro-batch, by nominal time, ties in the block's order."""
    timed = [(t + i * _INTERVAL, place, Pass(kind, i)) for i in range(n_micro) for place, (t, kind) in enumerate(block)]
    return tuple(one for _, _, one in sorted(timed))
