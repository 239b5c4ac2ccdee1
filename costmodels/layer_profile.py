"""Measured layers: what a user's profiler saw, in place of the analytic model of a layer.

A profile is a graph of layers (or operators); each layer holds the ways in which it was run: tensor-parallel degree,
micro-batch size, device, and a variant such as full recompute. Readers of the formats that peers keep stand in
``planner/layer_profiles/``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..hardware_profiles.errors import InvalidProblemError, MissingProfileDataError


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRun:
    """One way in which a layer was run, on one of its ``tp`` devices.

    Attributes:
        tp: tensor-parallel degree; micro_batch_size: samples in one micro-batch; device: name as the profile gives it;
            variant: ``plain``, or what the profile calls its recompute.
        time_s: forward and backward (with the recompute of this variant) of one micro-batch.
        forward_s: the forward part of it, None where the profile does not split.
        parameter_bytes: weights, as the profile counts them for the gradient reduction.
        in_flight_bytes: activations kept for one micro-batch in flight (Piper's A).
        fixed_bytes: what is there whatever is in flight: states, and buffers of the moment (Piper's B).
        sync_in_bytes, sync_out_bytes: tensor-parallel traffic on the edge from (to) a layer, by that layer's position,
            paid only where the edge crosses a stage boundary.
        measured: False where the reader derived the time by the rule that the profile's assumptions name.
    """

    tp: int
    time_s: float
    parameter_bytes: float
    in_flight_bytes: float
    fixed_bytes: float
    micro_batch_size: int = 1
    device: str = ""
    variant: str = "plain"
    forward_s: float | None = None
    sync_in_bytes: Mapping[int, float] = field(default_factory=dict)
    sync_out_bytes: Mapping[int, float] = field(default_factory=dict)
    measured: bool = True

    @property
    def setting(self) -> tuple[str, int, int]:
        """Device, tensor-parallel degree and micro-batch size: what all layers of a stage share."""
        return (self.device, self.tp, self.micro_batch_size)

    def peak_bytes(self, in_flight: float) -> float:
        """Bytes with so many micro-batches in flight."""
        return self.in_flight_bytes * in_flight + self.fixed_bytes


@dataclass(frozen=True, slots=True)
class ProfiledLayer:
    """A layer and the ways in which it was run."""

    name: str
    runs: tuple[LayerRun, ...]

    def variants(self, setting: tuple[str, int, int]) -> tuple[LayerRun, ...]:
        """The runs with that device, degree and micro-batch size."""
        return tuple(run for run in self.runs if run.setting == setting)


@dataclass(frozen=True, slots=True)
class LayerEdge:
    """Bytes that one sample sends from one layer (by position) to another, and its gradient back."""

    source: int
    target: int
    volume_bytes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerProfile:
    """A measured model.

    Attributes:
        layers: in a topological order where the format gives one; edges: between positions of ``layers``.
        source: the file; kind: format of it; assumptions: what the reader added, one sentence each.
        stated: figures that the file itself gives for a problem (devices, memory, bandwidth), never used unasked.
    """

    layers: tuple[ProfiledLayer, ...]
    edges: tuple[LayerEdge, ...]
    source: str
    kind: str
    assumptions: tuple[str, ...] = ()
    stated: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.layers:
            raise InvalidProblemError(f"{self.source} holds no layer; give at least one.")
        for layer in self.layers:
            _check_layer(self.source, layer)
        _check_edges(self.source, len(self.layers), self.edges)

    @property
    def settings(self) -> tuple[tuple[str, int, int], ...]:
        """Devices, degrees and micro-batch sizes at which every layer was run, sorted."""
        shared = {run.setting for run in self.layers[0].runs}
        for layer in self.layers[1:]:
            shared &= {run.setting for run in layer.runs}
        return tuple(sorted(shared))

    def at(self, setting: tuple[str, int, int]) -> tuple[tuple[LayerRun, ...], ...]:
        """Variants of every layer with that device, degree and micro-batch size.

        Raises:
            MissingProfileDataError: some layer was not run so; the message names what there is.
        """
        if setting not in self.settings:
            device, tp, size = setting
            have = "; ".join(f"tp {t}, micro-batch {b}" + (f", {d}" if d else "") for d, t, b in self.settings)
            raise MissingProfileDataError(
                f"{self.source} has no run of all layers with tp {tp} and micro-batch {size}"
                f"{' on ' + device if device else ''}; it has {have or 'no setting that all layers share'}."
            )
        return tuple(layer.variants(setting) for layer in self.layers)

    @property
    def is_chain(self) -> bool:
        """Whether each layer feeds the next one only."""
        pairs = {(e.source, e.target) for e in self.edges}
        return pairs <= {(i, i + 1) for i in range(len(self.layers) - 1)}


def topological_order(count: int, edges: Sequence[LayerEdge]) -> tuple[int, ...]:
    """Positions with every edge pointing forward, smallest first; shorter than ``count`` if there is a cycle."""
    waiting = [0] * count
    after: list[list[int]] = [[] for _ in range(count)]
    for edge in edges:
        waiting[edge.target] += 1
        after[edge.source].append(edge.target)
    ready = sorted((i for i in range(count) if not waiting[i]), reverse=True)
    order: list[int] = []
    while ready:
        node = ready.pop()
        order.append(node)
        for target in after[node]:
            waiting[target] -= 1
            if not waiting[target]:
                ready.append(target)
        ready.sort(reverse=True)
    return tuple(order)


def _check_layer(source: str, layer: ProfiledLayer) -> None:
    if not layer.runs:
        raise InvalidProblemError(
            f"Layer {layer.name!r} of {source} has no run; give one time and its memory at least."
        )
    seen = set()
    for run in layer.runs:
        key = (*run.setting, run.variant)
        where = f"Layer {layer.name!r} of {source}, tp {run.tp}, micro-batch {run.micro_batch_size}, {run.variant!r}"
        if key in seen:
            raise InvalidProblemError(f"{where}: stands there twice; keep one.")
        seen.add(key)
        if run.tp < 1 or run.micro_batch_size < 1:
            raise InvalidProblemError(f"{where}: degrees and sizes are whole numbers from 1.")
        amounts = {name: getattr(run, name) for name in _AMOUNTS} | {"forward_s": run.forward_s or 0.0}
        amounts |= {f"sync_in_bytes[{k}]": v for k, v in run.sync_in_bytes.items()}
        amounts |= {f"sync_out_bytes[{k}]": v for k, v in run.sync_out_bytes.items()}
        for name, value in amounts.items():
            if not (math.isfinite(value) and value >= 0):
                raise InvalidProblemError(f"{where}: {name} is {value:g}; it must be a finite number not below 0.")
        if run.forward_s is not None and run.forward_s > run.time_s:
            raise InvalidProblemError(
                f"{where}: the forward takes {run.forward_s:g} s, longer than forward and backward together"
                f" ({run.time_s:g} s)."
            )
    _check_growth(source, layer)


def _check_growth(source: str, layer: ProfiledLayer) -> None:
    """Refuse time or memory that falls by more than ``NOISE`` where only the micro-batch grows."""
    rows: dict[tuple[str, int, str], list[LayerRun]] = {}
    for run in layer.runs:
        rows.setdefault((run.device, run.tp, run.variant), []).append(run)
    for group in rows.values():
        group.sort(key=lambda run: run.micro_batch_size)
        for small, large in itertools.pairwise(group):
            for what, one, two in (
                ("time", small.time_s, large.time_s),
                ("memory", small.peak_bytes(1), large.peak_bytes(1)),
            ):
                if two < one * (1 - NOISE):
                    raise InvalidProblemError(
                        f"Layer {layer.name!r} of {source}, tp {small.tp}, {small.variant!r}: {what} falls from {one:g}"
                        f" with micro-batch {small.micro_batch_size} to {two:g} with {large.micro_batch_size};"
                        " measure again."
                    )


NOISE = 0.1  # the shipped profiles of Metis fall by up to 5% (allocator), those of Galvatron by less
_AMOUNTS = ("time_s", "parameter_bytes", "in_flight_bytes", "fixed_bytes")


def _check_edges(source: str, count: int, edges: Sequence[LayerEdge]) -> None:
    seen = set()
    for edge in edges:
        where = f"The edge {edge.source} -> {edge.target} of {source}"
        if not (0 <= edge.source < count and 0 <= edge.target < count):
            raise InvalidProblemError(f"{where} names a layer that is not there; there are {count}.")
        if (edge.source, edge.target) in seen:
            raise InvalidProblemError(f"{where} stands there twice; add the volumes up.")
        if not (math.isfinite(edge.volume_bytes) and edge.volume_bytes >= 0):
            raise InvalidProblemError(f"{where} carries {edge.volume_bytes:g} bytes; give a finite number not below 0.")
        seen.add((edge.source, edge.target))
    if len(topological_order(count, edges)) < count:
        raise InvalidProblemError(f"The edges of {source} form a cycle; layers must be an acyclic graph.")
