"""Megatron-LM: ``iteration  10/ 100 | ... | elapsed time per iteration (ms): 5630.1 | ... | global batch size: 128 |``.

Formats from NVIDIA/Megatron-LM: iteration line and memory line megatron/training/training.py (commit 001b00c2) and
megatron/training/utils.py (commit d086a2e3), dump of arguments and world size megatron/training/arguments.py (commit
307dcf37). Read as well: lines before ``consumed samples`` and time stamps were printed (2021), those of GPT-NeoX, which
start with ``samples/sec: 7.8 |`` (DeepSpeed issue 3742), and of argonne-lcf/Megatron-DeepSpeed
(``elapsed_time_per_iteration_ms=17711.7``). Memory is in 2^20 bytes under the name of MB.

A dump of arguments is read as the command line that it came from, by the reader of launch scripts.
"""

from __future__ import annotations

import re
from dataclasses import replace

from ....costmodels.parallel import ParallelConfig
from ....hardware_profiles.errors import InvalidProblemError
from ...launch_reader import read_config
from ...megatron_args import Machines, parse_args
from ...megatron_model_reader import read_model, read_workload
from ..plan_cells import cells_of
from .base import LogFacts, last_of, year_of

FRAMEWORK = "Megatron-LM"
_ITERATION = re.compile(
    r"iteration[ =]\s*(\d+)/\s*\d+ \|(.*?)elapsed[ _]time[ _]per[ _]iteration[ _]\(?ms\)?\s*[:=]\s*(\d+(?:\.\d+)?)(.*)"
)
_BATCH = re.compile(r"global[ _]batch[ _]size\s*[:=]\s*(\d+)")
_MEMORY = re.compile(r"memory \(MB\) \|.*?max allocated: (\d+(?:\.\d+)?)(?:.*?max reserved: (\d+(?:\.\d+)?))?")
_ARGUMENT = re.compile(r"(?:^|[\s:\]])([A-Za-z]\w*) \.+ ?(.*?)\s*$", re.MULTILINE)
_BLOCK = re.compile(r"-{3,} arguments -{3,}(.*?)-{3,} end of arguments", re.DOTALL)
_VOCABULARY = re.compile(r"padded vocab \(size: \d+\).*?new size: (\d+)")
_WORLD = re.compile(r"using world size: (\d+)")
_MIB_PER_GIB = 1024.0
#: arguments that stand for an option when they are off; the option they stand for.
_OFF = {"add_bias_linear": "--disable-bias-linear"}
#: arguments whose option has another name.
_RENAMED = {
    "fp8": "--fp8-format",
    "fp4": "--fp4-format",
    "virtual_pipeline_model_parallel_size": "--num-virtual-stages-per-pipeline-rank",
}
#: set from another argument that is read itself, or meaningless unless an option turns them on.
_DERIVED = {"num_layers_per_virtual_pipeline_stage", "num_virtual_stages_per_pipeline_rank", "encoder_num_layers"}
_DEEPSPEED_ONLY = {"zero_stage"}
_DTYPES = {"torch.float32": "fp32", "torch.bfloat16": "bf16", "torch.float16": "fp16", "torch.uint8": "fp8"}


def matches(text: str) -> bool:
    """Whether Megatron-LM's iteration lines are in the text."""
    return _ITERATION.search(text) is not None


def read(text: str) -> LogFacts:
    """Step times at the final batch size, memory, and the arguments where they are dumped."""
    facts = LogFacts(FRAMEWORK)
    lines = []
    for step, before, elapsed, after in _ITERATION.findall(text):
        batch = _BATCH.search(before + after)
        lines.append((int(step), float(elapsed) / 1e3, int(batch.group(1)) if batch else 0))
    last = lines[-1][2] if lines else 0
    kept = [(step, seconds) for step, seconds, batch in lines if batch == last and seconds > 0]
    if len(kept) < len(lines):
        facts.notes.append(f"{len(lines) - len(kept)} lines before the batch reached {last} sequences do not count")
    facts.values = last_of(kept)
    for allocated, reserved in _MEMORY.findall(text):
        facts.peak(float(reserved or allocated) / _MIB_PER_GIB, "reserved" if reserved else "allocated")
    world = _WORLD.search(text)
    facts.state(year=year_of(text), n_gpus=world.group(1) if world else None)
    facts.state(global_batch_sequences=last or None)
    _read_degrees(facts, text)
    dump = _arguments(text)
    if dump.get("deepspeed") == "True" or re.search(r"\[deepspeed|DeepSpeedEngine|samples/sec: ", text):
        facts.framework = "Megatron-DeepSpeed"
    if "num_layers" in dump and "hidden_size" in dump:
        _read_arguments(facts, dump)
    return facts


def _read_degrees(facts: LogFacts, text: str) -> None:
    """Degrees of the line that starts with ``using world size``."""
    line = re.search(r"using world size: .*", text)
    names = {"tensor-model": "tp", "pipeline-model": "pp", "context": "cp"}
    for word, column in names.items() if line else ():
        found = re.search(rf"(?<!encoder-){word}-parallel[- ]size: (\d+)", line.group(0)) if line else None
        facts.state(**{column: found.group(1) if found else None})


def _arguments(text: str) -> dict[str, str]:
    """The dump as text by name; a log of several starts gives the last. DeepSpeed prints its own in the same form."""
    blocks = _BLOCK.findall(text)
    if not blocks:
        return {}
    found = dict(_ARGUMENT.findall(blocks[-1]))
    vocabulary = _VOCABULARY.search(text)
    if vocabulary:  # releases before 2023 print it after the dump
        found.setdefault("padded_vocab_size", vocabulary.group(1))
    return found


def _read_arguments(facts: LogFacts, dump: dict[str, str]) -> None:
    args = parse_args(_words(dump), "the arguments in the log")
    world = dump.get("world_size", facts.cells.get("n_gpus", ""))
    if not world.isdigit():
        facts.notes.append("the log does not print its world size")
        return
    try:
        config, _ = read_config(args, Machines(tasks=int(world)), facts.notes)
        facts.model = read_model(args, _model_name(dump), facts.notes)
        workload = read_workload(args, config, facts.notes)
    except InvalidProblemError as error:
        facts.notes.append(f"the dump of arguments was left aside: {error}")
        return
    batch = facts.cells.get("global_batch_sequences")
    stated = cells_of(facts.model, workload, _bounded(config, facts.model.moe is not None))
    facts.words.append(stated.pop("notes"))
    facts.cells |= {**stated, "n_gpus": world}
    if batch:  # what the iterations print is what was run (a ramp-up may not have ended)
        facts.state(global_batch_sequences=batch)
    kept = {"tokenizer", "vocabulary", "--zero-stage"}
    facts.notes = [note for note in facts.notes if not any(word in note for word in kept)]


def _bounded(config: ParallelConfig, sparse: bool) -> ParallelConfig:
    return config if sparse else replace(config, ep=1, etp=1)


def _model_name(dump: dict[str, str]) -> str:
    return f"{dump['num_layers']}x{dump['hidden_size']}"


def _words(dump: dict[str, str]) -> list[str]:
    """The command line that a dump of parsed arguments stands for."""
    words: list[str] = []
    virtual = dump.get("virtual_pipeline_model_parallel_size", "None")
    for name, value in dump.items():
        if name in _DERIVED or (name in _DEEPSPEED_ONLY and dump.get("deepspeed") != "True"):
            continue
        option = _RENAMED.get(name, f"--{name.replace('_', '-')}")
        if value in ("None", "False", ""):
            words += [_OFF[name]] if name in _OFF and value == "False" else []
        elif value == "True":
            words += [] if name in _OFF else [option]
        else:
            words += [option, *_values(value, pattern=name in ("moe_layer_freq", "window_attn_skip_freq"))]
    if virtual == "None" and dump.get("num_layers_per_virtual_pipeline_stage", "None") != "None":
        words += ["--num-layers-per-virtual-pipeline-stage", dump["num_layers_per_virtual_pipeline_stage"]]
    return words


def _values(text: str, *, pattern: bool) -> list[str]:
    """Words of one value: a list's members (a pattern of layers stays whole), types by their short names, ``1.0`` (as
    DeepSpeed's ZeRO stage is kept) as a whole number.
    """
    if text.startswith("[") and not pattern:
        return [word.strip().strip("'\"") for word in text.strip("[]").split(",")]
    return [_DTYPES.get(text, re.sub(r"^(\d+)\.0$", r"\1", text))]
