"""Local search on the other objective of interleaved partitions: the busiest stage over all of its chunks.

``PartitionDp`` makes the largest chunk small, which is what a schedule of unequal chunks waits for. The estimate's
closed form counts the largest sum of a stage's chunks instead. This moves single pieces between neighbouring chunks
while that sum falls and no chunk grows beyond a cap; it proves nothing.
"""

from __future__ import annotations

import numpy as np

from .partition import Ints, Partition, PartitionProblem


def stage_times(problem: PartitionProblem, value: Partition) -> Ints:
    """Time of every stage over its chunks."""
    total: Ints = problem.chunk_times(value).reshape(problem.vp, problem.stages).sum(axis=0)
    return total


def balance_stages(problem: PartitionProblem, value: Partition, largest_chunk: int) -> Partition:
    """Move cuts by one piece at a time, always the move that helps most, until none does.

    Better is: a smaller largest stage, then a smaller sum of squares over stages (which lets a move help that leaves
    one of several equally busy stages). Every value on the way keeps all rules of the problem.

    Args:
        largest_chunk: no chunk may take longer.
    """
    key, best = _key(problem, value), value
    while True:
        moves = []
        for c in range(1, problem.chunks):
            for step in (-1, 1):
                cuts = (*best.cuts[:c], best.cuts[c] + step, *best.cuts[c + 1 :])
                if not cuts[c - 1] <= cuts[c] <= cuts[c + 1]:
                    continue
                modes = problem.leading_modes(cuts) if problem.leading is not None else best.modes
                moved = Partition(cuts, modes)
                if int(problem.chunk_times(moved).max()) <= largest_chunk and _key(problem, moved) < key:
                    moves.append((_key(problem, moved), cuts, moved))
        for new_key, _, moved in sorted(moves, key=lambda m: m[:2]):
            if not problem.problems_of(moved):
                key, best = new_key, moved
                break
        else:
            return best


def _key(problem: PartitionProblem, value: Partition) -> tuple[int, int]:
    times = stage_times(problem, value)
    return int(times.max()), int(np.sum((times - times.mean()) ** 2))
