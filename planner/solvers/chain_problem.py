"""A graph of measured layers cut into a chain of stages, after Piper (Tarnawski et al., NeurIPS 2021), and its price.

A stage is a set of layers such that all stages up to it form a downward-closed set (every layer stands behind the
layers that feed it). It has one tensor-parallel degree t, one data-parallel degree d that divides the micro-batches
N of a batch, and one variant per layer. With B the bandwidth of a device:

    load(stage)   = sum over layers of time / d + bytes / B                                  [s per micro-batch]
    bytes         = 2 * (edge volume + sync volume of the layer's variant) / d over edges that leave the stage,
                    + 4 (d - 1) w / (d N) with w the layer's weights                         [gradient reduction]
    memory(stage) = sum over layers of A y + B,  y = ceil(s / d), s = d of this and all later stages
    devices       = sum of t d;  the sum of d is at most N

The objective is the largest load: the time per micro-batch in steady state. Filling and draining of the pipeline, the
optimizer's step and overlap are left out, as in the paper.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from ...costmodels.layer_profile import LayerEdge, LayerProfile, LayerRun
from ...hardware_profiles.errors import InvalidProblemError


@dataclass(frozen=True, kw_only=True)
class ChainProblem:
    """What to cut and what it runs on.

    Attributes:
        profile: the measured layers; device: which device's runs to take; micro_batch_size: likewise.
        devices: how many there are; memory_bytes: of each; bandwidth_bytes_per_s: from each to the outside;
        micro_batches: N, of one batch.
    """

    profile: LayerProfile
    devices: int
    memory_bytes: float
    bandwidth_bytes_per_s: float
    micro_batches: int
    device: str = ""
    micro_batch_size: int = 1

    def __post_init__(self) -> None:
        for name in ("devices", "micro_batches"):
            if getattr(self, name) < 1:
                raise InvalidProblemError(f"{name} is {getattr(self, name)}; a chain of stages needs at least 1.")
        for name in ("memory_bytes", "bandwidth_bytes_per_s"):
            if not getattr(self, name) > 0:
                raise InvalidProblemError(f"{name} is {getattr(self, name):g}; it must be above 0.")
        if not any(run.time_s > 0 for layer in self.profile.layers for run in layer.runs):
            raise InvalidProblemError(f"No layer of {self.profile.source} takes any time; there is nothing to balance.")
        if not self.tp_degrees:
            self.profile.at((self.device, 1, self.micro_batch_size))  # raises, and names what there is

    @cached_property
    def tp_degrees(self) -> tuple[int, ...]:
        """Degrees at which all layers were run and that fit on the devices."""
        wanted = (self.device, self.micro_batch_size)
        return tuple(t for d, t, b in self.profile.settings if (d, b) == wanted and t <= self.devices)

    @cached_property
    def dp_degrees(self) -> tuple[int, ...]:
        """Divisors of the number of micro-batches that fit on the devices."""
        return tuple(d for d in range(1, min(self.devices, self.micro_batches) + 1) if self.micro_batches % d == 0)

    @cached_property
    def edges(self) -> tuple[LayerEdge, ...]:
        """Edges with the bytes of one micro-batch."""
        size = self.micro_batch_size
        return tuple(replace(edge, volume_bytes=edge.volume_bytes * size) for edge in self.profile.edges)

    @cached_property
    def runs(self) -> dict[int, tuple[tuple[LayerRun, ...], ...]]:
        """Variants of each layer by tensor-parallel degree."""
        return {t: self.profile.at((self.device, t, self.micro_batch_size)) for t in self.tp_degrees}


@dataclass(frozen=True, slots=True, order=True)
class ChainStage:
    """Layers by position, degrees, and the index of each layer's variant, in the order of ``layers``."""

    layers: tuple[int, ...]
    tp: int
    dp: int
    variants: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class StagePrice:
    """What a stage costs: seconds per micro-batch, micro-batches in flight, bytes on each device."""

    load_s: float
    in_flight: int
    memory_bytes: float


Chain = tuple[ChainStage, ...]


def price(problem: ChainProblem, chain: Chain) -> tuple[StagePrice, ...]:
    """Price a chain by the formulae of this file's head, layer by layer and edge by edge; nothing is cached or shared.

    Raises:
        InvalidProblemError: the chain breaks a rule of the problem (the message says which).
    """
    _check_shape(problem, chain)
    found = []
    behind = sum(stage.dp for stage in chain)
    for stage in chain:
        in_flight = -(-behind // stage.dp)
        terms, held = [], []
        for layer, run in _chosen(problem, stage):
            terms.append(run.time_s / stage.dp)
            crossing = _crossing_bytes(problem, stage, layer, run)
            reduction = 4 * (stage.dp - 1) * run.parameter_bytes / (stage.dp * problem.micro_batches)
            terms.append((crossing / stage.dp + reduction) / problem.bandwidth_bytes_per_s)
            held.append(run.in_flight_bytes * in_flight + run.fixed_bytes)
        found.append(StagePrice(math.fsum(terms), in_flight, math.fsum(held)))
        if found[-1].memory_bytes > problem.memory_bytes:
            raise InvalidProblemError(
                f"Stage {len(found)} needs {found[-1].memory_bytes:g} bytes on each device;"
                f" there are {problem.memory_bytes:g}."
            )
        behind -= stage.dp
    return tuple(found)


def largest_load(problem: ChainProblem, chain: Chain) -> float:
    """Objective of a chain in seconds per micro-batch."""
    return max(stage.load_s for stage in price(problem, chain))


def _chosen(problem: ChainProblem, stage: ChainStage) -> Iterator[tuple[int, LayerRun]]:
    for layer, variant in zip(stage.layers, stage.variants, strict=True):
        yield layer, problem.runs[stage.tp][layer][variant]


def _crossing_bytes(problem: ChainProblem, stage: ChainStage, layer: int, run: LayerRun) -> float:
    total = []
    for edge in problem.edges:
        if edge.target == layer and edge.source not in stage.layers:
            total.append(2 * (edge.volume_bytes + run.sync_in_bytes.get(edge.source, 0.0)))
        if edge.source == layer and edge.target not in stage.layers:
            total.append(2 * (edge.volume_bytes + run.sync_out_bytes.get(edge.target, 0.0)))
    return math.fsum(total)


def _check_shape(problem: ChainProblem, chain: Sequence[ChainStage]) -> None:
    placed: set[int] = set()
    for number, stage in enumerate(chain, start=1):
        if not stage.layers or placed & set(stage.layers):
            raise InvalidProblemError(f"Stage {number} is empty or repeats a layer.")
        if stage.tp not in problem.tp_degrees or stage.dp not in problem.dp_degrees:
            raise InvalidProblemError(f"Stage {number} has tp {stage.tp} and dp {stage.dp}, which the problem lacks.")
        placed |= set(stage.layers)
        for edge in problem.edges:
            if edge.target in placed and edge.source not in placed:
                raise InvalidProblemError(f"Stage {number} stands before layer {edge.source}, which feeds it.")
    if len(placed) != len(problem.profile.layers):
        raise InvalidProblemError("The stages leave a layer out.")
    replicas = sum(stage.dp for stage in chain)
    if replicas > problem.micro_batches:
        raise InvalidProblemError(f"The stages have {replicas} replicas for {problem.micro_batches} micro-batches.")
    used = sum(stage.tp * stage.dp for stage in chain)
    if used > problem.devices:
        raise InvalidProblemError(f"The stages use {used} devices; there are {problem.devices}.")
