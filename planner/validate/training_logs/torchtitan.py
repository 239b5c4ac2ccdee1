"""TorchTitan: ``step: 10  loss: ...  memory: 30.50GiB(38.55%)  tps: 7,012  tflops: ...  mfu: ...``.

Formats from pytorch/torchtitan: step line torchtitan/components/metrics.py (commit 00fbaafa), the older spelling
``wps`` train.py (commit 5604ab16), mesh line torchtitan/distributed/parallel_dims.py (commit 73bb964d) and its
successor with every degree as version 0.2.2 logs it (``Building device mesh with parallelism: pp=1, ...``). ``tps`` is
tokens per second and device (the non-data-parallel size is divided out), ``memory`` what the allocator reserved at the
peak since the last line, in GiB. Of lines that several ranks print for one step the last counts.
"""

from __future__ import annotations

import math
import re

from .base import LogFacts, last_of, number, whole, year_of

FRAMEWORK = "TorchTitan"
_STEP = re.compile(
    r"(?<!validate )\bstep:\s*(\d+)\s+.*?\bmemory:\s*(\d+(?:\.\d+)?)GiB\([\d.]+%\)\s+.*?\b(?:tps|wps):\s*([\d,]+)",
    re.IGNORECASE,
)
_MESH = re.compile(r"device mesh with [\[(]([^\])]*)[\])],\s*\[([\d,\s]+)\]")
_DEGREES = re.compile(r"device mesh with parallelism:\s*([\w=,\s]+?)\s*$", re.MULTILINE)
_DIMENSIONS = {"n_layers": "n_layers", "dim": "hidden", "n_heads": "n_heads", "n_kv_heads": "n_kv_heads"}


def matches(text: str) -> bool:
    """Whether TorchTitan's step lines are in the text."""
    return _STEP.search(text) is not None


def read(text: str) -> LogFacts:
    """Throughput, memory, mesh, batch and model."""
    facts = LogFacts(FRAMEWORK, "tokens_per_s_per_gpu")
    pairs = []
    for step, memory, tps in _STEP.findall(text):
        value = number(tps)
        if value is not None:
            pairs.append((int(step), value))
        facts.peak(float(memory), "reserved")
    facts.values = last_of(pairs)
    facts.state(year=year_of(text))
    degrees = _degrees(text)
    _read_layout(facts, degrees)
    _read_batch(facts, text, degrees)
    _read_model(facts, text)
    _read_options(facts, text, started=bool(degrees))
    return facts


def _degrees(text: str) -> dict[str, int]:
    """Degree by mesh dimension, of the newer line with all of them or the older one with those above 1."""
    named = _DEGREES.search(text)
    if named:
        return {name: int(value) for name, value in re.findall(r"(\w+)=(\d+)", named.group(1))}
    listed = _MESH.search(text)
    if listed is None:
        return {}
    names = re.findall(r"\w+", listed.group(1))
    return dict(zip(names, (int(n) for n in re.findall(r"\d+", listed.group(2))), strict=False))


def _read_layout(facts: LogFacts, degrees: dict[str, int]) -> None:
    if not degrees:
        return
    shard = degrees.get("dp_shard", degrees.get("dp", 1))
    if {"dp_shard_mod_ep", "dp_shard_in_ep"} & set(degrees):  # expert parallelism splits the sharding dimension in two
        shard = degrees.get("dp_shard_mod_ep", 1) * degrees.get("dp_shard_in_ep", 1)
    replicate, cp = degrees.get("dp_replicate", 1), degrees.get("cp", 1)
    tp, pp = degrees.get("tp", 1), degrees.get("pp", 1)
    facts.state(tp=tp, pp=pp, cp=cp, dp=shard * replicate, n_gpus=tp * pp * cp * shard * replicate)
    facts.state(ep=degrees.get("ep"), sp=int(tp > 1))
    if shard * cp == 1:
        facts.state(zero_stage_or_fsdp="ddp")
    else:
        facts.state(zero_stage_or_fsdp=f"fsdp over {shard * cp} gpus" if replicate > 1 else "fsdp")


def _read_batch(facts: LogFacts, text: str, degrees: dict[str, int]) -> None:
    local, total, length = (
        re.search(rf"{words}:?\s+(\d+)", text, re.IGNORECASE)
        for words in ("local batch size", "global batch size", "sequence length")
    )
    facts.state(seq_len=length.group(1) if length else None)
    if total:
        facts.state(global_batch_sequences=total.group(1))
    elif local and degrees:  # before gradient accumulation came, the global batch was not printed
        facts.state(global_batch_sequences=int(local.group(1)) * int(facts.cells["dp"]))
    schedule = re.search(r"pipeline schedule (\w+) with (\d+) microbatches and (\d+) stages", text)
    pp = degrees.get("pp", 1)
    if local and pp == 1:
        facts.state(micro_batch=local.group(1))
    elif local and schedule:
        facts.state(micro_batch=max(1, int(local.group(1)) // int(schedule.group(2))))
    if schedule and pp > 1:
        facts.state(vp=max(1, int(schedule.group(3)) // pp))


def _read_model(facts: LogFacts, text: str) -> None:
    named = re.search(r"\b(?:Building|Model) (\w[\w.-]*) (\w[\w.-]*) (?:with \w*Args\((.*)\)|size:)", text)
    if named is None:
        return
    facts.state(model_name=f"{named.group(1)}-{named.group(2)}")
    args = re.search(r"\b(?:Building|Model) .* with \w*Args\((.*)\)", text)
    if args is None:
        return
    said = dict(re.findall(r"\b(\w+)=(\d+(?:\.\d+)?)", args.group(1)))
    facts.state(**{column: said[name] for name, column in _DIMENSIONS.items() if name in said})
    facts.words.append("style=llama")
    facts.state(vocab=whole(said, "vocab_size"))
    dim, multiple = whole(said, "dim"), whole(said, "multiple_of")
    if dim and multiple and "moe" not in args.group(1):
        inner = int(float(said.get("ffn_dim_multiplier", 1.0)) * int(8 * dim / 3))
        facts.state(ffn_hidden=math.ceil(inner / multiple) * multiple)


def _read_options(facts: LogFacts, text: str, *, started: bool) -> None:
    """Recompute, compilation, precision; that nothing is said counts only where the start of the run is in the log."""
    recompute = re.search(r"Applied (full|selective)(?:AC)? activation checkpointing", text, re.IGNORECASE)
    if recompute:
        facts.state(recompute=recompute.group(1).lower())
    elif started:
        facts.state(recompute="none")
    if re.search(r"with torch\.compile|Compiling the model|Compiling each", text):
        facts.words.append("torch.compile")
    if re.search(r"MXFP8|mxfp8", text):
        facts.state(precision="mxfp8")
    elif re.search(r"Float8 training active|Swapped to Float8", text):
        facts.state(precision="fp8")
    elif started:
        facts.state(precision="bf16")
    gpu = re.search(r"capacity: (.+?) with [\d.]+GiB memory", text)
    if gpu:
        facts.state(gpu=gpu.group(1))
