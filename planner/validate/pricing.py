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
from ...costmodels.memory import memory_breakdown
from ...costmodels.model_spec import ModelSpec
from ...costmodels.parallel import ParallelConfig
from ...costmodels.software import MEMORY_COEFFICIENTS, Software
from ...costmodels.training import estimate
from ...costmodels.workload import Workload
from ...hardware_profiles.errors import MeshwrightError
from ...hardware_profiles.types import Cluster
from .assumptions import best_fitting, expand, note_choice
from .memory_counting import Counting, counted_bytes, counting_of
from .row_problem import RowProblem

Floats = NDArray[np.float64]
Estimator = Callable[..., Any]
#: Rows of one call with several sets of coefficients; longer tables would be factored by configuration, which a
#: coefficient that varies within the table forbids (``candidates.factored`` starts at 256).
_TABLE_ROWS = 255


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


def group_key(row: RowProblem) -> tuple[object, ...]:
    """Rows with equal keys may be priced in one call."""
    c = row.cluster
    cluster = (c.gpu.name, c.nodes, c.gpus_per_node, c.tiers)
    s = row.software
    sparse = (s.moe_dispatcher, s.moe_overlap, s.moe_fused_mlp, s.graphed)
    software = (s.name, s.attention, s.launch_blocking, s.cuda_graphs, s.vocab_multiple, *sparse)
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

    def reprice(self, software_of: Callable[[Software], Software]) -> Floats:
        """Step seconds of every row with changed software (``nan`` where not priced)."""
        return self._again(software_of, lambda found: found.step_s)

    def waiting_shares(self, software_of: Callable[[Software], Software]) -> Floats:
        """Share of every row's step in which the device waits for hosts, with changed software (0 if not priced)."""
        return np.nan_to_num(self._again(software_of, lambda found: found.waiting_share))

    def _again(self, software_of: Callable[[Software], Software], read: Callable[[Any], Any]) -> Floats:
        out = np.full(len(self.rows), np.nan)
        for g in self.groups:
            out[g.rows] = read(estimate(g.model, g.workload, g.table, g.cluster, software_of(g.software)))
        return out

    def reprice_many(self, names: Sequence[str], values: Floats, wanted: NDArray[np.bool_]) -> Floats:
        """Step seconds of the wanted rows under several sets of coefficients.

        Args:
            names: coefficients, others take their defaults; values: one row for each set, one column for each name.

        Returns:
            One row for each set, one column for each row of ``rows`` (``nan`` where not wanted).

        A cost function takes arrays, so that the sets stand one under the other in one table: the time of a fit is
        that of calls, not of numbers.
        """
        out = np.full((len(values), len(self.rows)), np.nan)
        for g in self.groups:
            if not wanted[g.rows].any():
                continue
            at_once = max(1, _TABLE_ROWS // len(g.rows))
            for start in range(0, len(values), at_once):
                some = values[start : start + at_once]
                out[start : start + at_once, g.rows] = _stacked(g, names, some)
        return out


def _step_s(group: Group, table: CandidateTable, workload: Workload, software: Software) -> Any:
    return estimate(group.model, workload, table, group.cluster, software).step_s


def _stacked(group: Group, names: Sequence[str], values: Floats) -> Floats:
    """Step seconds of a group's rows under each set of coefficients, shape ``(len(values), rows)``.

    What moves step time and is not named takes its default: no shipped coefficient may leak into a fit.
    """
    n = len(group.rows)
    kept = {k: v for k, v in group.software.coefficients.items() if k in MEMORY_COEFFICIENTS}
    if len(values) == 1:
        own: dict[str, Any] = dict(zip(names, values[0].tolist(), strict=True))
        software = replace(group.software, coefficients={**kept, **own})
        return _array(_step_s(group, group.table, group.workload, software), n).reshape(1, n)
    own = {name: np.repeat(values[:, k], n) for k, name in enumerate(names)}
    software = replace(group.software, coefficients={**kept, **own})
    index = np.tile(np.arange(n), len(values))
    workload = replace(group.workload, global_batch=_array(group.workload.global_batch, n)[index])
    return _array(_step_s(group, group.table.take(index), workload, software), len(index)).reshape(len(values), n)


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
    counting = [counting_of(rows[i].run) for i in members]
    counted = counted_peaks(first.model, workload, first.software, first.cluster, table, counting, result.memory)
    columns = {
        name: _array(getattr(result, name), len(table))
        for name in ("step_low_s", "step_high_s", "tokens_per_s_per_gpu", "peak_low_bytes", "peak_high_bytes")
    }
    out = []
    for number, (i, k, size) in enumerate(zip(members, chosen, sizes, strict=True)):
        config = table.row(k)
        note_choice(rows[i], config, size)
        values = {name: float(v[k]) for name, v in columns.items()}
        out.append(
            RowEstimate(
                config=config,
                step_s=float(step[k]),
                peak_bytes=float(peak[k]),
                counted_bytes=float(counted[number][k]),
                p_fit=float(fit[k]),
                **values,
            )
        )
    picked = table.take(np.array(chosen))
    one_each = replace(first.workload, global_batch=batch[chosen])
    group = Group(first.model, one_each, first.cluster, first.software, np.array(members), picked)
    return group, out


def counted_peaks(
    model: ModelSpec,
    workload: Workload,
    software: Software,
    cluster: Cluster,
    table: CandidateTable,
    counting: Sequence[Counting],
    memory: Any = None,
) -> list[Floats]:
    """For every way of counting, the peak of every candidate of the table in it (bytes).

    Args:
        memory: ledger of the fullest stages where it is there already; the stage that shows most may be another.
    """
    one_stage = not np.any(np.asarray(table.pp) > 1)
    n_micro = np.maximum(workload.global_batch / (table.micro_batch_size * table.dp), 1.0)
    known: dict[tuple[str, bool], Floats] = {}
    for how in counting:
        if (how.method, how.first_stage) in known:
            continue
        shown, shows_cached = memory, how.method != "allocated"
        if shown is None or how.first_stage or (shows_cached and not one_stage):
            kinds = {"first_stage": how.first_stage, "with_cached": shows_cached}
            shown, _ = memory_breakdown(model, workload, software, table, n_micro, **kinds)
        peak = counted_bytes(shown, how.method, cluster.gpu.memory_bytes)
        known[how.method, how.first_stage] = _array(peak, len(table))
    return [known[how.method, how.first_stage] for how in counting]


def _array(value: Any, n: int) -> Floats:
    return np.broadcast_to(np.asarray(value, dtype=np.float64), (n,))


def software_with(coefficients: Mapping[str, Mapping[str, float]]) -> Callable[[Software], Software]:
    """A function that gives each software the coefficients of its era (unchanged where none are given)."""

    def change(software: Software) -> Software:
        own = coefficients.get(software.name)
        return software if own is None else replace(software, coefficients={**software.coefficients, **own})

    return change
