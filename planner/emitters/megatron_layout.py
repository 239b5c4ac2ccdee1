"""Megatron-LM's ``--pipeline-model-parallel-layout`` strings, and lists as ``[a]*n`` patterns.

Grammar (Megatron-LM 0.19, ``pipeline_parallel_layer_layout.py``): ``E`` embedding, ``t`` one layer, ``m`` one
multi-token-prediction layer, ``L`` loss, ``|`` between stages, ``x*n`` and ``(xy)*n`` repeat, commas are cosmetic.
Stages come in the order of the layers: chunk 0 of every rank, then chunk 1 of every rank, and so on.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import groupby

from ...costmodels.stage_layout import Chunk, StageLayout
from ...hardware_profiles.errors import InvalidProblemError


def chunk_layers(stage_layers: Sequence[int], vp: int) -> tuple[tuple[int, ...], ...]:
    """Deal each rank's layers to its ``vp`` chunks, as equal as can be.

    The remainder goes to the middle of the model: the first rank's first chunk (it has the embedding) and the
    last rank's last chunk (it has the loss) come last in the queue.

    Returns:
        ``chunks[v][rank]``.
    """
    ranks = len(stage_layers)
    chunks = [[0] * ranks for _ in range(vp)]
    for rank, layers in enumerate(stage_layers):
        base, extra = divmod(layers, vp)
        order = list(range(vp))
        if rank == 0:
            order = order[1:] + order[:1]
        for place, v in enumerate(order):
            chunks[v][rank] = base + (1 if place < extra else 0)
    return tuple(tuple(row) for row in chunks)


def _repeat(symbol: str, n: int) -> str:
    return symbol * n if n < 3 else f"{symbol}*{n}"


def encode_layout(stage_layers: Sequence[int], vp: int, mtp_layers: int = 0) -> str:
    """Layout string of layers per rank, chunks per rank and multi-token-prediction layers (on the last chunk)."""
    flat = [layers for row in chunk_layers(stage_layers, vp) for layers in row]
    stages = [_repeat("t", layers) for layers in flat]
    stages[0] = "E" + stages[0]
    stages[-1] += _repeat("m", mtp_layers) + "L"
    return "|".join(stages)


def encode_stage_layout(layout: StageLayout) -> str:
    """Layout string of an explicit deal; recompute flags are not part of it."""

    def stage(chunk: Chunk) -> str:
        return "E" * chunk.embedding + _repeat("t", chunk.layers) + _repeat("m", chunk.mtp) + "L" * chunk.head

    return "|".join(stage(chunk) for chunk in layout.flat)


def decode_stage_layout(text: str, pp: int) -> StageLayout:
    """The deal that a layout string stands for, without recompute.

    Raises:
        InvalidProblemError: the string is malformed, out of order, or its stages do not divide by ``pp``.
    """
    _, vp = decode_layout(text, pp)
    stages = [Counter(stage) for stage in _unrolled(text).split("|")]
    if any(stage["E"] > 1 or stage["L"] > 1 for stage in stages):
        raise InvalidProblemError(f"--pipeline-model-parallel-layout {text!r} has more than one E or L on a stage.")
    chunks = [Chunk(stage["t"], stage["E"] == 1, stage["m"], stage["L"] == 1) for stage in stages]
    rows = tuple(tuple(chunks[v * pp : (v + 1) * pp]) for v in range(vp))
    return StageLayout(rows, (False,) * sum(chunk.layers for chunk in chunks))


def _unrolled(text: str) -> str:
    """A layout string with its repeats spelt out."""
    flat = text.replace(",", "").replace(" ", "")
    for pattern in (r"\(([^)]+)\)\*(\d+)", r"(.)\*(\d+)"):
        flat = re.sub(pattern, lambda m: m.group(1) * int(m.group(2)), flat)
    return flat


def decode_layout(text: str, pp: int) -> tuple[tuple[int, ...], int]:
    """Layers per rank and chunks per rank of a layout string.

    Raises:
        InvalidProblemError: the string is malformed or its stages do not divide by ``pp``.
    """
    flat = _unrolled(text)
    bad = sorted(set(flat) - set("EtmL|"))
    if bad:
        raise InvalidProblemError(f"--pipeline-model-parallel-layout {text!r} holds {bad[0]!r}; use E, t, m, L and |.")
    counts = [stage.count("t") for stage in flat.split("|")]
    if len(counts) % pp:
        raise InvalidProblemError(
            f"--pipeline-model-parallel-layout {text!r} has {len(counts)} stages, no multiple of pp {pp}."
        )
    vp = len(counts) // pp
    return tuple(sum(counts[rank::pp]) for rank in range(pp)), vp


def encode_pattern(values: Sequence[int]) -> str:
    """A list of 0 and 1 as Megatron writes it, e.g. ``([0]*3+[1]*58)``."""
    return "(" + "+".join(f"[{value}]*{len(list(run))}" for value, run in groupby(values)) + ")"


def decode_pattern(text: str) -> list[int]:
    """The list that a pattern of digits, brackets, ``+`` and ``*`` stands for.

    Raises:
        ValueError: anything else is in the text.
    """
    return _Pattern(text.replace(" ", "")).parse()


class _Pattern:
    """Recursive descent over ``term (+ term)*``, ``term = atom (* n)*``, ``atom = [digits,...] | ( expr )``."""

    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0

    def parse(self) -> list[int]:
        value = self._expr()
        if self.at != len(self.text):
            raise ValueError(self.text)
        return value

    def _peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def _take(self, expected: str) -> None:
        if self._peek() != expected:
            raise ValueError(self.text)
        self.at += 1

    def _number(self) -> int:
        match = re.compile(r"\d{1,6}").match(self.text, self.at)
        if not match:
            raise ValueError(self.text)
        self.at = match.end()
        return int(match.group())

    def _expr(self) -> list[int]:
        value = self._term()
        while self._peek() == "+":
            self.at += 1
            value = value + self._term()
        return value

    def _term(self) -> list[int]:
        value = self._atom()
        while self._peek() == "*":
            self.at += 1
            value = value * self._number()
            if len(value) > 100_000:
                raise ValueError(self.text)
        return value

    def _atom(self) -> list[int]:
        if self._peek() == "(":
            self.at += 1
            value = self._expr()
            self._take(")")
            return value
        self._take("[")
        value = [self._number()]
        while self._peek() == ",":
            self.at += 1
            value.append(self._number())
        self._take("]")
        return value
