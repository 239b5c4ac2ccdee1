"""From a training log to a row of measured runs: the log's own words, completed by a plan and by what the user adds."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...costmodels.load_model import find_model
from ...costmodels.model_spec import ModelSpec
from ...hardware_profiles.errors import InvalidProblemError
from ..plan import Plan, PlanSet
from .plan_cells import COLUMNS, cells_of, model_cells
from .runs import Run
from .training_logs import read_log
from .training_logs.base import LogFacts, Settled, settle

#: columns in which a log and the plan that is said to be its own must agree.
_AGREE = (
    "n_gpus", "tp", "pp", "cp", "ep", "dp", "micro_batch", "seq_len", "global_batch_sequences", "n_layers", "hidden",
)  # fmt: skip
_COUNTED = {"allocated": "max_memory_allocated", "reserved": "max_memory_reserved", "device": "nvidia-smi"}


@dataclass(frozen=True, slots=True, kw_only=True)
class LogOptions:
    """What a user adds to a log that does not say all.

    Attributes:
        model: exact model; plan: the plan that was run, with the set that it stands in, and what to call it.
        n_gpus: GPUs, where neither log nor plan says; usual_gpus: the same, taken last and without contradiction.
        warm_up: lines to leave out at the start (``None``: see ``settle``).
    """

    model: ModelSpec | None = None
    plan: tuple[PlanSet, Plan] | None = None
    plan_name: str = "the plan"
    seq_len: int | None = None
    n_gpus: int | None = None
    usual_gpus: int | None = None
    warm_up: int | None = None


@dataclass(slots=True)
class LogRow:
    """One log as a row.

    Attributes:
        model: the exact model where the log or the user names it.
        notes: sentences about what was read, assumed and left out.
    """

    run: Run
    model: ModelSpec | None
    notes: list[str] = field(default_factory=list)


def row_of_log(path: str | Path, options: LogOptions) -> LogRow:
    """Read a log and complete it.

    Raises:
        InvalidProblemError: the log cannot be read, contradicts the plan, or does not say what a row needs.
    """
    facts = read_log(path)
    name = str(path)
    model, cells = _configuration(name, facts, options)
    if options.warm_up is not None and options.warm_up >= len(facts.values):
        raise InvalidProblemError(f"--warmup {options.warm_up} leaves none of the {len(facts.values)} lines of {name}.")
    settled = settle(facts.values, options.warm_up)
    step_s = _step_s(facts, settled, cells)
    tokens = int(cells["global_batch_sequences"]) * int(cells["seq_len"])
    words = [w for w in (cells.get("notes", ""), *facts.words) if w]
    cells |= {
        "source_id": Path(name).stem,
        "framework": facts.framework,
        "outcome": "ok",
        "step_time_s": f"{step_s:.6g}",
        "tps_gpu_effective": f"{tokens / step_s / int(cells['n_gpus']):.6g}",
    }
    if facts.memory_gib is not None:
        cells["peak_memory_gb"] = f"{facts.memory_gib:.6g}"
        words.append(_COUNTED[facts.memory_method or "device"])
    cells["notes"] = "; ".join([*words, f"median of {settled.used} of {len(facts.values)} logged steps"])
    said = (
        f"{facts.framework}, {step_s:.4g} s a step: median of {settled.used} of {len(facts.values)} lines, without "
        f"{settled.warm_up} of warm-up and {settled.outliers} outliers"
    )
    notes = [f"{name}: {sentence}." for sentence in (said, *(note.rstrip(".") for note in facts.notes))]
    return LogRow(Run(name, 0, cells), model, notes)


def _configuration(name: str, facts: LogFacts, options: LogOptions) -> tuple[ModelSpec | None, dict[str, str]]:
    """Model and cells: the plan's, where there is one, with what the log says besides; then what the user adds."""
    cells, model = dict(facts.cells), facts.model
    if options.plan is not None:
        plan_set, plan = options.plan
        planned = cells_of(plan_set.problem.model, plan_set.problem.workload, plan.config)
        planned["precision"] = plan.precision
        _agree(name, cells, planned, options.plan_name)
        facts.words = [word for word in facts.words if not word.startswith(("grads=", "set("))]
        cells, model = {**cells, **planned}, plan_set.problem.model
    if options.model is not None:
        given = model_cells(options.model)
        _agree(name, cells, given, "--model")
        cells, model = {**cells, **{k: v for k, v in given.items() if v}}, options.model
    for column, value, flag in (("seq_len", options.seq_len, "--seq-len"), ("n_gpus", options.n_gpus, "--gpus")):
        if value is not None:
            _agree(name, cells, {column: str(value)}, flag)
            cells[column] = str(value)
    _fill_gpus(facts, cells, options.usual_gpus)
    _require(name, model, cells)
    return model, cells


def _agree(name: str, cells: dict[str, str], other: dict[str, str], place: str) -> None:
    for column in _AGREE:
        mine, theirs = cells.get(column), other.get(column)
        if mine and theirs and mine != theirs:
            raise InvalidProblemError(
                f"{name} says {column} {mine}, but {place} says {theirs}; give what this log was run with."
            )


def _fill_gpus(facts: LogFacts, cells: dict[str, str], usual: int | None) -> None:
    """GPUs where they are not stated: DeepSpeed's replicas, if nothing else splits the model; else the cluster's."""
    replicas = cells.get("dp", "")
    split = any(name in cells for name in ("tp", "pp", "cp"))
    if replicas and not split and cells.get("n_gpus", replicas) == replicas:
        if "n_gpus" not in cells:
            facts.notes.append(f"taken as {replicas} GPUs without tensor or pipeline parallelism, see --plan")
        cells |= {"n_gpus": replicas, "tp": "1", "pp": "1", "cp": "1"}
    elif "n_gpus" not in cells and usual is not None:
        facts.notes.append(f"taken as all {usual} GPUs of the cluster, see --gpus")
        cells["n_gpus"] = str(usual)


def _require(name: str, model: ModelSpec | None, cells: dict[str, str]) -> None:
    """A row needs a model, GPUs, a sequence length and a batch."""
    known = model is not None or ("n_layers" in cells and "hidden" in cells)
    if not known and find_model(cells.get("model_name", "")) is None:
        raise InvalidProblemError(f"{name} does not say which model it trains; give --model, or --plan.")
    needed = {"n_gpus": "--gpus or --plan", "seq_len": "--seq-len or --plan", "global_batch_sequences": "--plan"}
    for column, flag in needed.items():
        if not cells.get(column, "").isdigit() or int(cells[column]) == 0:
            raise InvalidProblemError(f"{name} does not say its {column}; give {flag}.")


def _step_s(facts: LogFacts, settled: Settled, cells: dict[str, str]) -> float:
    """Seconds of a step from whatever the log counts."""
    batch = int(cells["global_batch_sequences"])
    if facts.quantity == "step_s":
        return settled.median
    if facts.quantity == "samples_per_s":
        return batch / settled.median
    return batch * int(cells["seq_len"]) / settled.median / int(cells["n_gpus"])


def runs_csv(runs: Sequence[Run]) -> str:
    """Rows as a table that ``calibrate`` and ``backtest`` read again: ``COLUMNS``, then whatever else the rows hold."""
    extra = sorted({name for run in runs for name, text in run.cells.items() if text} - set(COLUMNS))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*COLUMNS, *extra])
    for run in runs:
        writer.writerow([run.text(name) for name in (*COLUMNS, *extra)])
    return out.getvalue()
