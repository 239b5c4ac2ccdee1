"""NeMo and Megatron-Bridge: ``train_step_timing in s`` in progress lines, ``Step Time : 14.26s GPU utilization: ...``.

Formats from NVIDIA/NeMo nemo/lightning/pytorch/callbacks/progress_printer.py (commit 01f7dbc5; NeMo 2), the progress
bar of NeMo 1 as logged in issue 55 of NVIDIA/NeMo-Framework-Launcher (``global_step=794.0, consumed_samples=1.63e+6``),
and NVIDIA-NeMo/Megatron-Bridge src/megatron/bridge/training/utils/train_utils.py (commit 355cef45), which prints
Megatron-LM's iteration lines as well; those have more digits and go first. The configuration is read where the log
prints it as YAML or as ``name: value``.
"""

from __future__ import annotations

import re
from collections import Counter

from . import megatron_lm
from .base import LogFacts, flag, last_of, number, settings, whole, year_of

FRAMEWORK = "NeMo"
_TIMING = re.compile(r"train_step_timing in s\s*[=:]\s*([\d.eE+-]+)")
_LINE = re.compile(r"^.*train_step_timing in s\s*[=:].*$", re.MULTILINE)
_BRIDGE = re.compile(r"Step Time\s*:\s*(\d+(?:\.\d+)?)\s*s\b.*?TFLOP")
_GIGABYTES = re.compile(r"mem-max-reserved-gigabytes: (\d+(?:\.\d+)?)")  # 10^9 bytes
_EXACT = 1e5  # consumed samples beyond this are printed rounded to three digits in NeMo 1, and steps from 1000 on
_ROUNDED_FROM = 10**6
_COLUMNS = {
    "tensor_model_parallel_size": "tp", "pipeline_model_parallel_size": "pp", "context_parallel_size": "cp",
    "expert_model_parallel_size": "ep", "virtual_pipeline_model_parallel_size": "vp", "micro_batch_size": "micro_batch",
    "global_batch_size": "global_batch_sequences", "num_layers": "n_layers", "hidden_size": "hidden",
    "ffn_hidden_size": "ffn_hidden", "num_attention_heads": "n_heads", "num_query_groups": "n_kv_heads",
    "num_moe_experts": "n_experts", "moe_router_topk": "top_k", "moe_ffn_hidden_size": "moe_ffn_hidden",
    "world_size": "n_gpus",
}  # fmt: skip
_OTHERS = (
    "seq_length", "encoder_seq_length", "num_nodes", "devices", "sequence_parallel", "use_distributed_optimizer",
    "recompute_granularity", "activations_checkpoint_granularity", "recompute_num_layers",
    "activations_checkpoint_num_layers", "fp8", "precision", "bf16", "fp16", "tp_comm_overlap", "ub_tp_comm_overlap",
    "grad_reduce_in_fp32",
)  # fmt: skip


def matches(text: str) -> bool:
    """Whether lines of NeMo or Megatron-Bridge are in the text."""
    return _TIMING.search(text) is not None or _BRIDGE.search(text) is not None


def read(text: str) -> LogFacts:
    """Step times, batch, memory and what the printed configuration says."""
    facts = LogFacts(FRAMEWORK)
    _read_config(facts, text)
    if _TIMING.search(text):
        _read_progress(facts, text)
    else:
        facts.framework = "Megatron-Bridge"
        inner = megatron_lm.read(text)
        facts.values = inner.values or [float(t) for t in _BRIDGE.findall(text)]
        if inner.memory_gib is not None and inner.memory_method:
            facts.peak(inner.memory_gib, inner.memory_method)
        for gigabytes in _GIGABYTES.findall(text):
            facts.peak(float(gigabytes) * 1e9 / 2**30, "reserved")
        facts.cells = {**facts.cells, **inner.cells}
    facts.state(year=year_of(text))
    return facts


def _read_progress(facts: LogFacts, text: str) -> None:
    """One line for each step; NeMo 1 redraws its bar, so that steps repeat."""
    pairs, batches = [], Counter[int]()
    for count, line in enumerate(_LINE.findall(text)):
        timing = _TIMING.search(line)
        said = {name: _float(line, name) for name in ("global_step", "consumed_samples", "global_batch_size")}
        step, consumed = said["global_step"], said["consumed_samples"]
        rounded = step is None or re.search(r"global_step\s*[=:]\s*[\d.]+e", line) is not None
        if timing and (seconds := number(timing.group(1))) is not None:
            pairs.append((_ROUNDED_FROM + count if rounded or step is None else int(step), seconds))
        if said["global_batch_size"]:
            batches[int(said["global_batch_size"])] += 1
        elif step is not None and consumed and consumed < _EXACT and (consumed % (step + 1)) == 0:
            batches[int(consumed // (step + 1))] += 1
    facts.values = last_of(pairs)
    if batches and "global_batch_sequences" not in facts.cells:
        facts.state(global_batch_sequences=batches.most_common(1)[0][0])


def _float(line: str, name: str) -> float | None:
    found = re.search(rf"\b{name}\s*[=:]\s*(\d+(?:\.\d+)?(?:e\+?\d{1, 2})?)", line)
    return float(found.group(1)) if found else None


def _read_config(facts: LogFacts, text: str) -> None:
    """Configuration that stands before the first step (the lines of steps use the same names)."""
    first = _LINE.search(text) or _BRIDGE.search(text)
    head = text[: first.start()] if first else text
    found = settings(head, (*_COLUMNS, *_OTHERS))
    facts.state(**{column: whole(found, name) for name, column in _COLUMNS.items()})
    facts.state(seq_len=whole(found, "seq_length") or whole(found, "encoder_seq_length"))
    nodes, devices = whole(found, "num_nodes"), whole(found, "devices")
    if nodes and devices:
        facts.state(n_gpus=nodes * devices)
    if "sequence_parallel" in found:
        facts.state(sp=int(flag(found, "sequence_parallel")))
    if "use_distributed_optimizer" in found:
        facts.state(zero_stage_or_fsdp="zero1" if flag(found, "use_distributed_optimizer") else "ddp")
    recompute = found.get("recompute_granularity", found.get("activations_checkpoint_granularity", ""))
    if recompute in ("full", "selective"):
        facts.state(recompute=recompute)
    elif re.search(r"(?:recompute|activations_checkpoint)_granularity['\"]?\s*[:=]\s*(?:null|None)", head):
        facts.state(recompute="none")
    _read_precision(facts, found)
    if flag(found, "tp_comm_overlap") or flag(found, "ub_tp_comm_overlap"):
        facts.words.append("set(tp_overlap=1)")
    if "grad_reduce_in_fp32" in found:
        facts.words.append("grads=fp32" if flag(found, "grad_reduce_in_fp32") else "grads=bf16")


def _read_precision(facts: LogFacts, found: dict[str, str]) -> None:
    text = found.get("precision", "")
    if found.get("fp8", "").lower() in ("true", "hybrid", "e4m3"):
        facts.state(precision="fp8")
    elif flag(found, "bf16") or text.startswith("bf16"):
        facts.state(precision="bf16")
    elif flag(found, "fp16") or text.startswith("16"):
        facts.state(precision="fp16")
