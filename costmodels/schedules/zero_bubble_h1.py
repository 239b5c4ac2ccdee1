"""ZB-H1: 1F1B with backward split, weight gradients filling the drain (Qi et al., arXiv 2401.10241, section 2.2)."""

from __future__ import annotations

from .passes import Pass, PassKind, PipelineSchedule, check_sizes, straight_path


def zero_bubble_h1(n_devices: int, n_micro: int) -> PipelineSchedule:
    """Pass lists of ZB-H1: 1F1B's order of F and B; device s leaves its first s weight gradients for the drain.

    Every device then holds at most p micro-batches until their weight gradient, 1F1B's largest count.
    """
    check_sizes("zb-h1", n_devices, n_micro)
    orders = tuple(_order(n_devices - s - 1, s, n_micro) for s in range(n_devices))
    return PipelineSchedule("zb-h1", orders, straight_path(n_devices), (0,) * n_micro)


def _order(behind: int, ahead: int, n_micro: int) -> tuple[Pass, ...]:
    warm, delay = min(behind, n_micro), min(ahead, n_micro)
    order = [Pass(PassKind.FORWARD, i) for i in range(warm)]
    done = 0
    for i in range(n_micro - warm):
        order += [Pass(PassKind.FORWARD, warm + i), Pass(PassKind.INPUT_GRADIENT, i)]
        if i >= delay:
            order.append(Pass(PassKind.WEIGHT_GRADIENT, done))
            done += 1
    for i in range(n_micro - warm, n_micro):
        order += [Pass(PassKind.INPUT_GRADIENT, i), Pass(PassKind.WEIGHT_GRADIENT, done)]
        done += 1
    return tuple(order + [Pass(PassKind.WEIGHT_GRADIENT, i) for i in range(done, n_micro)])
