"""A row of measurements as a problem of the cost model: what it states, what it leaves open, what was read into it.

Columns in: see docs/backtest.md. Nothing here looks at the row's result.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any

from ...costmodels.compute import attention_kernel
from ...costmodels.load_recipes import Recipe, recipe_for
from ...costmodels.load_software import Era, on_gpu, software_for_run
from ...costmodels.model_dims import model_from_dims
from ...costmodels.model_spec import ModelSpec
from ...costmodels.parallel import LayerSplit
from ...costmodels.software import Software
from ...costmodels.workload import OPTIMIZER_BYTES, Workload
from ...hardware_profiles.errors import MeshwrightError
from ...hardware_profiles.load import cluster_from_gpu, gpu_assumption, load_gpu, resolve_gpu
from ...hardware_profiles.types import Cluster, Gpu
from .interconnect import parse_network
from .row_words import (
    METHODS,
    Stated,
    accumulation_steps,
    lora_rank,
    read_method,
    read_notes,
    read_precision,
    read_recompute,
    read_task,
    read_zero,
)
from .runs import BadCellError, Run
from .site import NO_YEAR, Site
from .source_facts import SourceFacts, facts_of

_DEGREES = ("tp", "pp", "cp", "ep", "vp")


class RowSkippedError(Exception):
    """The row does not state enough; the message is the reason in its own words."""


@dataclass(slots=True)
class RowProblem:
    """One row, ready to be priced.

    Attributes:
        known: ``ParallelConfig`` fields that the row or its source states.
        defaults: fields that follow from the framework release.
        assumed: kind of assumption -> sentence; kinds are those of ``costmodels/software/residuals.yaml``.
        group: rows with an equal group share one call of the cost model.
        method: method of a pipeline study (``baseline``, ``vocab-1`` ...), empty otherwise.
    """

    run: Run
    model: ModelSpec
    workload: Workload
    cluster: Cluster
    software: Software
    era: Era
    n_gpus: int
    known: dict[str, int]
    defaults: dict[str, int]
    assumed: dict[str, list[str]] = field(default_factory=dict)
    method: str = ""
    group: tuple[object, ...] = ()

    def assume(self, kind: str, sentence: str | None) -> None:
        """Note an assumption (nothing if the sentence is empty)."""
        if sentence:
            self.assumed.setdefault(kind, []).append(sentence)


def row_problem(run: Run, site: Site | None = None) -> RowProblem:
    """Read one row.

    Args:
        site: where a user's own run was made (the row went through ``site.placed``); vendors' recipes and what is
            known of published sources then do not apply.

    Raises:
        RowSkippedError: the row lacks or garbles what a prediction needs.
    """
    if run.broken:
        raise RowSkippedError(run.broken)
    try:
        return _build(run, site)
    except BadCellError as error:
        raise RowSkippedError(str(error)) from None
    except MeshwrightError as error:
        raise RowSkippedError(str(error).rstrip(".")) from None


def _required(run: Run, column: str) -> int:
    value = run.integer(column)
    if value is None:
        raise RowSkippedError(f"{column} is not stated")
    return value


def _build(run: Run, site: Site | None) -> RowProblem:
    if not run.text("gpu"):
        raise RowSkippedError("gpu is not stated")
    n_gpus, seq_len = _required(run, "n_gpus"), _required(run, "seq_len")
    facts = SourceFacts() if site is not None else facts_of(run.source, run.text("source_url_or_repo_path"))
    gpu, cluster, cluster_notes = _machine(run, n_gpus, site)
    exact = site.model_of(run) if site is not None else None
    model, model_notes = (exact, []) if exact is not None else _model(run, facts)
    software, era, software_why = _software(run, gpu, facts, site)
    workload, workload_notes = _workload(run, gpu, era, facts, seq_len, site)
    recipe = Recipe()
    if site is None:
        recipe = recipe_for(
            era.software.name, model=model.name, gpu=gpu.name, precision=workload.precision, notes=run.text("notes")
        )
    software = replace(software, **recipe.software) if recipe.software else software
    workload = replace(workload, **{**recipe.workload, **facts.workload})
    row = RowProblem(
        run=run,
        model=model,
        workload=workload,
        cluster=cluster,
        software=software,
        era=era,
        n_gpus=n_gpus,
        known={},
        defaults={**software.defaults, **recipe.config},
        method=read_method(run.text("notes"), run.text("model_name")),
    )
    for note in model_notes:
        if site is None or " of " not in note:  # who names a shipped model for an own run means its dimensions
            row.assume("dimensions", note)
    for note in cluster_notes:
        row.assume("network", note)
    for note in workload_notes:
        row.assume("numerics", note)
    row.assume("software", software_why)
    row.assume("hardware", gpu_assumption(run.text("gpu")) if site is None else None)
    if row.method and row.method not in METHODS:
        row.assume("method", f"method {row.method} priced as the baseline pipeline")
    _configure(row, facts)
    return row


def _machine(run: Run, n_gpus: int, site: Site | None) -> tuple[Gpu, Cluster, list[str]]:
    if site is not None:
        return site.base.gpu, site.cluster_of(n_gpus), []
    gpu = load_gpu(resolve_gpu(run.text("gpu"), run.number("gpu_memory_gb")))
    return (gpu, *_cluster(run, gpu, n_gpus))


def _model(run: Run, facts: SourceFacts) -> tuple[ModelSpec, list[str]]:
    columns = (
        "n_layers", "hidden", "n_heads", "n_kv_heads", "ffn_hidden", "vocab", "n_experts", "top_k",
        "moe_ffn_hidden", "n_moe_layers", "seq_len",
    )  # fmt: skip
    cells: dict[str, Any] = {name: run.integer(name) for name in columns}
    if cells["n_heads"] is None:
        cells["n_heads"] = facts.heads_by_hidden.get(cells["hidden"], facts.heads_by_hidden.get(0))
    mpt = "mpt" in run.text("model_name").lower()
    said = re.search(r"\bstyle=(\w+)", run.text("notes"))
    family = said.group(1) if said else "mpt" if mpt else None
    model, notes = model_from_dims(name=run.text("model_name") or "unnamed", family=family, **cells)
    if facts.model:
        model = replace(model, **facts.model)
    style = re.compile(r"-style layers|dropout on")  # a row's columns cannot say this: no cell is empty for it
    return model, [note for note in notes if not style.search(note)]


def _cluster(run: Run, gpu: Gpu, n_gpus: int) -> tuple[Cluster, list[str]]:
    notes: list[str] = []
    per_node = run.integer("gpus_per_node")
    spans = n_gpus > (per_node or 8)
    network = parse_network(run.text("interconnect"), per_node or 8)
    if per_node is None:
        notes.append("gpus_per_node is the GPU's usual")
    if spans and network.bytes_per_s_per_gpu is None:
        notes.append("network between nodes is the GPU's usual adapter")
    if n_gpus % (per_node or 8) and spans:
        notes.append("last node partly used, priced as whole nodes")
    cluster = cluster_from_gpu(
        gpu,
        n_gpus=_whole_nodes(n_gpus, per_node or 8),
        gpus_per_node=per_node,
        scale_out_bytes_per_s_per_gpu=network.bytes_per_s_per_gpu,
        scale_out_kind=network.kind,
        scale_up_domain_gpus=network.scale_up_gpus or None,
    )
    return cluster, notes


def _whole_nodes(n_gpus: int, per_node: int) -> int:
    return n_gpus if n_gpus <= per_node else -(-n_gpus // per_node) * per_node


def run_year(run: Run) -> int | None:
    """Year of a run: its cell, else the year in an arXiv number of its source id (``2205.05198`` is 2022)."""
    year = run.integer("year")
    if year is not None:
        return year
    arxiv = re.search(r"\b(\d{2})(0[1-9]|1[0-2])\.\d{4,5}\b", run.source)
    return 2000 + int(arxiv.group(1)) if arxiv else None


def _software(run: Run, gpu: Gpu, facts: SourceFacts, site: Site | None) -> tuple[Software, Era, str | None]:
    if site is not None and site.era is not None:
        return on_gpu(site.era, gpu), site.era, None
    words = " ".join(run.text(name) for name in ("source_id", "source_url_or_repo_path", "model_name", "notes"))
    words += " " + run.text("zero_stage_or_fsdp")
    option = "compile" if re.search(r"torch\.?compile", words) or run.text("precision").startswith("fp8") else "eager"
    changes = dict(facts.software)
    blocking = re.search(r"CUDA_LAUNCH_BLOCKING\s*=\s*([01])", run.text("notes"))
    if blocking:
        changes["launch_blocking"] = blocking.group(1) == "1"
    options = (option, "blocking") if changes.get("launch_blocking") else (option,)
    year = run_year(run) if site is None else run.integer("year") or NO_YEAR
    software, era, why = software_for_run(run.text("framework"), year, gpu.architecture, words, options)
    kernel = attention_kernel(gpu, software.attention)
    if kernel != software.attention:
        changes["attention"] = kernel
        why = "; ".join(filter(None, (why, f"{gpu.name} has no {software.attention} attention, {kernel} is taken")))
    return (replace(software, **changes) if changes else software), era, why


def _workload(
    run: Run, gpu: Gpu, era: Era, facts: SourceFacts, seq_len: int, site: Site | None
) -> tuple[Workload, list[str]]:
    notes: list[str] = []
    text = run.text("notes")
    precision, why = read_precision(run.text("precision"), gpu.architecture)
    if "precision" in facts.workload:
        precision, why = str(facts.workload["precision"]), None
    notes += [why] if why else []
    task, why = read_task(run.text("task"))
    notes += [why] if why else []
    grad = era.grad_dtype_bytes.get(precision, 2.0 if precision == "fp16" else 4.0)
    if site is not None and era.software.framework == "megatron-lm" and precision != "fp16":
        grad = 4.0  # as ``plan`` takes it for a user's own run
    said = re.search(r"\bgrads=(fp32|bf16)\b", text)
    if said:
        grad = 4.0 if said.group(1) == "fp32" else 2.0
    if "mixed precision PURE" in text:
        grad = 2.0
    if "fp32 reduce" in run.text("zero_stage_or_fsdp"):
        grad = 4.0
    rank = 0
    if task == "lora":
        rank = lora_rank(text) or 16
        if lora_rank(text) is None:
            notes.append("LoRA rank 16")
    workload = Workload(
        seq_len=seq_len,
        global_batch=_global_batch(run, notes),
        task=task,
        precision=precision,
        optimizer=_optimizer(run),
        grad_dtype_bytes=grad,
        lora_rank=rank,
        token_drop=1.0 if "tokendrop" in text.replace("unless tokendrop", "") else 0.0,
    )
    return workload, notes


def _optimizer(run: Run) -> str:
    """Kind of optimizer: the cell where it is one of ours, else what the notes say."""
    cell = run.text("optimizer").lower()
    if cell in OPTIMIZER_BYTES:
        return cell
    return "adam_8bit" if re.search(r"bnb|8-bit adam", run.text("notes"), re.IGNORECASE) else "adam_fp32"


def _global_batch(run: Run, notes: list[str]) -> int:
    batch = run.integer("global_batch_sequences")
    if batch is not None:
        return batch
    steps, micro, dp = accumulation_steps(run.text("notes")), run.integer("micro_batch"), run.integer("dp")
    if steps is None or micro is None or dp is None:
        raise RowSkippedError("global_batch_sequences is not stated")
    notes.append(f"global batch {steps * micro * dp} from micro-batch, dp and accumulation")
    return steps * micro * dp


def _configure(row: RowProblem, facts: SourceFacts) -> None:
    """Collect stated fields; derive dp (and check it) from the GPU count; choose the layer split."""
    run, known = row.run, row.known
    for name in _DEGREES:
        value = run.integer(name)
        if value is not None:
            known[name] = value
    micro = run.integer("micro_batch")
    if micro is not None:
        known["micro_batch_size"] = micro
    if run.text("sp"):
        known["sequence_parallel"] = int(run.text("sp") in ("1", "1.0", "true", "True"))
    _take(row, read_zero(run.text("zero_stage_or_fsdp")))
    _take(row, read_recompute(run.text("recompute"), row.model.n_layers, framework=row.software.framework))
    _take(row, read_notes(run.text("notes")))
    known.update(METHODS.get(row.method, {}))
    known.update({name: value for name, value in facts.where_stated.items() if known.get(name)})
    for name, value in facts.config.items():
        known.setdefault(name, value)
    for name, value in facts.instead.items():
        if known.get(name, value) != value:
            row.assume("contradicted", f"{name} {_shown(name, value)}, not as the row says: {facts.instead_why}")
        known[name] = value
    if row.model.moe is None:
        known["ep"] = 1
    _degrees(row)
    if {"pp"} <= set(known):
        vp = known.get("vp", row.defaults.get("vp", 1))
        known.setdefault("layer_split", layer_split(row.model.n_layers, known["pp"] * vp))


def _shown(name: str, value: int) -> str:
    return "off" if name == "recompute" and not value else str(value)


def _take(row: RowProblem, stated: Stated) -> None:
    row.known.update(stated.fields)
    for sentence in stated.assumed:
        row.assume("recompute" if "ecompute" in sentence or "checkpoint" in sentence else "method", sentence)


def layer_split(n_layers: int, chunks: int) -> int:
    """Even where it divides; embedding and loss counted as layers where that divides; else uneven chunks."""
    if n_layers % chunks == 0:
        return int(LayerSplit.EVEN)
    if (n_layers + 2) % chunks == 0:
        return int(LayerSplit.EMBEDDING_AND_LOSS_COUNT)
    return int(LayerSplit.LAYOUT)


def _degrees(row: RowProblem) -> None:
    """dp follows from the GPU count once tp, pp and cp are known; cp is 1 unless the count says otherwise."""
    known, n = row.known, row.n_gpus
    if "tp" not in known or "pp" not in known:
        return
    stated_dp = row.run.integer("dp")
    rest = n / (known["tp"] * known["pp"])
    if "cp" not in known:
        cp = rest / stated_dp if stated_dp else 1.0
        known["cp"] = int(cp) if cp >= 1 and cp == int(cp) and row.model.moe is None else 1
    dp = rest / known["cp"]
    if dp < 1 or dp != int(dp):
        row.assume("layout", f"tp*pp*cp does not divide {n} GPUs, dp rounded")
        known["cp"] = max(1, min(known["cp"], int(rest)))
        dp = max(1, int(rest / known["cp"]))
    elif stated_dp is not None and stated_dp != dp:
        row.assume("layout", f"dp={dp:g} from the GPU count, the row says {stated_dp}")
    known["dp"] = int(dp)
