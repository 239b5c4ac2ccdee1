"""Every stage that a chain may contain, with bounds on its load for all pairs of sets at once and its exact price one
by one."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ...costmodels.layer_profile import LayerRun
from . import variant_choice
from .chain_problem import ChainProblem
from .downsets import enumerate_downsets

Floats = NDArray[np.float64]
SAFE = 1 - 1e-9  # bounds come from sums of differences; they must not exclude what is exactly at the limit


class CandidateStages:
    """Stages are numbered by pair of nested downward-closed sets; the pairs of one upper set stand together.

    Attributes:
        low: the lower set of each pair; start: first pair of each upper set.
        room: devices that stages can use at most (a replica needs a micro-batch of its own).
    """

    def __init__(self, problem: ChainProblem) -> None:
        self.problem = problem
        edges = problem.edges
        self.room = min(problem.devices, problem.micro_batches * max(problem.tp_degrees))
        self.sets = enumerate_downsets(len(problem.profile.layers), [(e.source, e.target) for e in edges])
        counts = [len(below) for below in self.sets.below]
        self.start: NDArray[np.int64] = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
        self.low = np.concatenate(self.sets.below).astype(np.int64)
        self.high = np.repeat(np.arange(len(counts)), counts)
        self._alpha: dict[int, Floats] = {}
        self._beta: dict[int, Floats] = {}
        self._kept: dict[int, Floats] = {}
        self._fixed: dict[int, Floats] = {}
        self._holds_one: dict[int, NDArray[np.bool_]] = {}
        for tp in problem.tp_degrees:
            self._bounds(tp)
        self._ends: list[list[tuple[float, bool, int]]] = [[] for _ in problem.profile.layers]
        for e in edges:
            self._ends[e.source].append((e.volume_bytes, False, e.target))
            self._ends[e.target].append((e.volume_bytes, True, e.source))
        self._divisors = np.array(problem.dp_degrees)
        self._tables: dict[tuple[int, int], list[list[tuple[float, float, float, float]]]] = {}
        self._known: dict[tuple[int, int, int, int], variant_choice.Relaxation] = {}
        self._exact: dict[tuple[int, int, int, int], variant_choice.VariantChoice] = {}

    def _bounds(self, tp: int) -> None:
        """Per pair: least time and traffic undivided (alpha), least reduction (beta), least memory coefficients."""
        problem, runs = self.problem, self.problem.runs[tp]
        member = self.sets.member.astype(float)
        count = member.shape[1]
        into, out = np.zeros((count, count)), np.zeros((count, count))
        for e in problem.edges:
            into[e.source, e.target] = e.volume_bytes + min(r.sync_in_bytes.get(e.source, 0.0) for r in runs[e.target])
            out[e.source, e.target] = e.volume_bytes + min(r.sync_out_bytes.get(e.target, 0.0) for r in runs[e.source])
        entering = np.einsum("iu,uv,iv->i", member, into, 1 - member, optimize=True)
        leaving = np.einsum("iu,uv,iv->i", member, out, 1 - member, optimize=True)
        passing = np.concatenate(
            [
                member[below] @ ((into + out) @ (1 - member[row]))
                for row, below in enumerate(self.sets.below)
                if len(below)
            ]
        )
        crossing = np.maximum(entering[self.low] + leaving[self.high] - passing, 0.0)
        self._alpha[tp] = self._between(member, [min(r.time_s for r in v) for v in runs])
        self._alpha[tp] += 2 * crossing / problem.bandwidth_bytes_per_s
        per_byte = 4 / problem.micro_batches / problem.bandwidth_bytes_per_s
        self._beta[tp] = self._between(member, [min(r.parameter_bytes for r in v) for v in runs]) * per_byte
        self._kept[tp] = self._between(member, [min(r.in_flight_bytes for r in v) for v in runs])
        self._fixed[tp] = self._between(member, [min(r.fixed_bytes for r in v) for v in runs])
        alone = self._between(member, [min(r.peak_bytes(1) for r in v) for v in runs])
        self._holds_one[tp] = alone * SAFE <= problem.memory_bytes

    def _between(self, member: Floats, values: list[float]) -> Floats:
        sums = member @ np.array(values)
        return np.asarray(sums[self.high] - sums[self.low])

    @property
    def load_range(self) -> tuple[float, float]:
        """Loads between which every chain's largest load lies: all devices busy without traffic; one stage of
        everything, every edge crossed."""
        by_layer = zip(*([(tp, v) for v in runs] for tp, runs in self.problem.runs.items()), strict=True)
        low = sum(min(tp * run.time_s for tp, variants in layer for run in variants) for layer in by_layer)
        return low * SAFE / self.problem.devices, self._ceiling()

    def _ceiling(self) -> float:
        total = 0.0
        for variants in zip(*self.problem.runs.values(), strict=True):
            total += max(_undivided(self.problem, run, None) for runs in variants for run in runs)
        for e in self.problem.edges:
            total += 4 * e.volume_bytes / self.problem.bandwidth_bytes_per_s
        return total

    def _least_dp(self, pairs: slice, tp: int, load: float) -> Floats:
        """Least divisor at which the bound on the load stays under ``load``, infinite where none does."""
        limit = load / SAFE
        alpha, beta = self._alpha[tp][pairs], self._beta[tp][pairs]
        if math.isinf(load):
            wanted = np.ones_like(alpha)
        else:
            with np.errstate(divide="ignore", invalid="ignore"):
                wanted = np.where(beta < limit, (alpha - beta) / (limit - beta), np.inf)
            wanted = np.where(alpha <= limit, 1.0, wanted)
        at = np.searchsorted(self._divisors, wanted * SAFE)
        padded = np.append(self._divisors.astype(float), np.inf)
        found = padded[at]
        found[~self._holds_one[tp][pairs]] = np.inf
        return np.asarray(found)

    def fewest_devices(self, load: float) -> Floats:
        """Per set: least devices of stages that cover it with loads under ``load``, one micro-batch in flight."""
        costs = None
        for tp in self.problem.tp_degrees:
            own = tp * self._least_dp(slice(None), tp, load)
            costs = own if costs is None else np.minimum(costs, own)
        assert costs is not None
        fewest = np.full(len(self.sets.masks), np.inf)
        fewest[0] = 0
        for row in range(1, len(fewest)):
            part = slice(self.start[row], self.start[row + 1])
            fewest[row] = (fewest[self.low[part]] + costs[part]).min()
        return fewest

    def hopeful(self, high: int, tp: int, spare: float, before: Floats, load: float) -> Iterator[tuple[int, int]]:
        """Pairs under ``high`` that leave enough devices to the sets before, each with its least divisor."""
        part = slice(self.start[high], self.start[high + 1])
        least = self._least_dp(part, tp, load)
        for row in np.nonzero(tp * least + before[self.low[part]] <= spare)[0].tolist():
            yield int(self.start[high]) + row, int(least[row])

    def may_hold(self, pair: int, tp: int, dp: int, load: float) -> bool:
        """Whether the bound allows the stage under ``load``."""
        alpha, beta = self._alpha[tp][pair], self._beta[tp][pair]
        return bool(((alpha - beta) / dp + beta) * SAFE <= load)

    def holds(self, pair: int, tp: int, dp: int, in_flight: int, load: float) -> bool:
        """Whether some choice of variants stays under ``load`` and the memory."""
        least = self._kept[tp][pair] * in_flight + self._fixed[tp][pair]
        if least * SAFE > self.problem.memory_bytes:
            return False
        key = (pair, tp, dp, in_flight)
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = variant_choice.relax(self._options(key), self.problem.memory_bytes)
        if known.choice.under(load):
            return True
        if known.choice.bound * SAFE > load or known.choice.settled:
            return False
        return self._settled(key).under(load)

    def _settled(self, key: tuple[int, int, int, int]) -> variant_choice.VariantChoice:
        if key not in self._exact:
            self._exact[key] = variant_choice.solve(self._options(key), self.problem.memory_bytes, self._known[key])
        return self._exact[key]

    def variants(self, pair: int, tp: int, dp: int, in_flight: int, load: float) -> tuple[int, ...]:
        """A choice under ``load``, as ``holds`` found it."""
        key = (pair, tp, dp, in_flight)
        known = self._known[key].choice
        picked = known.picked if known.under(load) else self._settled(key).picked
        assert picked is not None
        return picked

    def layers(self, pair: int) -> tuple[int, ...]:
        """Layers of a stage by position."""
        return self.sets.nodes_between(int(self.low[pair]), int(self.high[pair]))

    def _options(self, key: tuple[int, int, int, int]) -> list[list[tuple[float, float]]]:
        pair, tp, dp, in_flight = key
        share = (dp - 1) / dp
        return [
            [(alpha / dp + beta * share, kept * in_flight + fixed) for alpha, beta, kept, fixed in variants]
            for variants in self._table(pair, tp)
        ]

    def _table(self, pair: int, tp: int) -> list[list[tuple[float, float, float, float]]]:
        if (pair, tp) not in self._tables:
            inside = set(self.layers(pair))
            per_byte = 4 / self.problem.micro_batches / self.problem.bandwidth_bytes_per_s
            table = []
            for layer in sorted(inside):
                crossing = [end for end in self._ends[layer] if end[2] not in inside]
                table.append(
                    [
                        (
                            _undivided(self.problem, run, crossing),
                            run.parameter_bytes * per_byte,
                            run.in_flight_bytes,
                            run.fixed_bytes,
                        )
                        for run in self.problem.runs[tp][layer]
                    ]
                )
            self._tables[pair, tp] = table
        return self._tables[pair, tp]


def _undivided(problem: ChainProblem, run: LayerRun, crossing: list[tuple[float, bool, int]] | None) -> float:
    """Time and boundary traffic of a layer at d = 1; with ``crossing`` None an upper bound without edge volumes."""
    if crossing is None:
        traffic = math.fsum(run.sync_in_bytes.values()) + math.fsum(run.sync_out_bytes.values())
        reduction = 4 * run.parameter_bytes / problem.micro_batches
        return run.time_s + (2 * traffic + reduction) / problem.bandwidth_bytes_per_s
    traffic = math.fsum(
        volume + (run.sync_in_bytes if incoming else run.sync_out_bytes).get(other, 0.0)
        for volume, incoming, other in crossing
    )
    return run.time_s + 2 * traffic / problem.bandwidth_bytes_per_s
