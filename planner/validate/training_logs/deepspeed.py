"""DeepSpeed's engine: ``..., CurrSamplesPerSec=8.0, MemAllocated=59.65GB, MaxMemAllocated=63.31GB``, and its config.

Formats from deepspeedai/DeepSpeed: throughput and wall-clock lines deepspeed/utils/timer.py (commit 038beb63), dump of
the configuration deepspeed/runtime/config.py (commit 3a890ec5); the older ``0/40, SamplesPerSec=83.49`` stands in issue
1825 and ``time (ms) | forward: ... | backward: ... | step: ...`` in issue 3742 of that repository. Sequences per second
are those of the whole run, memory is what tensors allocate in 2^30 bytes under the name of GB.
"""

from __future__ import annotations

import json
import re
from typing import Any

from .base import LogFacts, last_of, number, settings, whole, year_of

FRAMEWORK = "DeepSpeed"
_CURRENT = re.compile(r"(?:global_step=|\b\d+/)(\d+), .*?CurrSamplesPerSec=([\d.eE+-]+)")
_RUNNING = re.compile(r"(?:global_step=|\b\d+/)(\d+), .*?(?:RunningAvg)?SamplesPerSec=([\d.eE+-]+)")
_MEMORY = re.compile(r"MaxMemAllocated=(\d+(?:\.\d+)?)GB")
_CLOCK = re.compile(
    r"time \(ms\) \|.*?\b(?:forward|fwd): (\d+(?:\.\d+)?)"
    r".*?\b(?:backward|bwd): (\d+(?:\.\d+)?).*?\bstep: (\d+(?:\.\d+)?)"
)
_DUMP = ("world_size", "train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")


def matches(text: str) -> bool:
    """Whether DeepSpeed's throughput or wall-clock lines are in the text."""
    return any(pattern.search(text) for pattern in (_RUNNING, _CLOCK))


def read(text: str) -> LogFacts:
    """Throughput (or time of a step), memory, batch and ZeRO."""
    facts = LogFacts(FRAMEWORK, "samples_per_s")
    facts.values = _rates(text)
    if not facts.values:
        facts.quantity = "step_s"
        facts.values = [sum(map(float, parts)) / 1e3 for parts in _CLOCK.findall(text)]
        facts.notes.append("step time is forward, backward and update of the wall-clock breakdown, added up")
    for peak in _MEMORY.findall(text):
        facts.peak(float(peak), "allocated")
    facts.state(year=year_of(text))
    _read_config(facts, text)
    return facts


def _rates(text: str) -> list[float]:
    for pattern in (_CURRENT, _RUNNING):
        pairs = [(int(step), value) for step, rate in pattern.findall(text) if (value := number(rate)) is not None]
        if pairs:
            return last_of(pairs)
    return []


def _read_config(facts: LogFacts, text: str) -> None:
    dump = dict(re.findall(r"\b(\w+) \.* (\d+)\s*$", text, re.MULTILINE))  # long names leave no room for dots
    config = _json_dump(text)
    stated = {**settings(json.dumps(config), _DUMP), **dump}
    micro, accumulated = whole(stated, "train_micro_batch_size_per_gpu"), whole(stated, "gradient_accumulation_steps")
    batch, replicas = whole(stated, "train_batch_size"), whole(stated, "world_size")
    facts.state(micro_batch=micro, global_batch_sequences=batch)
    if replicas is None and batch and micro:
        replicas = batch // (micro * (accumulated or 1))
    facts.state(dp=replicas)
    zero = _part(config, "zero_optimization")
    stage = re.search(r"zero_optimization_stage \.{2,} (\d)|zero_config \.{2,} .*?\bstage['\"]?\s*[=:]\s*(\d)", text)
    level = zero.get("stage")
    if level is None and stage:
        level = int(stage.group(1) or stage.group(2))
    if isinstance(level, int):
        on_host = _part(zero, "offload_optimizer").get("device") == "cpu"
        facts.state(zero_stage_or_fsdp=f"zero{level}" + (", optimizer on cpu" if on_host else ""))
    for name in ("bf16", "bfloat16", "fp16"):
        if _part(config, name).get("enabled") is True:
            facts.state(precision=name.replace("bfloat16", "bf16"))


def _part(config: dict[str, Any], name: str) -> dict[str, Any]:
    found = config.get(name)
    return found if isinstance(found, dict) else {}


def _json_dump(text: str) -> dict[str, Any]:
    """The configuration that the engine prints as ``json = {...}``; empty where it does not."""
    start = re.search(r"\bjson = (?=\{)", text)
    if start is None:
        return {}
    try:
        found, _ = json.JSONDecoder().raw_decode(text, start.end())
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
