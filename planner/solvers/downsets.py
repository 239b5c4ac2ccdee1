"""Downward-closed sets of an acyclic graph: the states between two stages of a chain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...hardware_profiles.errors import InvalidProblemError

DEFAULT_LIMIT = 50_000


@dataclass(frozen=True, slots=True)
class Downsets:
    """All downward-closed sets, smaller ones first, and which contains which.

    Attributes:
        member: (sets, nodes) bool; masks: the same as integers; below: per set, the rows of its proper subsets.
    """

    member: NDArray[np.bool_]
    masks: tuple[int, ...]
    below: tuple[NDArray[np.int32], ...]

    def nodes_between(self, low: int, high: int) -> tuple[int, ...]:
        """Nodes of set ``high`` outside set ``low``."""
        return tuple(np.nonzero(self.member[high] & ~self.member[low])[0].tolist())


def enumerate_downsets(count: int, edges: Sequence[tuple[int, int]], limit: int = DEFAULT_LIMIT) -> Downsets:
    """Return the downward-closed sets of ``count`` nodes under ``edges`` (from, to).

    Raises:
        InvalidProblemError: there are more than ``limit``; their number grows exponentially with parallel branches.
    """
    before = [0] * count
    for source, target in edges:
        before[target] |= 1 << source
    masks = [0]
    level = [0]
    while level:
        larger: set[int] = set()
        for mask in level:
            larger.update(mask | 1 << v for v in range(count) if not mask >> v & 1 and not before[v] & ~mask)
        level = sorted(larger)
        masks += level
        if len(masks) > limit:
            raise InvalidProblemError(
                f"The graph of layers has more than {limit} downward-closed sets; merge layers of parallel branches."
            )
    size = -(-count // 8)
    packed = np.frombuffer(b"".join(mask.to_bytes(size, "little") for mask in masks), dtype=np.uint8)
    member = np.unpackbits(packed.reshape(len(masks), size), axis=1, bitorder="little")[:, :count].astype(bool)
    return Downsets(member, tuple(masks), _subsets(masks, count))


def _subsets(masks: Sequence[int], count: int) -> tuple[NDArray[np.int32], ...]:
    words = -(-count // 64)
    columns = [np.array([mask >> 64 * w & (1 << 64) - 1 for mask in masks], dtype=np.uint64) for w in range(words)]
    sizes = np.array([mask.bit_count() for mask in masks])
    first_of_size = np.searchsorted(sizes, sizes)  # only smaller sets can be proper subsets
    found = []
    for row in range(len(masks)):
        end = first_of_size[row]
        outside = np.zeros(end, dtype=np.uint64)
        for column in columns:
            outside |= column[:end] & ~column[row]
        found.append(np.nonzero(outside == 0)[0].astype(np.int32))
    return tuple(found)
