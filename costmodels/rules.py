"""Every divisibility and availability rule of the frameworks, in one place, for one plan or a million.

A rule is a sentence and a check. The check sees the model, the workload, the cluster and a configuration
whose fields are ints or integer arrays, and answers which rows obey it; it has no ``if`` on a field.
``any`` as framework accepts a row that at least one framework accepts.

Sources, read in 2026-08 snapshots and releases: Megatron-LM 0.19 ``arguments.py``, ``transformer_config.py`` and
``pipeline_parallel/schedules.py``; TorchTitan ``parallel_dims.py``, ``pipeline_parallel.py``; PyTorch 2.13
``distributed/pipelining/schedules.py``; DeepSpeed 0.19 ``runtime/engine.py`` and ``runtime/pipe``; Transformer
Engine ``context_parallel.py`` and its FP8 shape check. Where a parser accepts what cannot run (sequence not divisible
by tp under sequence parallelism, experts with tp but without sequence parallelism) the rule is ours. The vocabulary
has no rule: Megatron pads it and DTensor shards it unevenly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..hardware_profiles.errors import InvalidProblemError, did_you_mean
from ..hardware_profiles.types import Cluster
from .candidates import CandidateTable
from .model_spec import ModelSpec, MoeSpec
from .parallel import CONFIG_FIELDS, CpComm, LayerSplit, ParallelConfig, Recompute, Schedule
from .workload import Workload

Mask = NDArray[np.bool_]
MEGATRON, TITAN, DEEPSPEED, PYTORCH = "megatron-lm", "torchtitan", "deepspeed", "pytorch"
#: Frameworks with rules; ``any`` means at least one of them.
FRAMEWORKS = (MEGATRON, TITAN, DEEPSPEED, PYTORCH)
_ALL = FRAMEWORKS
_TORCH = (TITAN, PYTORCH)
_DEGREES = ("tp", "cp", "pp", "dp")
_NO_EXPERTS = MoeSpec(n_experts=1, top_k=1, ffn_hidden=1, n_moe_layers=0)


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule.

    Attributes:
        name: key in reports. Two rules may share it if no framework has both.
        fields: ``ParallelConfig`` fields that decide it.
        sentence: template over ``c`` (configuration), ``m`` (model), ``w`` (workload) and ``d`` (derived numbers).
        check: rows that obey; gets the namespace ``SimpleNamespace(c, m, w, d)``.
        frameworks: where it holds.
        hard: False for a placement preference that a pin overrides.
    """

    name: str
    fields: tuple[str, ...]
    sentence: str
    check: Callable[[Any], Any]
    frameworks: tuple[str, ...] = _ALL
    hard: bool = True


def _derive(model: ModelSpec, workload: Workload, cluster: Cluster, config: Any) -> SimpleNamespace:
    """Numbers that several rules need: world, domain, micro-batches, layers per chunk, allowed codes."""
    per_step = np.maximum(config.micro_batch_size * config.dp, 1)
    chunks = np.maximum(config.pp * config.vp, 1)
    extra = np.where(config.layer_split == LayerSplit.EMBEDDING_AND_LOSS_COUNT, 2, 0)
    return SimpleNamespace(
        world=cluster.n_gpus,
        degrees=config.tp * config.cp * config.pp * config.dp,
        domain=max(cluster.tiers[0].domain_gpus, cluster.gpus_per_node),
        microbatches=workload.global_batch // per_step,
        rest=workload.global_batch % per_step,
        per_step=per_step,
        chunks=chunks,
        units=model.n_layers + extra,
        moe=model.moe or _NO_EXPERTS,
        is_moe=model.moe is not None,
        shared=model.moe.shared_ffn_hidden if model.moe else 0,
        region=config.tp * config.cp * config.dp,
        fp8=workload.gemm_type in ("fp8", "fp4"),
        tokens=config.micro_batch_size * workload.seq_len // np.maximum(config.cp * config.tp, 1),
        full=(config.recompute & int(Recompute.FULL)) > 0,
        local_layers=-(-model.n_layers // np.maximum(config.pp, 1)),
    )


def _one_of(value: Any, allowed: tuple[int, ...]) -> Any:
    ok = value == allowed[0]
    for a in allowed[1:]:
        ok = ok | (value == a)
    return ok


def _split_fits(x: Any) -> Any:
    divides = x.d.units % x.d.chunks == 0
    roomy = x.m.n_layers >= x.d.chunks
    counted = divides & (x.d.units >= 2 * x.d.chunks) & (x.d.chunks > 1)
    split = x.c.layer_split
    return np.where(split == LayerSplit.EVEN, divides, np.where(split == LayerSplit.LAYOUT, roomy, counted)) & roomy


def _torch_rounds(x: Any) -> Any:
    """torch's interleaved schedules: micro-batches divide into max(1, M // pp) equal rounds."""
    rounds = np.maximum(1, x.d.microbatches // np.maximum(x.c.pp, 1))
    return (x.c.vp == 1) | (x.d.microbatches % rounds == 0)


_NORM_ACT = int(Recompute.NORM | Recompute.FFN_ACTIVATION)
_FULL = int(Recompute.FULL)
_RING, _GATHER, _ULYSSES = int(CpComm.RING), int(CpComm.ALL_GATHER), int(CpComm.ULYSSES)

RULES: tuple[Rule, ...] = (
    Rule("world_size", _DEGREES, "tp*cp*pp*dp is {d.degrees} (tp={c.tp}, cp={c.cp}, pp={c.pp}, dp={c.dp}), "
         "but the cluster has {d.world} GPUs; their product must equal it.",
         lambda x: x.d.degrees == x.d.world),
    Rule("placement", ("tp",), "tp={c.tp} does not stay inside the scale-up domain of {d.domain} GPUs; pin tp to "
         "plan it all the same.",
         lambda x: (x.c.tp <= x.d.domain) & ((x.d.domain % x.c.tp == 0) | (x.d.world <= x.d.domain)), hard=False),
    Rule("heads", ("tp",), "attention heads ({m.attention.n_heads}) are not divisible by tp={c.tp}; choose a tp that "
         "divides them.",
         lambda x: x.m.attention.n_heads % x.c.tp == 0),
    Rule("kv_heads", ("tp",), "key-value heads ({m.attention.n_kv_heads}) are neither a multiple nor a divisor of "
         "tp={c.tp}; choose another tp.",
         lambda x: (x.m.attention.n_kv_heads % x.c.tp == 0) | (x.c.tp % x.m.attention.n_kv_heads == 0), (MEGATRON,)),
    Rule("kv_heads", ("tp",), "key-value heads ({m.attention.n_kv_heads}) are not divisible by tp={c.tp}; choose a tp "
         "that divides them.",
         lambda x: x.m.attention.n_kv_heads % x.c.tp == 0, (TITAN, DEEPSPEED, PYTORCH)),
    Rule("ffn", ("tp",), "the feed-forward width ({m.ffn_hidden}, shared experts {d.shared}) is not divisible by "
         "tp={c.tp}; choose a tp that divides it.",
         lambda x: ((x.m.ffn_hidden % x.c.tp == 0) | (x.m.n_dense_layers == 0)) & (x.d.shared % x.c.tp == 0)),
    Rule("positions", (), "seq_len={w.seq_len} is longer than the model's learned position table "
         "({m.learned_positions}); shorten the sequence.",
         lambda x: (x.m.learned_positions == 0) | (x.w.seq_len <= x.m.learned_positions) | (x.c.tp < 0)),
    Rule("sequence_tp", ("tp", "cp", "sequence_parallel"), "seq_len={w.seq_len} is not divisible by cp*tp "
         "({c.cp}*{c.tp}), which sequence parallelism needs.",
         lambda x: (x.c.sequence_parallel == 0) | (x.w.seq_len % (x.c.cp * x.c.tp) == 0),
         (MEGATRON, DEEPSPEED, PYTORCH)),
    Rule("sequence_tp", ("tp", "cp"), "seq_len={w.seq_len} is not divisible by 2*tp*cp (tp={c.tp}, cp={c.cp}), which "
         "TorchTitan asks for.",
         lambda x: x.w.seq_len % (2 * x.c.tp * x.c.cp) == 0, (TITAN,)),
    Rule("sequence_cp", ("cp",), "seq_len={w.seq_len} is not divisible by 2*cp (cp={c.cp}), which balanced context "
         "parallelism needs.",
         lambda x: (x.c.cp == 1) | (x.w.seq_len % (2 * x.c.cp) == 0), (MEGATRON, TITAN, PYTORCH)),
    Rule("sequence_cp", ("cp",), "seq_len={w.seq_len} is not divisible by cp={c.cp}.",
         lambda x: x.w.seq_len % x.c.cp == 0, (DEEPSPEED,)),
    Rule("cp_comm", ("cp", "cp_comm"), "PyTorch's context parallelism passes keys around a ring or gathers them; "
         "cp_comm={c.cp_comm} (Ulysses) is not available.",
         lambda x: (x.c.cp == 1) | _one_of(x.c.cp_comm, (_RING, _GATHER)), _TORCH),
    Rule("cp_comm", ("cp", "cp_comm"), "DeepSpeed splits the sequence by Ulysses only; pin cp_comm={ulysses} or cp=1.",
         lambda x: (x.c.cp == 1) | (x.c.cp_comm == _ULYSSES), (DEEPSPEED,)),
    Rule("cp_window", ("cp", "cp_comm"), "ring context parallelism cannot run sliding-window attention; use "
         "cp_comm={gather} (all-gather) or {ulysses} (Ulysses).",
         lambda x: (x.c.cp == 1) | (x.m.attention.window == 0) | (x.c.cp_comm != _RING), (MEGATRON,)),
    Rule("ulysses_heads", ("tp", "cp", "cp_comm"), "Ulysses deals heads to ranks: heads ({m.attention.n_heads}) and "
         "key-value heads ({m.attention.n_kv_heads}) must be divisible by tp*cp ({c.tp}*{c.cp}).",
         lambda x: (x.c.cp == 1) | (x.c.cp_comm != _ULYSSES) | ((x.m.attention.n_heads % (x.c.tp * x.c.cp) == 0)
                   & (x.m.attention.n_kv_heads % (x.c.tp * x.c.cp) == 0)), (MEGATRON,)),
    Rule("ulysses_heads", ("tp", "cp", "cp_comm"), "Ulysses deals heads to ranks: heads ({m.attention.n_heads}) must "
         "be divisible by tp*cp ({c.tp}*{c.cp}).",
         lambda x: (x.c.cp == 1) | (x.c.cp_comm != _ULYSSES) | (x.m.attention.n_heads % (x.c.tp * x.c.cp) == 0),
         (DEEPSPEED,)),
    Rule("moe_only", ("ep", "etp"), "the model has no experts, so ep={c.ep} and etp={c.etp} must both be 1.",
         lambda x: x.d.is_moe | ((x.c.ep == 1) & (x.c.etp == 1))),
    Rule("experts", ("ep",), "routed experts ({d.moe.n_experts}) are not divisible by ep={c.ep}; choose an ep that "
         "divides them.",
         lambda x: x.d.moe.n_experts % x.c.ep == 0),
    Rule("expert_ffn", ("etp",), "the expert width ({d.moe.ffn_hidden}) is not divisible by etp={c.etp}.",
         lambda x: x.d.moe.ffn_hidden % x.c.etp == 0),
    Rule("expert_region", (*_DEGREES[:2], "dp", "ep", "etp"), "experts reuse the tp*cp*dp ranks of a stage "
         "({d.region}), which ep*etp ({c.ep}*{c.etp}) does not divide.",
         lambda x: x.d.region % (x.c.ep * x.c.etp) == 0),
    Rule("expert_shard", ("ep", "tp", "dp_shard"), "TorchTitan's experts live on the dp_shard*cp*tp ranks "
         "(dp_shard*cp is {c.dp_shard}, tp={c.tp}), which ep={c.ep} does not divide.",
         lambda x: (x.c.dp_shard * x.c.tp) % x.c.ep == 0, (TITAN,)),
    Rule("expert_shard", ("ep", "dp", "cp"), "DeepSpeed deals experts to data-parallel ranks (dp*cp is "
         "{c.dp}*{c.cp}), which ep={c.ep} does not divide.",
         lambda x: (x.c.dp * x.c.cp) % x.c.ep == 0, (DEEPSPEED,)),
    Rule("expert_tp", ("etp", "tp"), "this framework has no separate expert-tensor degree; etp={c.etp} must be 1.",
         lambda x: x.c.etp == 1, _TORCH),
    Rule("expert_tp", ("etp", "tp"), "DeepSpeed's experts are whole or follow tp; etp={c.etp} must be 1 or "
         "tp={c.tp}.",
         lambda x: (x.c.etp == 1) | (x.c.etp == x.c.tp), (DEEPSPEED,)),
    Rule("expert_parallel", ("ep",), "the native PyTorch script has no expert parallelism; ep={c.ep} must be 1 (use "
         "megatron-lm or torchtitan).",
         lambda x: x.c.ep == 1, (PYTORCH,)),
    Rule("expert_sequence", ("ep", "tp", "sequence_parallel"), "expert parallelism with tp={c.tp} needs sequence "
         "parallelism.",
         lambda x: (x.c.ep == 1) | (x.c.tp == 1) | (x.c.sequence_parallel == 1), (MEGATRON,)),
    Rule("vp_needs_pp", ("vp", "pp"), "interleaving (vp={c.vp}) needs pp > 1.",
         lambda x: (x.c.vp == 1) | (x.c.pp > 1)),
    Rule("layers", ("pp", "vp", "layer_split"), "{m.n_layers} layers (split mode {c.layer_split}: {d.units} units) do "
         "not deal out to pp*vp = {d.chunks} chunks; choose pp and vp that divide them, or another layer_split.",
         _split_fits),
    Rule("vp_available", ("vp",), "DeepSpeed has no interleaved schedule; vp={c.vp} must be 1.",
         lambda x: x.c.vp == 1, (DEEPSPEED,)),
    Rule("schedule", ("schedule",), "this framework runs 1F1B only; schedule={c.schedule} is not available.",
         lambda x: x.c.schedule == int(Schedule.ONE_F_ONE_B), (MEGATRON, DEEPSPEED)),
    Rule("schedule", ("schedule", "pp", "vp"), "schedule={c.schedule} with vp={c.vp}, pp={c.pp} does not exist: GPipe "
         "has vp=1, interleaved zero bubble vp >= 2, zero-bubble V vp=2, and each needs pp > 1.",
         lambda x: (x.c.schedule == int(Schedule.ONE_F_ONE_B)) | ((x.c.pp > 1) & (
             ((x.c.schedule == int(Schedule.GPIPE)) & (x.c.vp == 1))
             | ((x.c.schedule == int(Schedule.ZERO_BUBBLE_H1)) & (x.c.vp >= 2))
             | ((x.c.schedule == int(Schedule.ZERO_BUBBLE_V)) & (x.c.vp == 2)))), _TORCH),
    Rule("batch", ("micro_batch_size", "dp"), "global batch {w.global_batch} is not divisible by micro_batch_size*dp = "
         "{d.per_step} (micro_batch_size={c.micro_batch_size}, dp={c.dp}); change the batch or pin other values.",
         lambda x: (x.d.rest == 0) & (x.d.microbatches >= 1)),
    Rule("interleave_batch", ("micro_batch_size", "dp", "pp", "vp"), "interleaving needs the {d.microbatches} "
         "micro-batches to be a multiple of pp={c.pp}.",
         lambda x: (x.c.vp == 1) | ((x.d.microbatches % x.c.pp == 0) & (x.d.microbatches > 0)), (MEGATRON,)),
    Rule("interleave_batch", ("micro_batch_size", "dp", "pp", "vp", "schedule"), "torch's schedule needs at least "
         "pp={c.pp} micro-batches for 1F1B and equal rounds when interleaved; there are {d.microbatches}.",
         lambda x: _torch_rounds(x) & ((x.c.vp > 1) | (x.c.schedule != int(Schedule.ONE_F_ONE_B))
                                       | (x.d.microbatches >= x.c.pp)), _TORCH),
    Rule("zero_stage", ("zero_stage",), "zero_stage={c.zero_stage} is unknown; it is 0, 1, 2 or 3.",
         lambda x: (x.c.zero_stage >= 0) & (x.c.zero_stage <= 3), (MEGATRON, DEEPSPEED)),
    Rule("zero_stage", ("zero_stage",), "TorchTitan always shards (FSDP2); zero_stage={c.zero_stage} must be 3, or 2 "
         "for fsdp_reshard_after_forward=never.",
         lambda x: _one_of(x.c.zero_stage, (2, 3)), (TITAN,)),
    Rule("zero_stage", ("zero_stage",), "PyTorch offers DDP (zero_stage 0) and FSDP2 (2 or 3), not "
         "zero_stage={c.zero_stage}.",
         lambda x: _one_of(x.c.zero_stage, (0, 2, 3)), (PYTORCH,)),
    Rule("zero_pipeline", ("zero_stage", "pp"), "DeepSpeed's pipeline excludes ZeRO-2 and ZeRO-3; "
         "zero_stage={c.zero_stage} with pp={c.pp} cannot run.",
         lambda x: (x.c.pp == 1) | (x.c.zero_stage <= 1), (DEEPSPEED,)),
    Rule("zero_tensor", ("zero_stage", "tp"), "DeepSpeed's tensor parallelism runs with ZeRO up to stage 2, not "
         "zero_stage={c.zero_stage} with tp={c.tp}.",
         lambda x: (x.c.tp == 1) | (x.c.zero_stage <= 2), (DEEPSPEED,)),
    Rule("zero_experts", ("zero_stage", "ep"), "DeepSpeed's MoE layers do not run under ZeRO-3.",
         lambda x: (not x.d.is_moe) | (x.c.zero_stage <= 2), (DEEPSPEED,)),
    Rule("dp_shard", ("dp", "cp", "dp_shard"), "dp_shard={c.dp_shard} does not divide dp*cp ({c.dp}*{c.cp}).",
         lambda x: (x.c.dp_shard >= 1) & ((x.c.dp * x.c.cp) % np.maximum(x.c.dp_shard, 1) == 0)),
    Rule("hybrid_shard", ("dp", "cp", "dp_shard"), "DeepSpeed shards over all data-parallel ranks; "
         "dp_shard={c.dp_shard} must equal dp*cp ({c.dp}*{c.cp}).",
         lambda x: x.c.dp_shard == x.c.dp * x.c.cp, (DEEPSPEED,)),
    Rule("hybrid_shard", ("cp", "dp_shard"), "the shard axis holds the cp ranks, so dp_shard={c.dp_shard} must be a "
         "multiple of cp={c.cp}.",
         lambda x: x.c.dp_shard % x.c.cp == 0, _TORCH),
    Rule("offload", ("optimizer_offload", "zero_stage"), "Megatron's optimizer offload needs the distributed optimizer "
         "(zero_stage=1), not zero_stage={c.zero_stage}.",
         lambda x: (x.c.optimizer_offload == 0) | (x.c.zero_stage == 1), (MEGATRON,)),
    Rule("offload", ("optimizer_offload", "zero_stage"), "optimizer offload needs a sharded optimizer (ZeRO), not "
         "zero_stage={c.zero_stage}.",
         lambda x: (x.c.optimizer_offload == 0) | (x.c.zero_stage >= 1), (DEEPSPEED, *_TORCH)),
    Rule("overlap", ("overlap_param_gather", "overlap_grad_reduce", "zero_stage"), "Megatron overlaps the parameter "
         "gather only together with the gradient reduction.",
         lambda x: (x.c.zero_stage == 0) | (x.c.overlap_param_gather <= x.c.overlap_grad_reduce), (MEGATRON,)),
    Rule("tp_overlap", ("tp_overlap", "tp", "sequence_parallel"), "overlapping TP collectives with GEMMs needs tp > 1 "
         "and sequence parallelism.",
         lambda x: (x.c.tp_overlap == 0) | ((x.c.tp > 1) & (x.c.sequence_parallel == 1)), (MEGATRON, *_TORCH)),
    Rule("tp_overlap", ("tp_overlap",), "DeepSpeed does not overlap TP collectives with GEMMs; tp_overlap must be 0.",
         lambda x: x.c.tp_overlap == 0, (DEEPSPEED,)),
    Rule("recompute", ("recompute", "recompute_layers"), "recompute={c.recompute} with recompute_layers="
         "{c.recompute_layers} contradicts itself: full stands alone, and a number of layers goes with full only.",
         lambda x: (~(x.d.full > 0) | (x.c.recompute == _FULL)) & ((x.c.recompute_layers == 0) | x.d.full)
         & (x.c.recompute_layers >= 0) & (x.c.recompute >= 0) & (x.c.recompute < 64)),
    Rule("recompute_layers", ("recompute_layers", "pp"), "recompute_layers={c.recompute_layers} exceeds the "
         "{d.local_layers} layers of a stage.",
         lambda x: x.c.recompute_layers <= x.d.local_layers),
    Rule("recompute_module", ("recompute",), "Megatron recomputes MLA up-projections only in MLA models and the "
         "feed-forward activation only in experts; recompute={c.recompute} is not available here.",
         lambda x: ((x.c.recompute & int(Recompute.MLA_UP_PROJECTION)) == 0) | (x.m.attention.kind == "mla"),
         (MEGATRON,)),
    Rule("recompute_activation", ("recompute",), "Megatron recomputes the feed-forward activation only inside experts "
         "(moe_act); recompute={c.recompute} is not available for a dense model.",
         lambda x: ((x.c.recompute & int(Recompute.FFN_ACTIVATION)) == 0) | x.d.is_moe, (MEGATRON,)),
    Rule("recompute_chunks", ("recompute_layers", "vp"), "Megatron counts recomputed layers per model chunk, so "
         "recompute_layers={c.recompute_layers} must be a multiple of vp={c.vp}.",
         lambda x: x.c.recompute_layers % x.c.vp == 0, (MEGATRON,)),
    Rule("recompute_module", ("recompute", "recompute_layers"), "TorchTitan offers no, selective per-operator "
         "(norm+act) or full activation checkpointing of all layers; recompute={c.recompute} with "
         "recompute_layers={c.recompute_layers} is not available.",
         lambda x: _one_of(x.c.recompute, (0, _NORM_ACT, _FULL)) & (x.c.recompute_layers == 0), (TITAN,)),
    Rule("recompute_module", ("recompute",), "this framework checkpoints whole layers or none; "
         "recompute={c.recompute} is not available.",
         lambda x: _one_of(x.c.recompute, (0, _FULL)), (DEEPSPEED, PYTORCH)),
    Rule("fp8_alignment", ("tp", "cp", "micro_batch_size"), "FP8 GEMMs need tokens per rank ({d.tokens}) divisible "
         "by 8 and widths per tp rank (tp={c.tp}) divisible by 16.",
         lambda x: (not x.d.fp8) | ((x.d.tokens % 8 == 0) & (x.m.hidden % (16 * x.c.tp) == 0)
                                    & ((x.m.ffn_hidden % (16 * x.c.tp) == 0) | (x.m.n_dense_layers == 0)))),
)  # fmt: skip


def check_framework(framework: str) -> None:
    """Raise InvalidProblemError for an unknown framework."""
    if framework not in (*FRAMEWORKS, "any"):
        known = (*FRAMEWORKS, "any")
        raise InvalidProblemError(
            f"Framework {framework!r} is unknown; choose one of {', '.join(known)}.{did_you_mean(framework, known)}"
        )


def rules_of(framework: str, *, placement: bool = True) -> tuple[Rule, ...]:
    """Rules of one framework in their order of application; for ``any`` those that every framework has."""
    wanted = set(FRAMEWORKS) if framework == "any" else {framework}
    return tuple(r for r in RULES if wanted <= set(r.frameworks) and (r.hard or placement))


def _facts(model: ModelSpec, workload: Workload, cluster: Cluster, config: Any) -> SimpleNamespace:
    return SimpleNamespace(c=config, m=model, w=workload, d=_derive(model, workload, cluster, config))


def violations(
    model: ModelSpec,
    workload: Workload,
    cluster: Cluster,
    framework: str,
    config: ParallelConfig | CandidateTable,
    *,
    placement: bool = False,
    fields: frozenset[str] | None = None,
    only: frozenset[str] | None = None,
) -> dict[str, Mask]:
    """Rows that break each rule.

    Args:
        config: one configuration (masks of shape ``()``) or a table (shape ``(rows,)``).
        placement: also apply the preference that tp stays in the scale-up domain.
        fields: only rules decided by these fields (all if None); only: names of rules to apply (all if None).

    Returns:
        rule name -> mask of broken rows, in order of application. For ``any`` the last entry,
        ``no_framework``, marks rows that obey the common rules but that no single framework accepts.
    """
    check_framework(framework)
    facts = _facts(model, workload, cluster, config)
    shape = np.shape(config.tp)

    def broken(rules: tuple[Rule, ...]) -> dict[str, Mask]:
        chosen = [r for r in rules if (only is None or r.name in only) and (fields is None or set(r.fields) <= fields)]
        return {r.name: np.broadcast_to(np.logical_not(np.asarray(r.check(facts), dtype=bool)), shape) for r in chosen}

    out = broken(rules_of(framework, placement=placement))
    if framework == "any" and fields is None and only is None:
        refused = np.ones(shape, dtype=bool)
        for name in FRAMEWORKS:
            own = broken(rules_of(name, placement=False))
            refused = refused & np.logical_or.reduce([np.asarray(v) for v in own.values()])
        common = np.logical_or.reduce([np.asarray(v) for v in out.values()])
        out["no_framework"] = refused & ~common
    return out


def first_violation_sentence(
    model: ModelSpec,
    workload: Workload,
    cluster: Cluster,
    framework: str,
    config: ParallelConfig,
    *,
    placement: bool = False,
    fields: frozenset[str] | None = None,
) -> str:
    """Sentence of the first rule that one configuration breaks, or the empty string."""
    broken = violations(model, workload, cluster, framework, config, placement=placement, fields=fields)
    facts = _facts(model, workload, cluster, config)
    for name, mask in broken.items():
        if not bool(mask):
            continue
        if name == "no_framework":
            return "no framework accepts this combination: " + " ".join(
                f"[{f}] {first_violation_sentence(model, workload, cluster, f, config)}" for f in FRAMEWORKS
            )
        rule = next(r for r in rules_of(framework, placement=placement) if r.name == name)
        return rule.sentence.format(c=facts.c, m=facts.m, w=facts.w, d=facts.d, ulysses=_ULYSSES, gather=_GATHER)
    return ""


def validate(
    model: ModelSpec, workload: Workload, cluster: Cluster, framework: str, config: ParallelConfig
) -> ParallelConfig:
    """Return ``config`` if the framework can run it.

    Raises:
        InvalidProblemError: a field is below its least value or a rule is broken; the message is the rule's sentence.
    """
    for name in CONFIG_FIELDS:
        value, least = getattr(config, name), 1 if name in _AT_LEAST_ONE else 0
        if value < least:
            raise InvalidProblemError(f"{name}={value} is below its least value {least}.")
    sentence = first_violation_sentence(model, workload, cluster, framework, config)
    if sentence:
        raise InvalidProblemError(sentence[0].upper() + sentence[1:])
    return config


_AT_LEAST_ONE = frozenset({"tp", "cp", "ep", "etp", "pp", "vp", "dp", "micro_batch_size", "dp_shard"})
