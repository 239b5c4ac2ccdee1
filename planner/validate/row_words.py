"""What the words in a run's cells mean: precision, ZeRO, recompute, task, optimizer and a few notes.

Each reader returns what the cell states and, where the text leaves room, a sentence of what was assumed.
An empty cell is unknown, not off.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

from ...costmodels.parallel import CONFIG_FIELDS, LayerSplit, Recompute, Schedule, VocabParallel


@dataclass(slots=True)
class Stated:
    """``ParallelConfig`` fields that a row states, and what had to be read into its words."""

    fields: dict[str, int] = field(default_factory=dict)
    assumed: list[str] = field(default_factory=list)


_PRECISIONS = (
    ("nvfp4", "nvfp4"),
    ("mxfp8", "mxfp8"),
    ("fp8", "fp8"),
    ("fp16", "fp16"),
    ("bf16", "bf16"),
    ("tf32", "tf32"),
    ("fp32", "fp32"),
)


def read_precision(text: str, architecture: str) -> tuple[str, str | None]:
    """Precision recipe of a cell: the narrowest format that it names.

    Where both 16-bit formats are named fp16 is taken (gradients then stay in 16 bits); an empty or vague text
    is fp16 on Volta, which has no bf16, and bf16 elsewhere. Either is an assumption.
    """
    low = text.lower()
    if re.search(r"bf16", low) and re.search(r"fp16", low):
        return "fp16", f"precision {text!r} read as fp16"
    for word, name in _PRECISIONS:
        if word in low:
            return name, None
    usual = "fp16" if architecture == "volta" else "bf16"
    return usual, f"precision {usual}"


def read_zero(text: str) -> Stated:
    """ZeRO stage, sharding group and offload of a cell.

    ``ddp (FSDP=0)`` of Megatron-Bridge only says that its FSDP is off; the stage is then the release's default.
    """
    low, out = text.lower(), Stated()
    if not low or "fsdp=0" in low:
        return out
    stage = re.search(r"(?:zero[-_ ]?|stage\s?)(\d)", low)
    if stage:
        out.fields["zero_stage"] = int(stage.group(1))
    elif "fsdp" in low or "zero++" in low:
        out.fields["zero_stage"] = 3
    elif "ddp" in low:
        out.fields["zero_stage"] = 0
    group = re.search(r"over (\d+) gpus", low) or re.search(r"fsdp\s*[=(]\s*(\d+)", low)
    if group and out.fields.get("zero_stage", 0) > 0:
        out.fields["dp_shard"] = int(group.group(1))
    if "on cpu" in low or "on nvme" in low:
        out.fields["optimizer_offload"] = 1
    if "nvme" in low:
        out.assumed.append("optimizer on NVMe priced as on the host")
    if "zero++" in low:
        out.assumed.append("ZeRO++ priced as ZeRO-3")
    return out


def read_recompute(text: str, n_layers: int, *, framework: str) -> Stated:
    """Recompute mask of a cell; ``selective`` means what the framework means by it.

    Megatron: core attention. TorchTitan's per-operator mode saves attention and every second matrix product, which is
    nearest to recomputing every second layer (its own table for Llama-2-13B on 64 A100: 1,904 against 1,914
    tokens/s/GPU).
    """
    low, out = text.lower(), Stated()
    if not low or "see log" in low:
        return out
    if low.startswith("none"):
        out.fields["recompute"] = int(Recompute.NONE)
    elif low.startswith("full"):
        out.fields["recompute"] = int(Recompute.FULL)
        layers = re.search(r"(\d+) layers", low)
        if layers:
            out.fields["recompute_layers"] = int(layers.group(1))
    elif low.startswith("selective"):
        every = re.search(r"every (\d+)(?:st|nd|rd|th) layer", low)
        if every:
            out.fields["recompute"] = int(Recompute.FULL)
            out.fields["recompute_layers"] = math.ceil(n_layers / int(every.group(1)))
        elif framework == "torchtitan":
            out.fields["recompute"] = int(Recompute.FULL)
            out.fields["recompute_layers"] = math.ceil(n_layers / 2)
            out.assumed.append("per-operator checkpointing priced as every second layer recomputed")
        else:
            out.fields["recompute"] = int(Recompute.CORE_ATTENTION)
        if "some micro-batches" in low:
            out.assumed.append("selective recompute in all micro-batches")
    else:
        out.assumed.append(f"recompute {text[:30]!r} not understood")
    return out


_TASKS = {"": "pretrain", "pretrain": "pretrain", "sft": "sft", "lora": "lora", "pretrain/sft": "pretrain"}


def read_task(text: str) -> tuple[str, str | None]:
    """Task of a cell: ``pretrain``, ``sft`` or ``lora``."""
    low = text.lower()
    if low in _TASKS:
        return _TASKS[low], None
    if "lora" in low:
        return "lora", None
    return "pretrain", f"task {text[:30]!r} priced as pre-training"


def read_notes(notes: str) -> Stated:
    """Schedule, overlap and TP overlap where the notes state them; ``set(etp=1,cp_comm=0)`` states fields by name."""
    low, out = notes.lower(), Stated()
    schedule = re.search(r"schedule=([\w-]+)", low)
    if schedule:
        word = schedule.group(1)
        if "gpipe" in word:
            out.fields["schedule"] = int(Schedule.GPIPE)
        elif word in ("zb-h1", "zbh1", "zb1p"):
            out.fields["schedule"] = int(Schedule.ZERO_BUBBLE_H1)
        elif word in ("zbv", "v-half", "vhalf", "zb-v"):
            out.fields["schedule"] = int(Schedule.ZERO_BUBBLE_V)
        else:
            out.fields["schedule"] = int(Schedule.ONE_F_ONE_B)
    if "no gradient bucketing" in low or re.search(r"cuda_launch_blocking\s*=\s*1", low):
        out.fields["overlap_grad_reduce"] = 0
    if re.search(r"async ?tp", low):
        out.fields["tp_overlap"] = 1
    elif "vanilla tp" in low:
        out.fields["tp_overlap"] = 0
    named = re.search(r"\bset\(([\w=,\s]*)\)", low)
    if named:
        pairs = re.findall(r"(\w+)=(\d+)", named.group(1))
        out.fields.update({name: int(value) for name, value in pairs if name in CONFIG_FIELDS})
    return out


#: Methods of a pipeline study (arXiv 2411.05288) as fields of a configuration.
METHODS: dict[str, dict[str, int]] = {
    "baseline": {},
    "redis": {"layer_split": int(LayerSplit.BALANCED)},
    "vocab-1": {"vocab_parallel": int(VocabParallel.TWO_BARRIERS)},
    "vocab-2": {"vocab_parallel": int(VocabParallel.ONE_BARRIER)},
    "interlaced": {"vocab_parallel": int(VocabParallel.INTERLACED)},
}


def read_method(notes: str, model_name: str) -> str:
    """Method of a pipeline study (``baseline``, ``vocab-1`` ...), empty if the row names none."""
    found = re.search(r"method=([\w-]+)", notes) or re.search(r"B (\S+) on 1F1B", model_name)
    return found.group(1).lower() if found else ""


def accumulation_steps(notes: str) -> int | None:
    """Gradient accumulation steps where the notes state them (GAS, GA, accumulate, micro_num)."""
    found = re.search(r"\b(?:GAS|GA|accumulate|micro_num|grad_accum)\s*=\s*(\d+)", notes)
    return int(found.group(1)) if found else None


def lora_rank(notes: str) -> int | None:
    """Rank of the adapters where the notes state it."""
    found = re.search(r"\br\s*=\s*(\d+)", notes) or re.search(r"rank\s*=?\s*(\d+)", notes, re.IGNORECASE)
    return int(found.group(1)) if found else None
