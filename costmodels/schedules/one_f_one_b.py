"""1F1B: as many forwards as stages lie behind, then one forward, one backward (PipeDream-flush, arXiv 2006.09503)."""

from __future__ import annotations

from .passes import Pass, PassKind, PipelineSchedule, check_sizes, straight_path


def one_f_one_b(n_devices: int, n_micro: int) -> PipelineSchedule:
    """Pass lists of 1F1B; device s holds ``min(m, p - s)`` micro-batches."""
    check_sizes("1f1b", n_devices, n_micro)
    orders = tuple(_order(n_devices - s - 1, n_micro) for s in range(n_devices))
    return PipelineSchedule("1f1b", orders, straight_path(n_devices), (0,) * n_micro)


def _order(behind: int, n_micro: int) -> tuple[Pass, ...]:
    warm = min(behind, n_micro)
    order = [Pass(PassKind.FORWARD, i) for i in range(warm)]
    for i in range(n_micro - warm):
        order += [Pass(PassKind.FORWARD, warm + i), Pass(PassKind.BACKWARD, i)]
    return tuple(order + [Pass(PassKind.BACKWARD, i) for i in range(n_micro - warm, n_micro)])
