"""How good predictions were: error, rank, regret, memory and out-of-memory calls, by source.

Errors are relative to the measured figure: ``predicted / measured - 1`` of tokens per second and GPU. Rows that
their source marks as a duplicate listing are left out everywhere; rows that it marks as inconsistent are counted
apart; LoRA and SFT rows stand in a set of their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .backtest import RowResult
from .memory_counting import counting_of
from .runs import BadCellError

Floats = NDArray[np.float64]
#: A peak counts as under-predicted when it is this much below the measured one.
UNDER_BY = 0.05
_MIN_PLANS = 3
_LARGE_GROUP = 5


@dataclass(slots=True)
class Score:
    """Scores of one set of rows; ``nan`` where nothing could be scored.

    Attributes:
        rows: in the tables; predicted: with status ok or assumed; scored: with a measured throughput too.
        coverage: predicted share of the rows that state enough (GPU, count, dimensions, sequence, batch).
        mape, median, p90: of the absolute relative error; bias: median of the signed one.
        interval_coverage: share of measured values inside the 90% interval; half_width: median of its half.
        choice_groups: sets of runs of one model, GPUs and batch with three or more distinct plans;
        best_picked, regret: share whose best plan was picked, mean loss of the picked plan;
        group_spearman: mean rank correlation inside them; large_group_spearman: over the plans of all groups with
            five or more.
        memory_*: against peaks with a known way of counting; oom_*: of the fits call.
    """

    rows: int = 0
    predicted: int = 0
    scored: int = 0
    coverage: float = math.nan
    mape: float = math.nan
    median: float = math.nan
    p90: float = math.nan
    bias: float = math.nan
    spearman: float = math.nan
    interval_coverage: float = math.nan
    half_width: float = math.nan
    choice_groups: int = 0
    best_picked: float = math.nan
    regret: float = math.nan
    group_spearman: float = math.nan
    large_group_spearman: float = math.nan
    memory_rows: int = 0
    memory_mape: float = math.nan
    memory_under: float = math.nan
    oom_rows: int = 0
    oom_recall: float = math.nan
    oom_precision: float = math.nan
    false_alarms: float = math.nan
    inconsistent: int = 0


@dataclass(slots=True)
class ScoreTable:
    """Scores by set name, in order of appearance; ``skipped`` counts reasons."""

    sets: dict[str, Score] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)
    duplicates: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain data; ``nan`` becomes ``None``."""
        sets = {
            name: {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in asdict(score).items()}
            for name, score in self.sets.items()
        }
        return {"sets": sets, "skipped": self.skipped, "duplicates": self.duplicates}


def measured(row: RowResult, column: str) -> float:
    """A measured figure, ``nan`` where the cell is empty or garbled."""
    try:
        value = row.run.number(column)
    except BadCellError:
        return math.nan
    return math.nan if value is None else value


def is_duplicate(row: RowResult) -> bool:
    """The source prints this run in another table as well."""
    return "DUPLICATE LISTING" in row.run.text("notes")


def is_inconsistent(row: RowResult) -> bool:
    """The row contradicts itself, as its source prints it."""
    return "SOURCE INCONSISTENT" in row.run.text("notes")


def states_enough(row: RowResult) -> bool:
    """The row gives model dimensions, GPU, GPU count, sequence length and batch."""
    needed = ("n_layers", "hidden", "gpu", "n_gpus", "seq_len", "global_batch_sequences")
    return all(row.run.text(name) for name in needed) and not row.run.broken


def set_name(row: RowResult) -> str:
    """Source id; fine-tuning rows and methods other than a study's baseline, which no fit sees, stand apart."""
    task = row.run.text("task").lower()
    name = row.run.source
    if "lora" in task or task == "sft":
        return f"{name} (fine-tuning)"
    p = row.problem
    if p is not None and ("method" in p.assumed or p.method not in ("", "baseline")):
        return f"{name} (other methods)"
    return name


def score_rows(rows: Sequence[RowResult]) -> ScoreTable:
    """Scores by set, then over all pre-training rows, and the same for rows seen and unseen by the fit."""
    table = ScoreTable(duplicates=sum(is_duplicate(r) for r in rows))
    kept = [r for r in rows if not is_duplicate(r)]
    for row in kept:
        if row.status == "skipped" and not states_enough(row):
            table.skipped[row.reason] = table.skipped.get(row.reason, 0) + 1
        elif row.status == "skipped":
            key = f"states enough, yet: {row.reason}"
            table.skipped[key] = table.skipped.get(key, 0) + 1
    names = dict.fromkeys(set_name(r) for r in kept)
    for name in names:
        table.sets[name] = score([r for r in kept if set_name(r) == name])
    plain = [r for r in kept if "(" not in set_name(r)]
    whole: dict[str, Callable[[RowResult], bool]] = {
        "all pre-training": lambda r: True,
        "all, as stated": lambda r: r.status == "ok",
        "all, assumed": lambda r: r.status == "assumed",
        "all, seen": lambda r: r.seen,
        "all, unseen": lambda r: not r.seen,
    }
    for name, wanted in whole.items():
        chosen = [r for r in plain if wanted(r)]
        if chosen:
            table.sets[name] = score(chosen)
    return table


def score(rows: Sequence[RowResult]) -> Score:
    """Scores of one set of rows."""
    predicted = [r for r in rows if r.status != "skipped"]
    enough = [r for r in rows if states_enough(r)]
    good = [r for r in predicted if not is_inconsistent(r) and math.isfinite(measured(r, "tps_gpu_effective"))]
    out = Score(rows=len(rows), predicted=len(predicted), scored=len(good))
    out.inconsistent = sum(is_inconsistent(r) for r in rows)
    if enough:
        out.coverage = sum(r.status != "skipped" for r in enough) / len(enough)
    if good:
        _score_time(out, good)
        _score_choice(out, good)
    _score_memory(out, predicted)
    _score_outcome(out, predicted)
    return out


def _score_time(out: Score, rows: Sequence[RowResult]) -> None:
    real = np.array([measured(r, "tps_gpu_effective") for r in rows])
    guess = np.array([r.tokens_per_s_per_gpu for r in rows])
    low, high = np.array([r.low for r in rows]), np.array([r.high for r in rows])
    error = guess / real - 1.0
    out.mape, out.median = float(np.mean(np.abs(error))), float(np.median(np.abs(error)))
    out.p90, out.bias = float(np.quantile(np.abs(error), 0.9)), float(np.median(error))
    out.spearman = spearman(guess, real)
    out.interval_coverage = float(np.mean((real >= low) & (real <= high)))
    out.half_width = float(np.median((high - low) / 2.0 / guess))


def spearman(a: Floats, b: Floats) -> float:
    """Rank correlation; ``nan`` where there are fewer than three values or no variation."""
    if len(a) < _MIN_PLANS or np.ptp(a) == 0 or np.ptp(b) == 0:
        return math.nan
    return float(np.corrcoef(_ranks(a), _ranks(b))[0, 1])


def _ranks(values: Floats) -> Floats:
    """Ranks from 0, equal values sharing the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - 0.5 * (counts + 1))[inverse]


def choice_key(row: RowResult) -> tuple[object, ...]:
    """Runs with equal keys differ in their plan only."""
    p = row.problem
    run = row.run
    if p is None:
        return (run.file, run.line)
    w = p.workload
    model = (p.model.n_layers, p.model.hidden, p.model.attention.n_heads, p.model.ffn_hidden, p.model.vocab)
    machine = (p.cluster.gpu.name, p.n_gpus)
    return (run.source, model, machine, w.seq_len, w.global_batch, w.precision, w.task, p.software.name)


def choice_groups(rows: Sequence[RowResult]) -> list[list[RowResult]]:
    """Groups with three or more distinct measured plans; repeated runs of one plan count once (the median)."""
    groups: dict[tuple[object, ...], list[RowResult]] = {}
    for row in rows:
        groups.setdefault(choice_key(row), []).append(row)
    out = []
    for members in groups.values():
        by_plan: dict[object, list[RowResult]] = {}
        for row in members:
            by_plan.setdefault(row.config, []).append(row)
        if len(by_plan) >= _MIN_PLANS:
            out.append([_middle(same) for same in by_plan.values()])
    return out


def _middle(rows: list[RowResult]) -> RowResult:
    return sorted(rows, key=lambda r: measured(r, "tps_gpu_effective"))[len(rows) // 2]


def _score_choice(out: Score, rows: Sequence[RowResult]) -> None:
    groups = choice_groups(rows)
    out.choice_groups = len(groups)
    if not groups:
        return
    picked, regret, ranks, large = [], [], [], []
    for members in groups:
        real = np.array([measured(r, "tps_gpu_effective") for r in members])
        guess = np.array([r.tokens_per_s_per_gpu for r in members])
        choice = int(np.argmax(guess))
        picked.append(real[choice] >= real.max())
        regret.append(1.0 - real[choice] / real.max())
        ranks.append(spearman(guess, real))
        if len(members) >= _LARGE_GROUP:
            large.append((guess, real))
    out.best_picked, out.regret = float(np.mean(picked)), float(np.mean(regret))
    out.group_spearman = float(np.nanmean(ranks)) if np.isfinite(ranks).any() else math.nan
    if large:
        out.large_group_spearman = spearman(*(np.concatenate(side) for side in zip(*large, strict=True)))


def _score_memory(out: Score, rows: Sequence[RowResult]) -> None:
    pairs = []
    for row in rows:
        real, how = measured(row, "peak_memory_gb"), counting_of(row.run)
        if math.isfinite(real) and how.known and row.run.text("outcome") in ("", "ok"):
            pairs.append((row.peak_memory_gb * 1e9, real * how.unit_bytes))
    out.memory_rows = len(pairs)
    if pairs:
        guess, real_bytes = np.array(pairs).T
        error = guess / real_bytes - 1.0
        out.memory_mape = float(np.mean(np.abs(error)))
        out.memory_under = float(np.mean(error < -UNDER_BY))


def _score_outcome(out: Score, rows: Sequence[RowResult]) -> None:
    """OOM rows against the fits call; rows that were never run (a dash in the source) do not count."""
    judged = [r for r in rows if "not run" not in r.run.text("notes").lower()]
    oom = [r for r in judged if r.run.text("outcome") == "oom"]
    ok = [r for r in judged if r.run.text("outcome") in ("", "ok")]
    out.oom_rows = len(oom)
    called = [r for r in oom + ok if r.fits is False]
    hit = sum(r.run.text("outcome") == "oom" for r in called)
    if oom:
        out.oom_recall = hit / len(oom)
        out.oom_precision = hit / len(called) if called else math.nan
    if ok:
        out.false_alarms = (len(called) - hit) / len(ok)
