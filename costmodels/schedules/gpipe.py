"""GPipe: all forwards, then all backwards (Huang et al., arXiv 1811.06965)."""

from __future__ import annotations

from .passes import Pass, PassKind, PipelineSchedule, check_sizes, straight_path


def gpipe(n_devices: int, n_micro: int) -> PipelineSchedule:
    """Pass lists of GPipe; every device holds all micro-batches at once."""
    check_sizes("gpipe", n_devices, n_micro)
    order = tuple(Pass(kind, i) for kind in (PassKind.FORWARD, PassKind.BACKWARD) for i in range(n_micro))
    return PipelineSchedule("gpipe", (order,) * n_devices, straight_path(n_devices), (0,) * n_micro)
