"""Pipeline partition as an integer problem: pieces in a row, cut into stages, a recompute mode for each.

Minimise ``sum_weight * sum_c t_c + max_weight * max_c t_c`` over chunks ``c``. With 1 and ``m - 1`` that is the
critical path of 1F1B over ``m`` micro-batches (docs/stages.md). The solvers: ``partition_dp`` (own, exact), and CP-SAT,
HiGHS and CBC through ``partition_linear``.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .base import LinearSolver, Solver, backends

Ints = NDArray[np.int64]
#: Totals stay below this, so that sums of them never overflow 64 bits.
LARGEST = 2**52


@dataclass(frozen=True, slots=True)
class Partition:
    """An answer.

    Attributes:
        cuts: chunk ``c`` holds pieces ``cuts[c]`` to ``cuts[c + 1] - 1``; first 0, last the number of pieces.
        modes: chosen mode of every piece.
    """

    cuts: tuple[int, ...]
    modes: tuple[int, ...]

    def chunk_of_piece(self) -> Ints:
        """Chunk number of every piece."""
        sizes = np.diff(self.cuts)
        return np.repeat(np.arange(len(sizes)), sizes)


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionProblem:
    """Pieces to cut; every number is a whole one in units of the caller's choice.

    Chunk ``c`` lies on stage ``c % stages``; with ``vp`` 1 chunks are stages. A stage must satisfy

    ``sum fixed + in_flight * sum live[mode] + working_sets * (max peak + max redo) + stage_bytes <= capacity`` and
    ``sum update + stage_bytes <= capacity``,

    where ``redo`` counts only on a stage with a piece outside its first mode.

    Attributes:
        stages, vp: pipeline stages and chunks on each.
        time: seconds of every piece by mode, the first the fastest: ``time[i][r]``. A piece may have one mode only.
        live: bytes kept per micro-batch in flight, as ``time``.
        fixed, update, peak, redo: bytes of every piece: always; in all while the optimizer steps (0: no such limit);
            short-lived; short-lived while a layer is recomputed.
        in_flight, capacity, working_sets, stage_time, stage_bytes: one entry per stage.
        sum_weight, max_weight: of the objective.
        leading: None lets every piece choose its mode; a number puts that many of a chunk's pieces with several modes,
            from its beginning, into their second mode and the others into their first (Megatron-LM's block method).
        counted: which pieces count for ``least`` (layers); least: fewest of them on a chunk. 0 allows empty chunks.
        pins: stage of single pieces; forbidden_cuts: pieces that no chunk may begin with; together: pairs of pieces
            on one stage (tied embedding and head).
    """

    stages: int
    time: tuple[tuple[int, ...], ...]
    live: tuple[tuple[int, ...], ...]
    fixed: tuple[int, ...]
    in_flight: tuple[int, ...]
    capacity: tuple[int, ...]
    vp: int = 1
    update: tuple[int, ...] = ()
    peak: tuple[int, ...] = ()
    redo: tuple[int, ...] = ()
    working_sets: tuple[int, ...] = ()
    stage_time: tuple[int, ...] = ()
    stage_bytes: tuple[int, ...] = ()
    sum_weight: int = 1
    max_weight: int = 0
    leading: int | None = None
    counted: tuple[bool, ...] = ()
    least: int = 0
    pins: Mapping[int, int] = field(default_factory=dict)
    forbidden_cuts: tuple[int, ...] = ()
    together: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        n, s = len(self.time), self.stages
        if n < 1 or s < 1 or self.vp < 1:
            raise ValueError("a partition needs a piece, a stage and a chunk")
        for name, value, size in (
            ("update", 0, n), ("peak", 0, n), ("redo", 0, n), ("working_sets", 1, s), ("stage_time", 0, s),
            ("stage_bytes", 0, s), ("counted", True, n),
        ):  # fmt: skip
            if not getattr(self, name):
                object.__setattr__(self, name, (value,) * size)
        for name in ("live", "fixed", "update", "peak", "redo", "counted"):
            _sized(name, getattr(self, name), n, "piece")
        for name in ("in_flight", "capacity", "working_sets", "stage_time", "stage_bytes"):
            _sized(name, getattr(self, name), s, "stage")
        self._check_numbers()
        if any(not 0 <= p < n or not 0 <= at < s for p, at in self.pins.items()):
            raise ValueError("a pin names a piece or a stage that does not exist")
        if any(not 0 < c < n for c in self.forbidden_cuts) or any(not 0 <= a < b < n for a, b in self.together):
            raise ValueError("a forbidden cut or a pair names a piece that does not exist, or a pair is not in order")

    def _check_numbers(self) -> None:
        for i, (times, lives) in enumerate(zip(self.time, self.live, strict=True)):
            if not times or len(times) != len(lives):
                raise ValueError(f"piece {i} has {len(times)} times and {len(lives)} live bytes; give one of each mode")
            if times[0] != min(times):
                raise ValueError(f"piece {i} has a mode faster than its first; put the fastest first")
        numbers = [v for row in (*self.time, *self.live) for v in row]
        for name in ("fixed", "update", "peak", "redo", "in_flight", "working_sets", "stage_time", "stage_bytes"):
            numbers += getattr(self, name)
        numbers += [self.sum_weight, self.max_weight, self.least, self.leading or 0]
        if any(v != int(v) or v < 0 for v in numbers):
            raise ValueError("times, bytes and weights must be whole numbers of at least 0")
        worst = sum(max(t) for t in self.time) + self.vp * sum(self.stage_time)
        deep = max(self.in_flight) * sum(max(v) for v in self.live) + sum(self.fixed) + sum(self.update)
        deep += max(self.working_sets) * (max(self.peak) + max(self.redo)) + max(map(abs, self.capacity))
        if max(worst * max(self.sum_weight + self.max_weight, 1), deep) > LARGEST:
            raise ValueError(f"the totals exceed {LARGEST}; use larger units")

    @property
    def n(self) -> int:
        """Number of pieces."""
        return len(self.time)

    @property
    def chunks(self) -> int:
        """Number of chunks."""
        return self.stages * self.vp

    def no_cut(self) -> frozenset[int]:
        """Pieces that no chunk may begin with; with ``vp`` 1 a pair on one stage forbids every cut between."""
        found = set(self.forbidden_cuts)
        if self.vp == 1:
            for a, b in self.together:
                found |= set(range(a + 1, b + 1))
        return frozenset(found)

    def leading_modes(self, cuts: Sequence[int]) -> tuple[int, ...]:
        """Modes that ``leading`` prescribes for some cuts."""
        modes = [0] * self.n
        for start, end in itertools.pairwise(cuts):
            movable = [i for i in range(start, end) if len(self.time[i]) > 1]
            for i in movable[: self.leading or 0]:
                modes[i] = 1
        return tuple(modes)

    # -- pricing ----------------------------------------------------------------------------------
    def chunk_times(self, value: Partition) -> Ints:
        """Time of every chunk."""
        times = np.array([self.time[i][r] for i, r in enumerate(value.modes)], dtype=np.int64)
        total = np.tile(np.asarray(self.stage_time, dtype=np.int64), self.vp)
        np.add.at(total, value.chunk_of_piece(), times)
        return total

    def objective(self, value: Partition) -> float:
        """Cost of an answer, feasible or not."""
        times = self.chunk_times(value)
        return float(self.sum_weight * int(times.sum()) + self.max_weight * int(times.max()))

    def stage_need(self, value: Partition) -> Ints:
        """Bytes that every stage needs: the larger of both limits' left sides."""
        need = np.zeros(self.stages, dtype=np.int64)
        of = value.chunk_of_piece() % self.stages
        for s in range(self.stages):
            mine = np.flatnonzero(of == s)
            moved = any(value.modes[i] for i in mine)
            short = max((self.peak[i] for i in mine), default=0)
            short += max((self.redo[i] for i in mine), default=0) if moved else 0
            live = sum(self.live[i][value.modes[i]] for i in mine)
            busy = sum(self.fixed[i] for i in mine) + self.in_flight[s] * live + self.working_sets[s] * short
            need[s] = self.stage_bytes[s] + max(busy, sum(self.update[i] for i in mine))
        return need

    def problems_of(self, value: Partition) -> list[str]:
        """What an answer breaks, in words; empty where it is feasible."""
        cuts, n = value.cuts, self.n
        if len(cuts) != self.chunks + 1 or cuts[0] != 0 or cuts[-1] != n or list(cuts) != sorted(cuts):
            return [f"cuts {cuts} do not deal {n} pieces to {self.chunks} chunks"]
        if len(value.modes) != n or any(not 0 <= r < len(self.time[i]) for i, r in enumerate(value.modes)):
            return ["a piece has no such mode"]
        stage = value.chunk_of_piece() % self.stages
        if self.leading is not None and value.modes != self.leading_modes(cuts):
            return [f"not the first {self.leading} layers of every chunk have left their first mode"]
        broken = [f"a chunk begins with piece {c}" for c in cuts[1:-1] if c in self.no_cut()]
        broken += [f"piece {p} is not on stage {at}" for p, at in self.pins.items() if stage[p] != at]
        broken += [f"pieces {a} and {b} are apart" for a, b in self.together if stage[a] != stage[b]]
        for c, (start, end) in enumerate(itertools.pairwise(cuts)):
            if sum(self.counted[start:end]) < self.least:
                broken.append(f"chunk {c} has fewer than {self.least} layers")
        need = self.stage_need(value)
        broken += [f"stage {s} needs {need[s]} of {self.capacity[s]}" for s in np.flatnonzero(need > self.capacity)]
        return broken


def _sized(name: str, value: Sequence[Any], size: int, of: str) -> None:
    if len(value) != size:
        raise ValueError(f"{name} has {len(value)} entries; it needs one for each {of}, {size}")


def solvers() -> Mapping[str, Solver[PartitionProblem, Partition]]:
    """Solvers of this kind of problem: the own kernel first, then the generic ones."""
    from .partition_dp import PartitionDp
    from .partition_linear import build, read

    generic = {
        name: LinearSolver(name, backend, build, read, PartitionProblem.objective)
        for name, backend in backends().items()
    }
    return {"dp": PartitionDp(), **generic}
