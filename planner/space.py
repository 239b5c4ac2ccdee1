"""Every configuration worth pricing, as one table, and how many each rule of the framework removed.

The space is a tree of small blocks of fields: degrees, context-parallel exchange, experts, pipeline chunks and
schedule, micro-batch, sharding, offload, recompute. A block's options depend on fields of earlier blocks only, so a
rule is applied as soon as its fields are known, and what it removes is counted in whole candidates (rows times the
options that the later blocks would have had). No Python loop runs over candidates, only over distinct keys of a block.

Domains where no pin says otherwise: tp divides the GPUs and stays in the scale-up domain; cp leaves at least 1024
tokens on a rank; etp is 1 or tp; vp deals out evenly (embedding and loss counted or not), or is at most 4 with chunks
of at least four layers or equal but at the ends of the model; micro-batches are divisors of the batch up to 16; ZeRO
shards over all replicas or over those of one node (or of a faster domain inside it); ZeRO-3 of DeepSpeed may keep a
second copy of the parameters inside a domain of the links; sequence parallelism is on where tp > 1. One layer split
belongs to each (pp, vp): even, else embedding and loss counted, else a layout.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..costmodels.candidates import CandidateTable, unique_rows
from ..costmodels.parallel import CONFIG_FIELDS, CpComm, LayerSplit, ParallelConfig, Recompute, Schedule
from ..costmodels.parallelism.pipeline import nearly_equal_chunks
from ..costmodels.rules import FRAMEWORKS, rules_of, violations
from .problem import PlanningProblem
from .zero_plus import ZERO_PLUS, zero_plus_options
from .zero_plus import divisors as divisors

Columns = dict[str, NDArray[np.int64]]
Options = list[tuple[int, ...]]

MAX_MICRO_BATCH = 16
MAX_UNEVEN_VP = 4
MIN_TOKENS_PER_CP_RANK = 1024
_SWITCHES = ("overlap_grad_reduce", "overlap_param_gather", "tp_overlap")
_ZERO_STAGES = {
    "megatron-lm": (0, 1, 2, 3),
    "torchtitan": (2, 3),
    "deepspeed": (0, 1, 2, 3),
    "pytorch": (0, 2, 3),
}
_UNSHARDED_STAGE = {"megatron-lm": 1, "torchtitan": 3, "deepspeed": 1, "pytorch": 0}
_CP_COMM = {
    "megatron-lm": (CpComm.RING, CpComm.ALL_GATHER, CpComm.ULYSSES),
    "torchtitan": (CpComm.RING, CpComm.ALL_GATHER),
    "deepspeed": (CpComm.ULYSSES,),
    "pytorch": (CpComm.RING,),
}


@dataclass(slots=True)
class Space:
    """Candidates that obey every rule.

    Attributes:
        table: the candidates; recompute modes of one cell are neighbours.
        cell: for each row the number of its cell (all fields but recompute).
        enumerated: candidates before rules; removed: how many each rule took, in order of application.
    """

    table: CandidateTable
    cell: NDArray[np.int64]
    enumerated: int
    removed: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Block:
    """Fields chosen together. ``options(key)`` lists their values for one combination of the ``keys`` fields."""

    fields: tuple[str, ...]
    keys: tuple[str, ...]
    options: Callable[..., Options]


def enumerate_space(problem: PlanningProblem, *, launchable: bool = True) -> Space:
    """All candidates of a problem.

    Args:
        launchable: leave out what only launch files stand against (``any`` keeps it where it is pinned).

    Returns:
        the table after rules, pins and excludes, with exact counts of what each of them removed.
    """
    if problem.framework == "any":
        return _union([enumerate_space(replace(problem, framework=name), launchable=False) for name in FRAMEWORKS])
    blocks = _blocks(problem)
    columns = _mesh(problem)
    applied = set() if launchable else {r.name for r in rules_of(problem.framework) if r.launch}
    removed: dict[str, int] = {}
    weights = [_option_count(b, columns) for b in blocks]
    later = _product(weights, len(columns["tp"]))
    enumerated = int(later.sum())
    known = {"tp", "cp", "pp", "dp"}
    keep = _sieve(problem, columns, frozenset(known), applied, removed, later)
    divides = np.asarray(problem.workload.global_batch % columns["dp"] == 0)  # else no micro-batch does either
    removed["batch"] = int(later[keep & ~divides].sum())
    columns = {k: v[keep & divides] for k, v in columns.items()}
    for i, block in enumerate(blocks):
        columns = _expand(block, columns)
        known |= set(block.fields)
        later = _product([_option_count(b, columns) for b in blocks[i + 1 :]], len(columns["tp"]))
        keep = _sieve(problem, columns, frozenset(known), applied, removed, later)
        columns = columns if keep.all() else {k: v[keep] for k, v in columns.items()}
    table, cell = _finish(problem, columns, removed)
    return Space(table, cell, enumerated, {k: v for k, v in removed.items() if v})


def _union(spaces: list[Space]) -> Space:
    """Candidates of at least one framework; one that several have is kept once (``duplicate`` counts the others)."""
    columns = {f: np.concatenate([s.table.columns[f] for s in spaces]) for f in CONFIG_FIELDS}
    first, _ = unique_rows([columns[f] for f in CONFIG_FIELDS])
    table = CandidateTable(columns).take(np.sort(first))
    _, cell = unique_rows([table.columns[f] for f in CONFIG_FIELDS if f not in ("recompute", "recompute_layers")])
    removed: dict[str, int] = {}
    for space in spaces:
        for name, count in space.removed.items():
            removed[name] = removed.get(name, 0) + count
    twice = len(columns["tp"]) - len(table)
    return Space(table, cell, sum(s.enumerated for s in spaces), {**removed, **({"duplicate": twice} if twice else {})})


def _finish(problem: PlanningProblem, columns: Columns, removed: dict[str, int]) -> tuple[CandidateTable, Any]:
    """Excludes, and the cell numbers."""
    cell = columns.pop("_cell")
    table = CandidateTable(columns)
    hit = excluded(problem, table)
    removed["exclude"] = int(hit.sum())
    return (table.take(~hit), cell[~hit]) if hit.any() else (table, cell)


def excluded(problem: PlanningProblem, table: CandidateTable) -> NDArray[np.bool_]:
    """Rows that match one of the problem's ``excludes``."""
    hit = np.zeros(len(table), dtype=bool)
    for conjunction in problem.excludes:
        match = np.ones(len(table), dtype=bool)
        for name, value in conjunction.items():
            match &= table.columns[name] == value
        hit |= match
    return hit


def _mesh(problem: PlanningProblem) -> Columns:
    """Degrees whose product is the number of GPUs."""
    world, pins = problem.cluster.n_gpus, problem.pins
    all_divisors = divisors(world)
    tiers = problem.cluster.tiers
    domain = max(tiers[0].domain_gpus if tiers else 1, problem.cluster.gpus_per_node)
    tps = list(pins.get("tp", [d for d in all_divisors if d <= domain]))
    longest_cp = 1 if problem.framework == "pytorch" else max(1, problem.workload.seq_len // MIN_TOKENS_PER_CP_RANK)
    cps = list(pins.get("cp", [d for d in all_divisors if d <= longest_cp]))
    pps = list(pins.get("pp", [d for d in all_divisors if d <= problem.model.n_layers]))
    tp, cp, pp = (a.ravel() for a in np.meshgrid(tps, cps, pps, indexing="ij"))
    size = tp * cp * pp
    ok = world % size == 0
    dp = world // size
    if "dp" in pins:
        ok &= np.isin(dp, pins["dp"])
    tp, cp, pp, dp = (a[ok].astype(np.int64) for a in (tp, cp, pp, dp))
    return {"tp": tp, "cp": cp, "pp": pp, "dp": dp, "_cell": np.zeros(len(tp), dtype=np.int64)}


def _product(weights: list[NDArray[np.int64]], n: int) -> NDArray[np.int64]:
    out = np.ones(n, dtype=np.int64)
    for w in weights:
        out = out * w
    return out


def _keyed(block: Block, columns: Columns) -> tuple[list[Options], NDArray[np.int64]]:
    """Options of each distinct key, and each row's key number."""
    n = len(columns["tp"])
    if not block.keys:
        return [block.options()], np.zeros(n, dtype=np.int64)
    first, inverse = unique_rows([columns[k] for k in block.keys])
    return [block.options(*(int(columns[k][i]) for k in block.keys)) for i in first], inverse


def _option_count(block: Block, columns: Columns) -> NDArray[np.int64]:
    options, inverse = _keyed(block, columns)
    sizes = np.array([len(o) for o in options] or [0], dtype=np.int64)
    return sizes[inverse] if len(inverse) else np.zeros(0, dtype=np.int64)


def _expand(block: Block, columns: Columns) -> Columns:
    """Replace every row by one row per option of its key."""
    options, inverse = _keyed(block, columns)
    if not len(inverse):
        return {**columns, **{f: np.zeros(0, dtype=np.int64) for f in block.fields}}
    sizes = np.array([len(o) for o in options], dtype=np.int64)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    flat = np.array([row for o in options for row in o], dtype=np.int64).reshape(-1, len(block.fields))
    repeat = sizes[inverse]
    rows = np.repeat(np.arange(len(inverse)), repeat)
    first = np.concatenate([[0], np.cumsum(repeat)])[:-1]
    within = np.arange(len(rows)) - np.repeat(first, repeat)
    pick = starts[inverse[rows]] + within
    out = {k: v[rows] for k, v in columns.items()}
    out.update({f: flat[pick, j] for j, f in enumerate(block.fields)})
    out["_cell"] = rows  # the last block is recompute, so this numbers the cells
    return out


def _sieve(
    problem: PlanningProblem,
    columns: Columns,
    known: frozenset[str],
    applied: set[str],
    removed: dict[str, int],
    later: NDArray[np.int64],
) -> NDArray[np.bool_]:
    """Apply the rules that have just become decidable; the first one broken is charged.

    They are checked once per distinct combination of the fields that they depend on.
    """
    keep = np.ones(len(columns["tp"]), dtype=bool)
    rules = [r for r in rules_of(problem.framework) if set(r.fields) <= known and r.name not in applied]
    applied |= {r.name for r in rules}
    deciding = sorted({f for r in rules for f in r.fields})
    if not rules or not len(keep):
        return keep
    if deciding:
        first, inverse = unique_rows([columns[f] for f in deciding])
    else:
        first, inverse = np.zeros(1, dtype=np.int64), np.zeros(len(keep), dtype=np.int64)
    broken = violations(
        problem.model, problem.workload, problem.cluster, problem.framework,
        CandidateTable({f: v[first] for f, v in columns.items() if f != "_cell"}),
        placement="tp" not in problem.pins, only=frozenset(r.name for r in rules),
    )  # fmt: skip
    for name, mask in broken.items():
        hit = keep & mask[inverse]
        if hit.any():
            removed[name] = removed.get(name, 0) + int(later[hit].sum())
            keep &= ~hit
    return keep


# -- blocks ---------------------------------------------------------------------------------------
def _blocks(problem: PlanningProblem) -> list[Block]:
    """The tree of blocks after the degrees; recompute is the last."""
    p = problem
    return [
        Block(("sequence_parallel", *_SWITCHES), ("tp",), lambda tp: _switch_options(p, tp)),
        Block(("cp_comm",), ("cp",), lambda cp: _cp_options(p, cp)),
        Block(("ep", "etp"), ("tp", "cp", "dp"), lambda tp, cp, dp: _expert_options(p, tp, tp * cp * dp)),
        Block(("vp", "layer_split", "schedule", "vocab_parallel"), ("pp",), lambda pp: _pipeline_options(p, pp)),
        Block(("micro_batch_size",), ("dp",), lambda dp: _batch_options(p, dp)),
        Block(
            ("zero_stage", "dp_shard", *ZERO_PLUS), ("tp", "cp", "dp"), lambda tp, cp, dp: _shard_options(p, tp, cp, dp)
        ),
        Block(("optimizer_offload",), (), lambda: [(v,) for v in _offload_values(p)]),
        Block(("recompute", "recompute_layers"), (), lambda: recompute_options(p)),
    ]


def _switch_options(p: PlanningProblem, tp: int) -> Options:
    """Sequence parallelism where tp > 1, TP overlap off; the other switches as the release sets them, unless pinned."""
    out: Options = []
    for sp in p.pins.get("sequence_parallel", (int(tp > 1),)):
        default = {n: int(p.software.defaults.get(n, getattr(ParallelConfig(), n))) for n in _SWITCHES}
        # overlapping TP traffic needs user buffers or a compiled step, which not every installation has: pinned only
        default["tp_overlap"] = 0
        out += [(sp, *rest) for rest in product(*(p.pins.get(n, (default[n],)) for n in _SWITCHES))]
    return out


def _cp_options(p: PlanningProblem, cp: int) -> Options:
    allowed = p.pins.get("cp_comm", tuple(int(v) for v in _CP_COMM[p.framework]))
    return [(v,) for v in (allowed if cp > 1 else allowed[:1])]


def _expert_options(p: PlanningProblem, tp: int, region: int) -> Options:
    n_experts = p.model.moe.n_experts if p.model.moe else 1
    eps = p.pins.get("ep", tuple(d for d in divisors(n_experts) if region % d == 0))
    if "ep" not in p.pins and p.framework == "pytorch":
        eps = (1,)
    separate = p.model.moe is not None and p.framework not in ("torchtitan", "pytorch")
    etps = p.pins.get("etp", tuple(sorted({1, tp})) if separate else (1,))
    return [(ep, etp) for ep in eps for etp in etps]


def _pipeline_options(p: PlanningProblem, pp: int) -> Options:
    layers = p.model.n_layers
    vps = p.pins.get("vp") or tuple(
        v
        for v in range(1, (layers // pp if pp > 1 else 1) + 1)
        if v == 1
        or layers % (pp * v) == 0
        or (layers + 2) % (pp * v) == 0
        or (v <= MAX_UNEVEN_VP and nearly_equal_chunks(layers, pp, v, p.model.mtp_layers))
    )
    if p.framework == "deepspeed" and "vp" not in p.pins:
        vps = (1,)
    return [
        (vp, split, schedule, vocabulary)
        for vp in vps
        for split in p.pins.get("layer_split", (natural_split(layers, pp, vp),))
        for schedule in _schedules(p, pp, vp)
        for vocabulary in p.pins.get("vocab_parallel", (0,))
    ]


def natural_split(layers: int, pp: int, vp: int) -> int:
    """Even where it divides, else with embedding and loss counted, else a layout."""
    chunks = pp * vp
    if layers % chunks == 0:
        return int(LayerSplit.EVEN)
    return int(LayerSplit.EMBEDDING_AND_LOSS_COUNT if (layers + 2) % chunks == 0 else LayerSplit.LAYOUT)


def _schedules(p: PlanningProblem, pp: int, vp: int) -> tuple[int, ...]:
    plain = int(Schedule.ONE_F_ONE_B)
    if "schedule" in p.pins:
        return p.pins["schedule"]
    if pp == 1 or p.framework in ("megatron-lm", "deepspeed"):
        return (plain,)
    if vp == 1:
        return (plain, int(Schedule.GPIPE))
    both = (plain, int(Schedule.ZERO_BUBBLE_H1))
    return (*both, int(Schedule.ZERO_BUBBLE_V)) if vp == 2 else both


def _batch_options(p: PlanningProblem, dp: int) -> Options:
    """Micro-batches that divide the rank's share (a pin is taken as it is)."""
    if "micro_batch_size" in p.pins:
        return [(v,) for v in p.pins["micro_batch_size"]]
    share = max(int(p.workload.global_batch) // dp, 1)
    return [(d,) for d in divisors(share) if d <= MAX_MICRO_BATCH]


def _shard_options(p: PlanningProblem, tp: int, cp: int, dp: int) -> Options:
    stages = p.pins.get("zero_stage", _ZERO_STAGES[p.framework])
    ranks = dp * cp
    if ranks == 1 and "zero_stage" not in p.pins:
        stages = (_UNSHARDED_STAGE[p.framework],)
    out: Options = []
    for stage in stages:
        shards = p.pins.get("dp_shard", (ranks,))
        if "dp_shard" not in p.pins and stage > 0 and p.framework != "deepspeed":
            shards = (ranks, *_node_local(p, tp, cp, ranks))
        out += [(stage, s, *rest) for s in shards for rest in zero_plus_options(p, stage, ranks)]
    return out


def _node_local(p: PlanningProblem, tp: int, cp: int, ranks: int) -> tuple[int, ...]:
    """Shard groups of one node, and of faster domains inside it (the two dies of a package): of each the largest
    divisor of the replicas that fits beside tp, holding whole cp groups."""
    per_node = p.cluster.gpus_per_node
    domains = {per_node, *(tier.domain_gpus for tier in p.cluster.tiers if tier.domain_gpus < per_node)}
    found = set()
    for domain in domains:
        room = max(domain // tp, 1)
        found |= {max((d for d in divisors(ranks) if d <= room and d % cp == 0 and 1 < d < ranks), default=0)}
    return tuple(sorted(found - {0}, reverse=True))


def _offload_values(p: PlanningProblem) -> tuple[int, ...]:
    return p.pins.get("optimizer_offload", (0, 1) if "offload" in p.allow else (0,))


def recompute_options(p: PlanningProblem) -> Options:
    """Modes of the framework: none, the selective sets that save memory, and full.

    A pin of ``recompute_layers`` above zero goes with full; unpinned layer counts are found in ``rank``.
    """
    masks = p.pins.get("recompute")
    if masks is None:
        masks = _recompute_masks(p)
    layers = p.pins.get("recompute_layers")
    full = int(Recompute.FULL)
    if layers is None:
        return [(m, 0) for m in masks]
    return [(m, n) for m in masks for n in layers if (n == 0 or m & full)]


def _recompute_masks(p: PlanningProblem) -> tuple[int, ...]:
    none, full = 0, int(Recompute.FULL)
    norm, act, ffn = int(Recompute.NORM), int(Recompute.FFN_ACTIVATION), int(Recompute.FFN)
    if p.framework in ("deepspeed", "pytorch"):
        return (none, full)
    if p.framework == "torchtitan":
        return (none, norm | act, full)
    core = int(Recompute.CORE_ATTENTION) if p.software.attention == "unfused" else 0
    up = int(Recompute.MLA_UP_PROJECTION) if p.model.attention.kind == "mla" else 0
    cheap = norm | up | (act if p.model.moe is not None else 0)
    sets = [none, core, up, cheap, core | cheap, core | norm | up | ffn, full]
    return tuple(dict.fromkeys(sets))
