"""Pricing many rows at once: rows of one model, cluster, software and workload share a call of the cost model.

``price`` resolves every row (choosing among candidates where cells were empty) and returns the chosen
configurations; ``PricedRows.reprice`` evaluates the same rows again with other coefficients, as a fit needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...costmodels.candidates import CandidateTable
from ...costmodels.model_spec import ModelSpec
from ...costmodels.parallel import ParallelConfig
from ...costmodels.software import Software
from ...costmodels.training import estimate
from ...costmodels.workload import Workload
from ...hardware_profiles.errors import MeshwrightError
from ...hardware_profiles.types import Cluster
from .assumptions import best_fitting, expand, note_choice
from .memory_counting import counted_bytes, counting_of
from .row_problem import RowProblem

Floats = NDArray[np.float64]
Estimator = Callable[..., Any]


@dataclass(slots=True)
class RowEstimate:
    """Prediction of one row before its assumptions widen it.

    Attributes:
        config: the configuration priced; peak_bytes: on the device; counted_bytes: as the source counts.
    """

    config: ParallelConfig
    step_s: float
    step_low_s: float
    step_high_s: float
    tokens_per_s_per_gpu: float
    peak_bytes: float
    peak_low_bytes: float
    peak_high_bytes: float
    counted_bytes: float
    p_fit: float


@dataclass(slots=True)
class Group:
    """Rows that share everything but configuration and batch."""

    model: ModelSpec
    workload: Workload
    cluster: Cluster
    software: Software
    rows: NDArray[np.int64]
    table: CandidateTable
    methods: list[str]


def group_key(row: RowProblem) -> tuple[object, ...]:
    """Rows with equal keys may be priced in one call."""
    c = row.cluster
    cluster = (c.gpu.name, c.nodes, c.gpus_per_node, c.tiers)
    s = row.software
    software = (s.name, s.attention, s.launch_blocking, s.cuda_graphs)
    return (row.model, replace(row.workload, global_batch=0), cluster, software)


def _by_key(rows: Sequence[RowProblem]) -> list[list[int]]:
    groups: dict[tuple[object, ...], list[int]] = {}
    for i, row in enumerate(rows):
        groups.setdefault(group_key(row), []).append(i)
    return list(groups.values())


def _joined(tables: Sequence[CandidateTable]) -> CandidateTable:
    names = tables[0].columns
    return CandidateTable({name: np.concatenate([t.columns[name] for t in tables]) for name in names})


@dataclass(slots=True)
class PricedRows:
    """Chosen configurations of many rows, grouped for evaluation.

    Attributes:
        estimates: one per row, ``None`` where pricing failed; failures: row number -> reason.
    """

    rows: list[RowProblem]
    groups: list[Group]
    estimates: list[RowEstimate | None]
    failures: dict[int, str]

    def reprice(self, software_of: Callable[[Software], Software], wanted: NDArray[np.bool_] | None = None) -> Floats:
        """Step seconds of every row with changed software (``nan`` where not wanted or not priced)."""
        out = np.full(len(self.rows), np.nan)
        for g in self.groups:
            if wanted is not None and not wanted[g.rows].any():
                continue
            result = estimate(g.model, g.workload, g.table, g.cluster, software_of(g.software))
            out[g.rows] = result.step_s
        return out


def price(rows: list[RowProblem], estimator: Estimator = estimate) -> PricedRows:
    """Choose and price a configuration for every row."""
    failures: dict[int, str] = {}
    estimates: list[RowEstimate | None] = [None] * len(rows)
    groups: list[Group] = []
    for members in _by_key(rows):
        tables: dict[int, CandidateTable] = {}
        for i in members:
            try:
                tables[i] = expand(rows[i])
            except (MeshwrightError, ValueError, ZeroDivisionError) as error:
                failures[i] = f"cannot be configured: {error}"
        kept = [i for i in members if i in tables and len(tables[i])]
        if not kept:
            continue
        try:
            group, results = _price_group(rows, kept, [tables[i] for i in kept], estimator)
        except MeshwrightError as error:
            failures.update(dict.fromkeys(kept, str(error).rstrip(".")))
            continue
        groups.append(group)
        for i, result in zip(kept, results, strict=True):
            estimates[i] = result
    return PricedRows(rows, groups, estimates, failures)


def _price_group(
    rows: list[RowProblem], members: list[int], tables: list[CandidateTable], estimator: Estimator
) -> tuple[Group, list[RowEstimate]]:
    first = rows[members[0]]
    sizes = [len(t) for t in tables]
    batch = np.repeat([float(rows[i].workload.global_batch) for i in members], sizes)
    table = _joined(tables)
    workload = replace(first.workload, global_batch=batch)
    result = estimator(first.model, workload, table, first.cluster, first.software)
    step, fit = _array(result.step_s, len(table)), _array(result.p_fit, len(table))
    peak = _array(result.peak_bytes, len(table))
    chosen, start = [], 0
    for size in sizes:
        span = slice(start, start + size)
        chosen.append(start + best_fitting(step[span], fit[span], peak[span]))
        start += size
    methods = [counting_of(rows[i].run).method for i in members]
    counted = {m: _array(counted_bytes(result.memory, m), len(table)) for m in set(methods)}
    columns = {
        name: _array(getattr(result, name), len(table))
        for name in ("step_low_s", "step_high_s", "tokens_per_s_per_gpu", "peak_low_bytes", "peak_high_bytes")
    }
    out = []
    for i, k, size, method in zip(members, chosen, sizes, methods, strict=True):
        config = table.row(k)
        note_choice(rows[i], config, size)
        values = {name: float(v[k]) for name, v in columns.items()}
        out.append(
            RowEstimate(
                config=config,
                step_s=float(step[k]),
                peak_bytes=float(peak[k]),
                counted_bytes=float(counted[method][k]),
                p_fit=float(fit[k]),
                **values,
            )
        )
    picked = table.take(np.array(chosen))
    one_each = replace(first.workload, global_batch=batch[chosen])
    group = Group(first.model, one_each, first.cluster, first.software, np.array(members), picked, methods)
    return group, out


def _array(value: Any, n: int) -> Floats:
    return np.broadcast_to(np.asarray(value, dtype=np.float64), (n,))


def software_with(coefficients: Mapping[str, Mapping[str, float]]) -> Callable[[Software], Software]:
    """A function that gives each software the coefficients of its era (unchanged where none are given)."""

    def change(software: Software) -> Software:
        own = coefficients.get(software.name)
        return software if own is None else replace(software, coefficients={**software.coefficients, **own})

    return change
