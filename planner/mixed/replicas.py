"""Whole pipelines in each pool, and data parallelism across pools: gradients cross the slow link once a step.

Pools share the batch. Where the framework gives every replica as many micro-batches of the same size (Megatron-LM),
all pools take the same degrees and layout; otherwise each pool has its own and as many micro-batches as it can serve.
The optimizer is sharded inside a pool. Gradients are reduced inside each pool, exchanged between pools by all GPUs at
once, and the updated parameters gathered inside; where one optimizer is sharded over unequal pools, rings of replicas
cross the link instead.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from ...costmodels.candidates import CandidateTable
from ...costmodels.parallelism.data import exposed_s
from ...costmodels.stage_table import state_table
from ..solvers.mixed_stages import StageSplit, ThresholdSplit
from ..space import divisors
from .costs import MixedCosts, shortest_ends
from .price import Floats, Ints, Pricer, Stages
from .shares import PoolPipeline, best_shares, undominated
from .space import MAX_VP, Choices

#: Candidates for equal pools that are solved at most, in the order of their bounds.
MOST_SOLVED = 4000


@dataclass(frozen=True, slots=True)
class Share:
    """What one pool does: choice ``i`` of ``choices``, ``layers`` on its stages, in ``micro_batches`` a pipeline."""

    pool: int
    choices: Choices
    stages: Stages
    i: int
    layers: tuple[int, ...]
    micro_batches: int
    step_s: float


@dataclass(frozen=True, slots=True)
class ReplicaPlan:
    """Shares of all pools in use, and the parts of the step."""

    step_s: float
    key: tuple[int, ...]
    shares: tuple[Share, ...]
    parts: dict[str, float]


class ReplicaSearch:
    """Plans of one request; ``enumerated`` and ``solved`` count what it looked at."""

    def __init__(self, costs: MixedCosts) -> None:
        self.problem = costs.problem
        states, spread = _states(costs)
        pools = []
        for i, pool in enumerate(costs.pools):
            with np.errstate(invalid="ignore", divide="ignore"):
                table = state_table(
                    self.problem.model, self.problem.workload, self.problem.cluster.pools[i],
                    self.problem.software[i], states, spread,
                )  # fmt: skip
            pools.append(replace(pool, state=table, least_end=shortest_ends(self.problem.software[i], table)))
        self.costs = MixedCosts(self.problem, costs.rows, states, pools)
        self.spread = spread
        self.pricer = Pricer(self.costs)
        self.enumerated = self.solved = 0

    def best(self, k: int, cutoff_s: float = math.inf) -> list[ReplicaPlan]:
        """The ``k`` fastest found, fastest first; only those below ``cutoff_s``."""
        equal = self.problem.framework != "any"
        found = self._equal(k, cutoff_s) if equal else self._unequal(k)
        return sorted((f for f in found if f.step_s < cutoff_s), key=lambda f: (f.step_s, f.key))[:k]

    # -- the same configuration in every pool ---------------------------------------------------------------------

    def _equal(self, k: int, cutoff_s: float) -> Iterator[ReplicaPlan]:
        for used in _subsets(len(self.costs.pools)):
            yield from self._equal_on(used, k, cutoff_s)

    def _equal_on(self, used: tuple[int, ...], k: int, cutoff_s: float) -> list[ReplicaPlan]:
        """Candidates in the order of the bound of their slowest pool."""
        tables = [self._choices(j) for j in used]
        keys = [_keys(self, table) for table in tables]
        common = sorted(set(keys[0]).intersection(*keys[1:]))
        batch = int(self.problem.workload.global_batch)
        index: list[list[int]] = [[] for _ in used]
        counts = []
        for key in common:
            places = [found[key] for found in keys]
            rows = [table.dp[place] for table, place in zip(tables, places, strict=True)]
            per_step = int(self.costs.rows.micro_batch_size[key[0]]) * int(sum(rows))
            m = batch // per_step
            if batch % per_step or (key[2] > 1 and m % key[1]) or not self._mappable(key[0], key[1]):
                continue
            counts.append(m)
            for column, place in zip(index, places, strict=True):
                column.append(place)
        self.enumerated += len(counts)
        if not counts:
            return []
        picked = [
            replace(t.take(np.array(i)), micro_batches=np.array(counts)) for t, i in zip(tables, index, strict=True)
        ]
        stages = [self.pricer.stages(c) for c in picked]
        bound = np.max([self.pricer.bound(c, s) for c, s in zip(picked, stages, strict=True)], axis=0)
        best: list[ReplicaPlan] = []
        for n, i in enumerate(np.argsort(bound, kind="stable")):
            limit = best[k - 1].step_s if len(best) >= k else cutoff_s
            if bound[i] >= limit or n >= MOST_SOLVED:
                break
            plan = self._solve_equal(used, picked, stages, int(i))
            if plan is not None:
                best = sorted([*best, plan], key=lambda f: (f.step_s, f.key))[:k]
        return best

    def _mappable(self, row: int, pp: int) -> bool:
        """Megatron-LM numbers the ranks of a pipeline tp-cp-pp-dp only where experts span exactly its tp * cp ranks
        (``initialize_model_parallel``: the data-parallel size of attention and experts must be the same)."""
        ep, inner = int(self.costs.rows.ep[row]), int(self.costs.rows.tp[row] * self.costs.rows.cp[row])
        return self.problem.model.moe is None or pp == 1 or ep == inner

    def _solve_equal(
        self, used: tuple[int, ...], picked: list[Choices], stages: list[Stages], i: int
    ) -> ReplicaPlan | None:
        splits = [self.pricer.split(c, s, i) for c, s in zip(picked, stages, strict=True)]
        joint = StageSplit(
            cycle=np.max([s.cycle for s in splits], axis=0),
            end=np.max([s.end for s in splits], axis=0),
            least=np.max([s.least for s in splits], axis=0),
            most=np.min([s.most for s in splits], axis=0),
            units=splits[0].units,
            pace=splits[0].pace,
            end_weight=splits[0].end_weight,
        )
        found = ThresholdSplit().solve(joint)
        self.solved += 1
        if found.value is None:
            return None
        vp = int(picked[0].vp[i])
        layers = tuple(int(u) * vp for u in found.value)
        solved = [self._pipeline(j, c, s, i, layers) for j, c, s in zip(used, picked, stages, strict=True)]
        return self._plan(picked, stages, solved, [int(c.micro_batches[i]) for c in picked])

    # -- every pool its own ---------------------------------------------------------------------------------------

    def _unequal(self, k: int) -> list[ReplicaPlan]:
        batch, pools = int(self.problem.workload.global_batch), []
        for j in range(len(self.costs.pools)):
            pools.append(self._pipelines(j, batch))
        found: list[ReplicaPlan] = []
        for used in _subsets(len(pools)):
            for chosen, shared in best_shares(batch, [pools[j][2] for j in used], 4 * k):
                tables = [pools[j][:2] for j in used]
                found.append(self._plan([t[0] for t in tables], [t[1] for t in tables], list(chosen), list(shared)))
        return found

    def _pipelines(self, j: int, batch: int) -> tuple[Choices, Stages, list[PoolPipeline]]:
        """Pipelines of a pool that some share of the batch may want: of those that serve the batch in equal portions,
        the ones that no other beats in both the slowest stage and all stages together."""
        table = self._choices(j)
        self.enumerated += len(table)
        if not len(table):
            return table, self.pricer.stages(table), []
        share = self.problem.cluster.pools[j].n_gpus / self.problem.cluster.n_gpus
        size = self.costs.rows.micro_batch_size[table.row[:, 0]]
        table.micro_batches = np.maximum((batch * share / (size * table.dp)).astype(np.int64), 1)
        stages = self.pricer.stages(table)
        solved: list[PoolPipeline] = []
        for i in np.flatnonzero(self.pricer.feasible(table, stages)):
            if size[i] * table.dp[i] >= batch:
                continue
            found = ThresholdSplit().solve(self.pricer.split(table, stages, int(i)))
            self.solved += 1
            if found.value is not None:
                layers = tuple(int(u) * int(table.vp[i]) for u in found.value)
                solved.append(self._pipeline(j, table, stages, int(i), layers))
        return table, stages, undominated(solved)

    # -- common ---------------------------------------------------------------------------------------------------

    def _choices(self, j: int) -> Choices:
        """All pipelines of pool ``j`` that use its GPUs."""
        n_gpus, layers = self.problem.cluster.pools[j].n_gpus, self.problem.model.n_layers
        states, rows = self.costs.states, self.costs.rows
        vps = self.problem.pins.get("vp", tuple(v for v in divisors(layers) if v <= MAX_VP))
        if self.problem.framework == "any" and "vp" not in self.problem.pins:
            vps = (1,)
        by_degree: dict[tuple[int, int, int], list[int]] = {}
        for i in np.flatnonzero(self.costs.pools[j].usable):
            by_degree.setdefault((int(rows.tp[i]), int(rows.cp[i]), int(rows.ep[i])), []).append(int(i))
        found = []
        for s in range(len(states)):
            tp, cp, ep, dp, pp = (int(a[s]) for a in (states.tp, states.cp, states.ep, states.dp, self.spread))
            if tp * cp * dp * pp != n_gpus:
                continue
            for row in by_degree.get((tp, cp, ep), []):
                found += [(row, s, vp, pp, dp, tp * cp) for vp in vps if layers % vp == 0 and pp * vp <= layers
                          and (vp == 1 or pp > 1)]  # fmt: skip
        n, places = len(found), len(self.costs.pools)
        column = np.array(found, dtype=np.int64).reshape(n, 6)

        def first(values: Ints, fill: int) -> Ints:
            out = np.full((n, places), fill, dtype=np.int64)
            out[:, 0] = values
            return out

        vps_, pps, dps, inner = column[:, 2], column[:, 3], column[:, 4], column[:, 5]
        return Choices(
            order=first(np.full(n, j), -1), stages=first(pps, 0), row=first(column[:, 0], 0),
            state=first(column[:, 1], 0), ranks=first(inner * dps, 0), stride=first(inner, 0), vp=vps_,
            micro_batches=pps.copy(), pp=pps, dp=dps,
        )  # fmt: skip

    def _pipeline(self, j: int, c: Choices, s: Stages, i: int, layers: tuple[int, ...]) -> PoolPipeline:
        cycle = self.cycles(c, s, i, layers)
        size = int(self.costs.rows.micro_batch_size[c.row[i, 0]])
        return PoolPipeline(
            j, i, layers, float(cycle.max()), float(cycle.sum()), size * int(c.dp[i]), int(c.vp[i]), int(c.pp[i])
        )

    def cycles(self, c: Choices, s: Stages, i: int, layers: tuple[int, ...]) -> Floats:
        """Seconds of a micro-batch on every stage, transfers included."""
        pp = int(c.pp[i])
        at = (s.pool[i, :pp], s.row[i, :pp], s.kind[i, :pp], np.array(layers))
        return np.asarray(self.pricer.whole[at] + s.hop[i, :pp])

    def _plan(
        self, tables: list[Choices], stages: list[Stages], solved: list[PoolPipeline], counts: list[int]
    ) -> ReplicaPlan:
        """Price of pipelines in several pools, each with its number of micro-batches."""
        pricer = self.pricer
        split = [
            pricer.parts(replace(c, micro_batches=np.full(len(c), m)), s, p.i, np.array(p.layers))
            for c, s, p, m in zip(tables, stages, solved, counts, strict=True)
        ]
        busy = [sum(v for n, v in part.items() if n in ("stage_s", "bubble_s", "transfer_s")) for part in split]
        slow = int(np.argmax(busy))
        ends = [part["dp_s"] + part["optimizer_s"] for part in split]
        last = int(np.argmax(ends))
        parts = {name: split[slow][name] for name in ("stage_s", "bubble_s", "transfer_s")}
        parts |= {"dp_s": split[last]["dp_s"], "between_pools_s": self._between_s(tables, stages, solved)}
        parts |= {"optimizer_s": split[last]["optimizer_s"], "step_overhead_s": pricer.overhead_s}
        nodes = sum(p.nodes for p in (self.problem.cluster.pools[s.pool] for s in solved))
        slower = self.problem.software[0].coefficient("jitter_per_doubling") * math.log2(max(nodes, 1))
        parts["jitter_s"] = sum(parts.values()) * slower
        shares = tuple(
            Share(p.pool, c, s, p.i, p.layers, m, t)
            for c, s, p, m, t in zip(tables, stages, solved, counts, busy, strict=True)
        )
        key = tuple(v for p in solved for v in (p.pool, p.i, *p.layers))
        return ReplicaPlan(sum(parts.values()), key, shares, parts)

    def _between_s(self, tables: list[Choices], stages: list[Stages], solved: list[PoolPipeline]) -> float:
        """Exposed exchange of gradients between pools."""
        cluster, software = self.problem.cluster, self.problem.software[0]
        names = [cluster.names[p.pool] for p in solved]
        links = [cluster.link(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
        even = len({int(c.dp[p.i]) for c, p in zip(tables, solved, strict=True)}) == 1
        hierarchy = even or self.problem.framework == "any"
        c, s, p = tables[0], stages[0], solved[0]
        state = self.costs.pools[p.pool].state
        pp = int(c.pp[p.i])
        at = (s.state[p.i, :pp], s.kind[p.i, :pp], np.array(p.layers))
        rows = self.costs.rows
        inner = int(rows.tp[c.row[p.i, 0]] * rows.cp[c.row[p.i, 0]])
        if hierarchy:
            senders = min(cluster.pool(name).n_gpus for name in names)
            whole = float(state.grad_bytes[at].sum()) * inner
            n_bytes = 2.0 * (len(names) - 1) / len(names) * whole / senders
        else:  # every ring of replicas crosses the link once each way, for gradients and for parameters
            replicas = sum(int(t.dp[q.i]) for t, q in zip(tables, solved, strict=True))
            ports = max(cluster.pool(names[0]).gpus_per_node // (inner * pp), 1)
            senders = inner * pp * ports
            moved = float((state.grad_bytes[at] + state.weight_bytes[at]).max())
            n_bytes = moved * (replicas - 1) / replicas / ports
        curve = software.coefficient("comm_derate")
        seconds = max(n_bytes / link.rate(senders) + 2.0 * (len(names) - 1) * link.latency_s for link in links) / curve
        window = float(self.costs.pools[p.pool].time.backward_s[c.row[p.i, 0], s.kind[p.i, 0], p.layers[0]])
        on = bool(rows.overlap_grad_reduce[c.row[p.i, 0]])
        return float(exposed_s(seconds, window, software.coefficient("dp_overlap"), on))


def _subsets(n: int) -> list[tuple[int, ...]]:
    return [used for size in range(2, n + 1) for used in combinations(range(n), size)]


def _keys(search: ReplicaSearch, table: Choices) -> dict[tuple[int, int, int], int]:
    """Row, pp and vp of every pipeline of a pool -> its number (dp follows from the pool's size)."""
    return {
        (int(r), int(p), int(v)): i for i, (r, p, v) in enumerate(zip(table.row[:, 0], table.pp, table.vp, strict=True))
    }


def _states(costs: MixedCosts) -> tuple[CandidateTable, Ints]:
    """Degrees with which pipelines fill a pool, and the pipeline degree of each."""
    pins, layers = costs.problem.pins, costs.problem.model.n_layers
    degrees = sorted(
        {(int(a), int(b), int(e)) for a, b, e in zip(costs.rows.tp, costs.rows.cp, costs.rows.ep, strict=True)}
    )
    found: dict[tuple[int, int, int, int, int], None] = {}
    for pool in costs.problem.cluster.pools:
        for tp, cp, ep in degrees:
            for pp in divisors(pool.n_gpus):
                dp = pool.n_gpus // (tp * cp * pp)
                whole = dp >= 1 and tp * cp * pp * dp == pool.n_gpus and pp <= layers
                if whole and (tp * cp * dp) % ep == 0 and ("pp" not in pins or pp in pins["pp"]) and "dp" not in pins:
                    found[(tp, cp, ep, dp, pp)] = None
    column = np.array(list(found), dtype=np.int64).reshape(len(found), 5)
    columns = {name: column[:, i] for i, name in enumerate(("tp", "cp", "ep", "dp"))}
    return CandidateTable({**columns, "zero_stage": np.ones(len(found), dtype=np.int64)}), column[:, 4]
