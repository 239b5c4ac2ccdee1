"""Which pieces of a model stand on which chunk of which pipeline stage, and which layers recompute in full."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..hardware_profiles.errors import InvalidProblemError
from .model_spec import ModelSpec
from .parallel import ParallelConfig, Recompute
from .parallelism.balance import head_in_layers
from .parallelism.pipeline import chunk_layer_lists


@dataclass(frozen=True, slots=True)
class Chunk:
    """What one model chunk holds, in the order of the model: embedding, layers, multi-token prediction, head.

    Attributes:
        layers, mtp: transformer layers and multi-token-prediction blocks; embedding, head: whether they stand here.
    """

    layers: int
    embedding: bool = False
    mtp: int = 0
    head: bool = False


@dataclass(frozen=True, slots=True)
class StageLayout:
    """An explicit deal of a model's pieces to pipeline stages.

    Attributes:
        chunks: ``chunks[v][stage]``; a micro-batch meets chunk 0 of every stage, then chunk 1 of every stage, and so
            on (not the V shape of ``ZERO_BUBBLE_V``).
        recompute: for every transformer layer, in the order of the model, whether backward recomputes it whole.
            A multi-token-prediction block recomputes as the layers of its stage do, or of the model.

    Raises:
        InvalidProblemError: chunks of unequal number, embedding or head that is missing, doubled or out of order,
            or another number of recompute flags than layers.
    """

    chunks: tuple[tuple[Chunk, ...], ...]
    recompute: tuple[bool, ...]

    def __post_init__(self) -> None:
        if not self.chunks or not self.chunks[0] or len({len(row) for row in self.chunks}) != 1:
            raise InvalidProblemError("A stage layout needs the same number of stages, at least one, for every chunk.")
        if any(chunk.layers < 0 or chunk.mtp < 0 for chunk in self.flat):
            raise InvalidProblemError("A stage layout has a chunk with a negative number of layers.")
        for name in ("embedding", "head"):
            found = sum(getattr(chunk, name) for chunk in self.flat)
            if found != 1:
                raise InvalidProblemError(f"A stage layout places the {name} {found} times; it needs it exactly once.")
        self._check_order()
        if len(self.recompute) != self.n_layers:
            raise InvalidProblemError(
                f"A stage layout has {len(self.recompute)} recompute flags for {self.n_layers} layers; give each one."
            )

    def _check_order(self) -> None:
        order = []
        for chunk in self.flat:
            order += [0] * chunk.embedding + [1] * bool(chunk.layers) + [2] * bool(chunk.mtp) + [3] * chunk.head
        if order != sorted(order):
            raise InvalidProblemError(
                "A stage layout must keep the order of the model: embedding, layers, multi-token prediction, head."
            )

    # -- shape ------------------------------------------------------------------------------------
    @property
    def flat(self) -> tuple[Chunk, ...]:
        """All chunks in the order of the model."""
        return tuple(chunk for row in self.chunks for chunk in row)

    @property
    def pp(self) -> int:
        """Pipeline stages."""
        return len(self.chunks[0])

    @property
    def vp(self) -> int:
        """Chunks of one stage."""
        return len(self.chunks)

    @property
    def n_layers(self) -> int:
        """Transformer layers."""
        return sum(chunk.layers for chunk in self.flat)

    @property
    def mtp_layers(self) -> int:
        """Multi-token-prediction blocks."""
        return sum(chunk.mtp for chunk in self.flat)

    @property
    def stage_layers(self) -> tuple[int, ...]:
        """Transformer layers of every stage."""
        return tuple(sum(row[s].layers for row in self.chunks) for s in range(self.pp))

    @property
    def chunk_of_piece(self) -> tuple[int, ...]:
        """Chunk number in the order of the model (``v * pp + stage``) of every piece: embedding, layers, mtp, head."""
        out: list[int] = []
        for number, chunk in enumerate(self.flat):
            out += [number] * (chunk.embedding + chunk.layers + chunk.mtp + chunk.head)
        return tuple(out)

    @property
    def leading_recompute(self) -> int | None:
        """Number of layers at the head of every chunk that recompute, the same for all (0: none; a chunk with fewer
        layers recomputes all of its own), or None where the flags are not of that form."""
        counts, at = [], 0
        for chunk in self.flat:
            flags = self.recompute[at : at + chunk.layers]
            at += chunk.layers
            if list(flags) != sorted(flags, reverse=True):
                return None
            counts.append((sum(flags), chunk.layers))
        most = max(n for n, _ in counts)
        return most if all(n == min(most, layers) for n, layers in counts) else None

    def check_model(self, model: ModelSpec) -> None:
        """Refuse a layout of another model.

        Raises:
            InvalidProblemError: numbers of layers or of multi-token-prediction blocks differ.
        """
        mine, its = (self.n_layers, self.mtp_layers), (model.n_layers, model.mtp_layers)
        if mine != its:
            raise InvalidProblemError(
                f"The stage layout deals {mine[0]} layers and {mine[1]} multi-token-prediction blocks, "
                f"but {model.name} has {its[0]} and {its[1]}."
            )

    def check_config(self, config: ParallelConfig) -> None:
        """Refuse a layout of another pipeline.

        Raises:
            InvalidProblemError: pp or vp differ, or the vocabulary is split over the stages (a layout has one head).
        """
        if config.vocab_parallel:
            raise InvalidProblemError(
                "A stage layout places embedding and head on one stage each; vocab_parallel splits them: set it to 0."
            )
        if (self.pp, self.vp) != (config.pp, config.vp):
            raise InvalidProblemError(
                f"The stage layout has pp {self.pp} and vp {self.vp}, "
                f"the configuration pp {config.pp} and vp {config.vp}."
            )

    # -- plain data -------------------------------------------------------------------------------
    def to_dict(self) -> dict[str, Any]:
        """Rows of ``{embedding, layers, mtp, head, recompute}``; ``recompute`` counts a chunk's flags run by run."""
        rows, at = [], 0
        for row in self.chunks:
            out = []
            for chunk in row:
                flags = self.recompute[at : at + chunk.layers]
                at += chunk.layers
                out.append(
                    {
                        "embedding": chunk.embedding,
                        "layers": chunk.layers,
                        "mtp": chunk.mtp,
                        "head": chunk.head,
                        "recompute": [int(flag) for flag in flags],
                    }
                )
            rows.append(out)
        return {"chunks": rows}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> StageLayout:
        """Inverse of ``to_dict``.

        Raises:
            InvalidProblemError: a key is missing, unknown or of the wrong kind, or the layout is not valid.
        """
        keys = ("embedding", "layers", "mtp", "head", "recompute")
        try:
            rows, flags = [], []
            for row in data["chunks"]:
                for one in row:
                    if set(one) != set(keys) or any(type(one[k]) is not t for k, t in zip(keys, _KINDS, strict=True)):
                        raise InvalidProblemError(f"stage_layout has the chunk {one!r}; it needs {', '.join(keys)}.")
                    if len(one["recompute"]) != one["layers"] or not set(one["recompute"]) <= {0, 1}:
                        raise InvalidProblemError("stage_layout needs one recompute flag, 0 or 1, for every layer.")
                    flags += [bool(flag) for flag in one["recompute"]]
                rows.append(
                    tuple(Chunk(one["layers"], one["embedding"], one["mtp"], one["head"]) for one in row),
                )
        except (KeyError, TypeError) as error:
            raise InvalidProblemError(f"stage_layout is not readable: {error}.") from None
        return cls(tuple(rows), tuple(flags))


_KINDS = (bool, int, int, bool, list)


def layout_of(sizes: Sequence[int], pp: int, n_layers: int, mtp_layers: int, recompute: Sequence[bool]) -> StageLayout:
    """The layout whose chunks, in the order of the model, hold ``sizes`` pieces each (embedding, layers, mtp, head)."""
    chunks, at = [], 0
    total = n_layers + mtp_layers + 2
    if sum(sizes) != total or len(sizes) % pp:
        raise InvalidProblemError(f"{len(sizes)} chunks of {sum(sizes)} pieces cannot hold {total} on {pp} stages.")
    for size in sizes:
        end = at + size
        layers = max(0, min(end, n_layers + 1) - max(at, 1))
        mtp = max(0, min(end, total - 1) - max(at, n_layers + 1))
        chunks.append(Chunk(layers, at == 0 and size > 0, mtp, end == total and size > 0))
        at = end
    rows = tuple(tuple(chunks[i : i + pp]) for i in range(0, len(chunks), pp))
    return StageLayout(rows, tuple(recompute))


def even_layout(model: ModelSpec, config: ParallelConfig) -> StageLayout:
    """What ``config`` means without an explicit layout: ``chunk_layer_lists``, the embedding first, the head last.

    Under ``FULL`` the first ``recompute_layers`` layers of a stage recompute, dealt to its chunks as Megatron-LM's
    block method does (its first chunks take what does not divide); 0: all.
    """
    lists = chunk_layer_lists(model.n_layers, config, model.mtp_layers, head_in_layers(model))
    full, asked = bool(config.recompute & Recompute.FULL), config.recompute_layers
    flags: list[bool] = []
    rows = []
    for v, row in enumerate(lists):
        per_chunk = asked // config.vp + (v < asked % config.vp)
        for layers in row:
            redo = 0 if not full else min(per_chunk, layers) if asked else layers
            flags += [True] * redo + [False] * (layers - redo)
        rows.append([Chunk(layers) for layers in row])
    first = rows[0][0]
    rows[0][0] = Chunk(first.layers, embedding=True)
    last = rows[-1][-1]
    rows[-1][-1] = Chunk(last.layers, last.embedding, model.mtp_layers, head=True)
    return StageLayout(tuple(tuple(row) for row in rows), tuple(flags))
