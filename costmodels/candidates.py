"""Many parallel configurations at once: one integer column per field of ``ParallelConfig``.

A ``CandidateTable`` answers to the same attribute names as one ``ParallelConfig``, so the cost functions
take either. ``unique_rows`` lets a cost that depends on few fields be computed once per distinct value.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .parallel import CONFIG_FIELDS, ParallelConfig

Column = NDArray[np.int64]


class CandidateTable:
    """Columns of equal length, one per ``ParallelConfig`` field.

    Args:
        columns: any subset of the fields; absent ones take the dataclass default
            (``dp_shard`` defaults to ``dp * cp``). Scalars are broadcast.
    """

    __slots__ = ("_codes", "_columns", "_groups")

    def __init__(self, columns: Mapping[str, Any]) -> None:
        unknown = set(columns) - set(CONFIG_FIELDS)
        if unknown:
            raise KeyError(f"unknown candidate columns: {sorted(unknown)}")
        n = max((np.size(v) for v in columns.values()), default=0)
        defaults = ParallelConfig()
        out: dict[str, Column] = {}
        for name in CONFIG_FIELDS:
            value = columns.get(name, getattr(defaults, name))
            out[name] = np.ascontiguousarray(np.broadcast_to(np.asarray(value, dtype=np.int64), (n,)))
        if "dp_shard" not in columns:
            out["dp_shard"] = out["dp"] * out["cp"]
        else:
            out["dp_shard"] = np.where(out["dp_shard"] == 0, out["dp"] * out["cp"], out["dp_shard"])
        self._columns = out
        self._codes: dict[str, tuple[NDArray[np.int32], int]] = {}
        self._groups: dict[tuple[str, ...], tuple[Column, Column]] = {}

    @classmethod
    def from_configs(cls, configs: Sequence[ParallelConfig]) -> CandidateTable:
        """One row per configuration, in order."""
        return cls({f: np.array([getattr(c, f) for c in configs], dtype=np.int64) for f in CONFIG_FIELDS})

    def __getattr__(self, name: str) -> Column:
        if name.startswith("_"):  # slots that are not filled yet
            raise AttributeError(name)
        try:
            return self._columns[name]
        except KeyError:
            raise AttributeError(name) from None

    def __len__(self) -> int:
        return int(next(iter(self._columns.values())).shape[0])

    @property
    def columns(self) -> Mapping[str, Column]:
        """All columns by field name."""
        return self._columns

    @property
    def world_size(self) -> Column:
        """GPUs of each candidate."""
        return self.tp * self.cp * self.pp * self.dp

    def take(self, index: Any) -> CandidateTable:
        """Rows by index array, mask or slice."""
        return self._pick(index, CONFIG_FIELDS)

    def _pick(self, index: Any, names: Sequence[str]) -> CandidateTable:
        """Rows of some columns; the others are absent, so that a cost which reads one fails loudly."""
        out = CandidateTable.__new__(CandidateTable)
        out._columns = {name: self._columns[name][index] for name in names}
        out._codes, out._groups = {}, {}
        return out

    def row(self, i: int) -> ParallelConfig:
        """Row ``i`` as a configuration."""
        return ParallelConfig(**{k: int(v[i]) for k, v in self._columns.items()})

    def groups(self, names: Sequence[str]) -> tuple[Column, Column]:
        """``unique_rows`` of some fields; codes of a column and groups of a set of columns are kept."""
        key = tuple(names)
        if key not in self._groups:
            for name in key:
                if name not in self._codes:
                    self._codes[name] = _dense_codes(self._columns[name])
            self._groups[key] = _group([self._codes[name] for name in key])
        return self._groups[key]

    def with_columns(self, **columns: Any) -> CandidateTable:
        """A copy with some columns replaced."""
        return CandidateTable({**self._columns, **columns})


#: Slots per row up to which ``unique_rows`` looks combinations up in a table instead of sorting them.
_SLOTS_PER_ROW = 16


def _dense_codes(column: Any) -> tuple[NDArray[np.int32], int]:
    """Number the distinct values of a non-negative integer column 0..k-1 without sorting it."""
    col = np.asarray(column)
    present = np.zeros(int(col.max(initial=0)) + 1, dtype=np.bool_)
    present[col] = True
    codes = np.cumsum(present, dtype=np.int32)
    codes -= 1
    return codes[col], int(codes[-1]) + 1


def unique_rows(columns: Sequence[Any]) -> tuple[Column, Column]:
    """Distinct combinations of non-negative integer columns.

    Returns:
        ``(rows, inverse)``: row numbers of one representative of each combination, and for every
        row the number of its combination, so that ``f(col[rows])[inverse]`` equals ``f(col)``.
    """
    return _group([_dense_codes(col) for col in columns])


def _group(coded: Sequence[tuple[NDArray[np.int32], int]]) -> tuple[Column, Column]:
    """Distinct combinations of dense codes: representatives and inverse."""
    varying = [(codes, n) for codes, n in coded if n > 1]
    size = coded[0][0].size
    span = math.prod(n for _, n in varying)
    key: NDArray[Any] = np.zeros(size, dtype=np.int32 if span < 2**31 else np.int64)
    for codes, n in varying:
        key *= n
        key += codes
    if span > _SLOTS_PER_ROW * size + 4096:
        _, rows, inverse = np.unique(key, return_index=True, return_inverse=True)
        return rows.astype(np.int64), inverse.astype(np.int64)
    slot = np.full(span, -1, dtype=np.int32)
    slot[key] = np.arange(size, dtype=np.int32)  # of equal rows the last one stays
    used = np.flatnonzero(slot >= 0)
    number = np.empty(span, dtype=np.int64)
    number[used] = np.arange(used.size)
    return slot[used].astype(np.int64), number[key]


def _take(value: Any, index: NDArray[np.int64]) -> Any:
    """Rows of every array in a (nested) dataclass or tuple; scalars stay."""
    if is_dataclass(value) and not isinstance(value, type):
        return type(value)(*(_take(getattr(value, f.name), index) for f in fields(value)))
    if isinstance(value, tuple):
        return tuple(_take(v, index) for v in value)
    return value[index] if np.ndim(value) else value


def distinct_rows(c: Any, names: Sequence[str]) -> tuple[Any, Column | None]:
    """Distinct combinations of the fields ``names`` and, for every row, which one is its own.

    One configuration and short tables come back whole, with None: there is nothing to save.
    """
    if not isinstance(c, CandidateTable) or len(c) < 256:
        return c, None
    first, inverse = c.groups(names)
    return c._pick(first, names), inverse


def factored(cost: Callable[[Any], Any], c: Any, names: Sequence[str]) -> Any:
    """``cost(c)`` for a cost that depends on the fields ``names`` only, computed once per distinct combination.

    One configuration and short tables are passed through, so both ways give the same numbers.
    """
    rows, inverse = distinct_rows(c, names)
    return cost(rows) if inverse is None else _take(cost(rows), inverse)
