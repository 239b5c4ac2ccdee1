"""Price a space and put it in order: what fits, the exact best, near-ties, the front of time against memory.

Memory is priced for every candidate first (it is the cheaper half of the model), time only for those that fit.
Ties are broken by the whole key after rounding to nine significant digits, so the order does not hang on the last
bits of a sum.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..costmodels.candidates import CandidateTable
from ..costmodels.estimate import Estimate, MemoryBreakdown, TimeBreakdown
from ..costmodels.interval import fit_probability, memory_sigma
from ..costmodels.memory import memory_breakdown
from ..costmodels.parallel import CONFIG_FIELDS, Recompute
from ..costmodels.rules import violations
from ..costmodels.training import estimate
from .problem import PlanningProblem
from .space import Space, excluded

Floats = NDArray[np.float64]
CHUNK_ROWS = 65_536
#: Relative difference of step time below which two plans are called tied: step times of one configuration repeat
#: to about this between runs (assumed, until the interval states a repeatability of its own).
TIE = 0.01
#: A point belongs to the front only if it saves at least this share of memory against the next faster one.
FRONT_STEP = 0.01


@dataclass(slots=True)
class Scored:
    """Candidates of one precision with their scores.

    Attributes:
        table: all candidates, those with a found number of recomputed layers appended.
        peak_bytes: of every row; fits: which rows fit; step_s: infinite where they do not.
    """

    problem: PlanningProblem
    table: CandidateTable
    peak_bytes: Floats
    fits: NDArray[np.bool_]
    step_s: Floats


def evaluate(problem: PlanningProblem, table: CandidateTable) -> Estimate:
    """The whole cost model over a table, in chunks; every field of the result has one entry per row."""
    n, p = len(table), problem
    parts = [
        estimate(p.model, p.workload, table.take(slice(i, i + CHUNK_ROWS)), p.cluster, p.software)
        for i in range(0, n, CHUNK_ROWS)
    ]
    sizes = [min(CHUNK_ROWS, n - i) for i in range(0, n, CHUNK_ROWS)]

    def joined(read: Any) -> Floats:
        columns = [np.broadcast_to(np.asarray(read(p), dtype=float), (k,)) for p, k in zip(parts, sizes, strict=True)]
        return np.concatenate(columns) if columns else np.zeros(0)

    values: dict[str, Any] = {
        f.name: joined(lambda e, f=f: getattr(e, f.name)) for f in fields(Estimate) if f.name not in ("time", "memory")
    }
    time = {f.name: joined(lambda e, f=f: getattr(e.time, f.name)) for f in fields(TimeBreakdown)}
    memory = {f.name: joined(lambda e, f=f: getattr(e.memory, f.name)) for f in fields(MemoryBreakdown)}
    return Estimate(time=TimeBreakdown(**time), memory=MemoryBreakdown(**memory), **values)


def peak_bytes(problem: PlanningProblem, table: CandidateTable) -> Floats:
    """Peak memory of every row, as ``estimate`` would give it."""
    out = np.empty(len(table))
    for i in range(0, len(table), CHUNK_ROWS):
        c = table.take(slice(i, i + CHUNK_ROWS))
        n_micro = np.maximum(problem.workload.global_batch / (c.micro_batch_size * c.dp), 1.0)
        memory, _ = memory_breakdown(problem.model, problem.workload, problem.software, c, n_micro)
        out[i : i + CHUNK_ROWS] = memory.total
    return out


def fits(problem: PlanningProblem, peak: Any) -> Any:
    """Peaks that stay within the cap and fit the device with at least ``fit_confidence``."""
    sigma = memory_sigma(problem.cluster, problem.model, problem.software)
    p_fit = fit_probability(peak, problem.cluster.gpu.memory_bytes, sigma)
    return (p_fit >= problem.fit_confidence) & (peak <= problem.memory_limit_bytes)


def score(problem: PlanningProblem, space: Space) -> Scored:
    """Peak memory of every candidate, step time of those that fit, the fewest recomputed layers found on the way."""
    table = space.table
    peak = peak_bytes(problem, table)
    ok = np.asarray(fits(problem, peak), dtype=bool)
    extra = fewest_recomputed_layers(problem, space, ok)
    if len(extra):
        more = peak_bytes(problem, extra)
        table = CandidateTable({f: np.concatenate([table.columns[f], extra.columns[f]]) for f in CONFIG_FIELDS})
        peak, ok = np.concatenate([peak, more]), np.concatenate([ok, np.asarray(fits(problem, more), dtype=bool)])
    step = np.full(len(table), np.inf)
    rows = np.flatnonzero(ok)
    for i in range(0, len(rows), CHUNK_ROWS):
        some = rows[i : i + CHUNK_ROWS]
        c = table.take(some)
        step[some] = estimate(problem.model, problem.workload, c, problem.cluster, problem.software).step_s
    return Scored(problem, table, peak, ok, step)


def fewest_recomputed_layers(problem: PlanningProblem, space: Space, ok: NDArray[np.bool_]) -> CandidateTable:
    """For cells that fit with full recompute and not without: full over the fewest layers per stage that fit.

    Time grows and memory falls with every layer recomputed, so the fewest that fit are the best of that dimension,
    found by bisection over all cells at once. Megatron counts them per model chunk, hence in steps of vp.
    """
    full, table, pins = int(Recompute.FULL), space.table, problem.pins
    counted = problem.framework in ("megatron-lm", "pytorch", "any") and "recompute_layers" not in pins
    both = "recompute" not in pins or {0, full} <= set(pins["recompute"])
    if not (counted and both and len(table)):
        return table.take(np.zeros(0, dtype=np.int64))
    fits_bare = np.zeros(int(space.cell.max()) + 1, dtype=bool)
    fits_bare[space.cell[ok & (table.recompute == 0)]] = True
    rows = np.flatnonzero(ok & (table.recompute == full) & ~fits_bare[space.cell])
    base = table.take(rows)
    step = base.vp if problem.framework != "pytorch" else np.ones_like(base.vp)
    low, high = np.zeros_like(step), -(-problem.model.n_layers // (base.pp * step))
    most = high.copy()
    while len(rows) and (high - low > 1).any():
        middle = (low + high) // 2
        enough = fits(problem, peak_bytes(problem, base.with_columns(recompute_layers=np.maximum(middle, 1) * step)))
        open_ = high - low > 1
        high = np.where(open_ & enough, middle, high)
        low = np.where(open_ & ~enough, middle, low)
    found = base.with_columns(recompute_layers=high * step).take(high < most)
    keep = ~excluded(problem, found)
    if problem.framework == "any" and len(found):
        broken = violations(problem.model, problem.workload, problem.cluster, "any", found)
        keep &= ~np.logical_or.reduce([np.asarray(v) for v in broken.values()])
    return found.take(keep)


def significant(x: Any, digits: int = 9) -> Floats:
    """Round to significant digits (zero and infinity stay)."""
    x = np.asarray(x, dtype=float)
    ok = np.isfinite(x) & (x != 0)
    scale = 10.0 ** (digits - 1 - np.floor(np.log10(np.abs(np.where(ok, x, 1.0)))))
    rounded: Floats = np.where(ok, np.rint(x * scale) / scale, x)
    return rounded


def best_rows(pools: list[Scored], objective: str, k: int) -> list[tuple[int, int]]:
    """The exact best ``k`` as (pool, row): by the objective, then the other of time and memory, then the whole key."""
    primary, secondary = [], []
    for pool in pools:
        step, peak = pool.step_s, np.where(pool.fits, pool.peak_bytes, np.inf)
        primary.append(peak if objective == "memory" else step)
        secondary.append(step if objective == "memory" else peak)
    first, second = np.concatenate(primary), np.concatenate(secondary)
    feasible = np.flatnonzero(np.isfinite(first))
    if len(feasible) > k:
        limit = np.partition(first[feasible], k - 1)[k - 1]
        feasible = feasible[first[feasible] <= limit * (1.0 + 1e-8)]
    owner = np.repeat(np.arange(len(pools)), [len(p.table) for p in pools])
    start = np.concatenate([[0], np.cumsum([len(p.table) for p in pools])])
    row = feasible - start[owner[feasible]]
    keys: list[Any] = [_column(pools, owner[feasible], row, name) for name in reversed(CONFIG_FIELDS)]
    keys += [owner[feasible], significant(second[feasible]), significant(first[feasible])]
    order = np.lexsort(keys)[:k]
    return [(int(owner[feasible[i]]), int(row[i])) for i in order]


def _column(pools: list[Scored], owner: Any, row: Any, name: str) -> NDArray[np.int64]:
    out = np.empty(len(row), dtype=np.int64)
    for i, pool in enumerate(pools):
        mine = owner == i
        out[mine] = pool.table.columns[name][row[mine]]
    return out


def front_rows(pools: list[Scored]) -> list[tuple[int, int]]:
    """Points that no other beats in both step time and peak memory, fastest first, as (pool, row)."""
    owner = np.concatenate([np.full(int(p.fits.sum()), i) for i, p in enumerate(pools)])
    row = np.concatenate([np.flatnonzero(p.fits) for p in pools])
    step = significant(np.concatenate([p.step_s[p.fits] for p in pools]))
    peak = significant(np.concatenate([p.peak_bytes[p.fits] for p in pools]))
    order = np.lexsort((row, owner, peak, step))
    low = np.minimum.accumulate(peak[order])
    candidates = order[np.concatenate([[True], low[1:] < low[:-1]])] if len(order) else order
    out: list[tuple[int, int]] = []
    last = np.inf
    for i in candidates:
        if peak[i] <= last * (1.0 - FRONT_STEP) or not out:
            out.append((int(owner[i]), int(row[i])))
            last = float(peak[i])
    return out


def ties(values: Floats) -> list[tuple[int, ...]]:
    """For each of some ranked objective values the ranks (from 1) of the others within the noise."""
    out = []
    for i, v in enumerate(values):
        near = [j + 1 for j, other in enumerate(values) if j != i and abs(other - v) <= TIE * min(other, v)]
        out.append(tuple(near))
    return out


def with_precision(problem: PlanningProblem, precision: str) -> PlanningProblem:
    """The same request in another precision."""
    if precision == problem.workload.precision:
        return problem
    return replace(problem, workload=replace(problem.workload, precision=precision))
