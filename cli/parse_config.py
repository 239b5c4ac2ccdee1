"""Texts of the command line as fields of a plan: ``tp=4,pp=2|4``, ``recompute=full/12``, ``schedule=gpipe``.

Every function takes the flag that the text came from, and names it in the one sentence that it raises.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..costmodels.parallel import CONFIG_FIELDS, CpComm, LayerSplit, Recompute, Schedule, VocabParallel, recompute_label
from ..hardware_profiles.errors import InvalidProblemError, did_you_mean
from .parse import parse_words

#: Short names that the literature uses for ``ParallelConfig`` fields.
FIELD_ALIASES = {
    "micro_batch": "micro_batch_size",
    "mbs": "micro_batch_size",
    "zero": "zero_stage",
    "vpp": "vp",
    "sp": "sequence_parallel",
    "offload": "optimizer_offload",
}
SWITCHES = {"on": 1, "yes": 1, "true": 1, "off": 0, "no": 0, "false": 0}
SCHEDULES = {
    "1f1b": Schedule.ONE_F_ONE_B,
    "gpipe": Schedule.GPIPE,
    "zb-h1": Schedule.ZERO_BUBBLE_H1,
    "zb-v": Schedule.ZERO_BUBBLE_V,
}
CP_COMMS = {"ring": CpComm.RING, "all-gather": CpComm.ALL_GATHER, "ulysses": CpComm.ULYSSES}
LAYER_SPLITS = {
    "even": LayerSplit.EVEN,
    "embedding-and-loss": LayerSplit.EMBEDDING_AND_LOSS_COUNT,
    "layout": LayerSplit.LAYOUT,
    "balanced": LayerSplit.BALANCED,
}
VOCAB_PARALLEL = {
    "none": VocabParallel.NONE,
    "two-barriers": VocabParallel.TWO_BARRIERS,
    "one-barrier": VocabParallel.ONE_BARRIER,
    "interlaced": VocabParallel.INTERLACED,
}
RECOMPUTE_MODULES = {recompute_label(bit): bit for bit in Recompute if bit not in (Recompute.NONE, Recompute.FULL)}
_WORDS: dict[str, dict[str, int]] = {
    "schedule": {k: int(v) for k, v in SCHEDULES.items()},
    "cp_comm": {k: int(v) for k, v in CP_COMMS.items()},
    "layer_split": {k: int(v) for k, v in LAYER_SPLITS.items()},
    "vocab_parallel": {k: int(v) for k, v in VOCAB_PARALLEL.items()},
}
_SWITCH_FIELDS = (
    "sequence_parallel",
    "overlap_grad_reduce",
    "overlap_param_gather",
    "tp_overlap",
    "optimizer_offload",
    "quantized_weights",
    "quantized_gradients",
)
_MAY_BE_ZERO = {"zero_stage", "recompute", "recompute_layers", "dp_shard", "hpz", *_WORDS, *_SWITCH_FIELDS}


def parse_pins(texts: Sequence[str], flag: str) -> dict[str, tuple[int, ...]]:
    """Read ``("tp=4,pp=2|4", "recompute=full")`` as allowed values by field name.

    A name given twice must be meant once: two different lists for one field are an error.
    """
    pins: dict[str, tuple[int, ...]] = {}
    for name, value in _assignments(texts, flag):
        choices: dict[str, list[int]] = {}
        for word in value.split("|"):
            for key, number in parse_field(name, word, flag).items():
                choices.setdefault(key, []).append(number)
        for key, numbers in choices.items():
            allowed = tuple(dict.fromkeys(numbers))
            if pins.setdefault(key, allowed) != allowed:
                raise InvalidProblemError(f"{flag}: {key} is given twice with different values; name it once.")
    return pins


def parse_excludes(texts: Sequence[str], flag: str) -> tuple[dict[str, int], ...]:
    """Read each ``tp=8,pp=4`` as one conjunction to leave out; the flag repeats for further ones."""
    return tuple(parse_config_values([text], flag) for text in texts)


def parse_config_values(texts: Sequence[str], flag: str) -> dict[str, int]:
    """Read ``tp=8,pp=4`` as one value per field."""
    values: dict[str, int] = {}
    for name, value in _assignments(texts, flag):
        if "|" in value:
            raise InvalidProblemError(f"{flag}: '{name}={value}' names several values; give one.")
        for key, number in parse_field(name, value, flag).items():
            if values.setdefault(key, number) != number:
                raise InvalidProblemError(f"{flag}: {key} is given twice with different values; name it once.")
    return values


def parse_field(name: str, text: str, flag: str) -> dict[str, int]:
    """Read the value of one ``ParallelConfig`` field; ``recompute=full/12`` sets two fields."""
    field = field_name(name, flag)
    word = text.strip().lower()
    if field == "recompute" and not word.isdecimal():
        return parse_recompute(word, flag)
    words = _WORDS.get(field, SWITCHES if field in _SWITCH_FIELDS else {})
    if word in words:
        return {field: words[word]}
    if not re.fullmatch(r"\d{1,9}", word):
        wanted = f"one of {', '.join(words)}" if words else "a whole number"
        raise InvalidProblemError(f"{flag}: {field}='{text}' must be {wanted}.")
    number = int(word)
    if number == 0 and field not in _MAY_BE_ZERO:
        raise InvalidProblemError(f"{flag}: {field}=0 must be at least 1.")
    if words and number not in words.values():
        raise InvalidProblemError(f"{flag}: {field}={text} must be one of {', '.join(words)}.")
    return {field: number}


def parse_recompute(text: str, flag: str) -> dict[str, int]:
    """Read ``none``, ``full``, ``full/12``, ``selective`` or modules like ``attn+act``.

    ``selective`` is Megatron's default of that mode, the attention core.
    """
    word = text.strip().lower()
    match = re.fullmatch(r"full(?:/([1-9]\d{0,8}))?", word)
    if match:
        layers = {"recompute_layers": int(match.group(1))} if match.group(1) else {}
        return {"recompute": int(Recompute.FULL), **layers}
    if word == "none":
        return {"recompute": 0}
    if word == "selective":
        return {"recompute": int(Recompute.CORE_ATTENTION)}
    mask = 0
    for part in word.split("+"):
        if part not in RECOMPUTE_MODULES:
            known = ", ".join(RECOMPUTE_MODULES)
            raise InvalidProblemError(
                f"{flag}: recompute='{text}' must be none, selective, full, full/LAYERS, or of {known} joined by +."
            )
        mask |= RECOMPUTE_MODULES[part]
    return {"recompute": mask}


def field_name(name: str, flag: str) -> str:
    """Resolve an alias or dashes to the name of a ``ParallelConfig`` field."""
    key = name.strip().lower().replace("-", "_")
    key = FIELD_ALIASES.get(key, key)
    if key not in CONFIG_FIELDS:
        hint = did_you_mean(key, [*CONFIG_FIELDS, *FIELD_ALIASES]) or f" The names are {', '.join(CONFIG_FIELDS)}."
        raise InvalidProblemError(f"{flag}: '{name.strip()}' is not a field of a plan.{hint}")
    return key


def _assignments(texts: Sequence[str], flag: str) -> list[tuple[str, str]]:
    out = []
    for item in parse_words(texts):
        name, equals, value = item.partition("=")
        if not equals or not name.strip() or not value.strip():
            raise InvalidProblemError(f"{flag}: '{item}' is not of the form name=value.")
        out.append((name, value))
    return out
