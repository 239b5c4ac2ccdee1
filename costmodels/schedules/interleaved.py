"""Interleaved 1F1B: several model chunks per device (Narayanan et al., arXiv 2104.04473, section 2.2)."""

from __future__ import annotations

from ...hardware_profiles.errors import InvalidProblemError
from .passes import Pass, PassKind, PipelineSchedule, check_sizes, straight_path


def interleaved(n_devices: int, n_micro: int, chunks: int) -> PipelineSchedule:
    """Megatron-LM's order: groups of p micro-batches visit chunk after chunk.

    Device s runs ``2 (p - s - 1) + (v - 1) p`` forwards before its first backward.

    Raises:
        InvalidProblemError: the micro-batches do not divide into groups of ``n_devices``.
    """
    check_sizes("interleaved", n_devices, n_micro)
    if chunks < 1 or n_micro % n_devices:
        raise InvalidProblemError(
            f"interleaved 1F1B needs micro-batches in groups of {n_devices} stages and at least one chunk; "
            f"got {n_micro} micro-batches and {chunks} chunks."
        )
    group = n_devices * chunks

    def visit(k: int) -> tuple[int, int]:
        chunk, i = divmod(k % group, n_devices)
        return k // group * n_devices + i, chunk

    total = n_micro * chunks
    forwards = [Pass(PassKind.FORWARD, *visit(k)) for k in range(total)]
    backwards = [Pass(PassKind.BACKWARD, i, chunks - 1 - v) for i, v in map(visit, range(total))]
    orders = []
    for s in range(n_devices):
        warm = min(2 * (n_devices - s - 1) + (chunks - 1) * n_devices, total)
        order = forwards[:warm]
        for k in range(total - warm):
            order += [forwards[warm + k], backwards[k]]
        orders.append(tuple(order + backwards[total - warm :]))
    return PipelineSchedule(
        "interleaved", tuple(orders), straight_path(n_devices, chunks), (0,) * n_micro, chunks=chunks
    )
