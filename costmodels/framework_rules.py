"""Every divisibility and availability rule of the frameworks: the list. ``rules.py`` applies it.

A rule is a sentence and a check. The check sees the model, the workload, the cluster and a configuration
whose fields are ints or integer arrays, and answers which rows obey it; it has no ``if`` on a field.
``any`` as framework accepts a row that at least one framework accepts.

Sources, read in 2026-08 snapshots and releases: Megatron-LM 0.19 ``arguments.py``, ``transformer_config.py`` and
``pipeline_parallel/schedules.py``; TorchTitan ``parallel_dims.py``, ``pipeline_parallel.py``; PyTorch 2.13
``distributed/pipelining/schedules.py``; DeepSpeed 0.19 ``runtime/engine.py`` and ``runtime/pipe``; Transformer
Engine ``context_parallel.py`` and its FP8 shape check. For ``pytorch`` and ``deepspeed`` the rules are those of the
launch files that meshwright writes: their scripts build what these rules admit. Where a parser accepts what cannot
run (sequence not divisible by tp under sequence parallelism, experts with tp but without sequence parallelism) the
rule is ours. The vocabulary has no rule: Megatron pads it and DTensor shards it unevenly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from ..hardware_profiles.types import Cluster
from .model_spec import ModelSpec, MoeSpec
from .parallel import CpComm, LayerSplit, Recompute, Schedule
from .workload import Workload

MEGATRON, TITAN, DEEPSPEED, PYTORCH = "megatron-lm", "torchtitan", "deepspeed", "pytorch"
#: Frameworks with rules; ``any`` means at least one of them.
FRAMEWORKS = (MEGATRON, TITAN, DEEPSPEED, PYTORCH)
_ALL = FRAMEWORKS
_TORCH = (TITAN, PYTORCH)
_DEGREES = ("tp", "cp", "pp", "dp")
_TITAN_OPTIMIZERS = ("adam_fp32", "adam_pure_bf16")
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
        launch: True where only launch files stand against it; ``any``, which estimates, does not apply it.
    """

    name: str
    fields: tuple[str, ...]
    sentence: str
    check: Callable[[Any], Any]
    frameworks: tuple[str, ...] = _ALL
    hard: bool = True
    launch: bool = False


def derive(model: ModelSpec, workload: Workload, cluster: Cluster, config: Any) -> SimpleNamespace:
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
        fp8=workload.quantised,
        tokens=config.micro_batch_size * workload.seq_len // np.maximum(config.cp * config.tp, 1),
        full=(config.recompute & int(Recompute.FULL)) > 0,
        base=model.n_layers // chunks,
        spare=model.n_layers % chunks,
        instances=np.maximum(config.dp * config.cp // np.maximum(config.dp_shard, 1), 1),
        expert_dp=np.maximum(config.tp * config.cp * config.dp // np.maximum(config.ep * config.etp, 1), 1),
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
    dealt = np.where(split == LayerSplit.EVEN, divides, np.where(split == LayerSplit.LAYOUT, roomy, counted))
    return np.where(split == LayerSplit.BALANCED, (x.c.vp == 1) & (x.c.pp > 1), dealt) & roomy


def _titan_deals(x: Any) -> Any:
    """Layouts that TorchTitan's layers_per_stage and first_stage_less_layers give.

    It gives the first stages one layer more; with the embedding counted as a layer (unless all chunks but one get
    the extra layer) that is our layout, as long as the rounded-up layers per stage still make that many stages.
    """
    uneven = (x.c.layer_split == LayerSplit.LAYOUT) & (x.d.spare > 0)
    dealt = (x.d.spare == x.d.chunks - 1) | (x.d.spare + x.d.base + 2 > x.d.chunks)
    return _split_fits(x) & (~uneven | dealt)


def _torch_rounds(x: Any) -> Any:
    """torch's interleaved schedules: micro-batches divide into max(1, M // pp) equal rounds."""
    rounds = np.maximum(1, x.d.microbatches // np.maximum(x.c.pp, 1))
    return (x.c.vp == 1) | (x.d.microbatches % rounds == 0)


_NORM_ACT = int(Recompute.NORM | Recompute.FFN_ACTIVATION)
_FULL = int(Recompute.FULL)
_RING, _GATHER, _ULYSSES = int(CpComm.RING), int(CpComm.ALL_GATHER), int(CpComm.ULYSSES)
#: Codes that sentences name.
CODES = {"ulysses": _ULYSSES, "gather": _GATHER}

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
    Rule("model", (), "Megatron-LM has no block in which attention and feed-forward run in parallel ({m.name}).",
         lambda x: (not x.m.parallel_block) | (x.c.tp < 0), (MEGATRON,)),
    Rule("model", (), "the native PyTorch script builds dense transformers with full attention; {m.name} has experts, "
         "latent attention, windows, parallel blocks or multi-token prediction (use megatron-lm or torchtitan).",
         lambda x: (not (x.d.is_moe or x.m.attention.kind != "mha" or x.m.parallel_block or x.m.mtp_layers
                         or x.m.attention.window)) | (x.c.tp < 0), (PYTORCH,)),
    Rule("precision", (), "TorchTitan chooses {w.precision} inside its model configurations; plan bf16 or fp32.",
         lambda x: (x.w.precision in ("bf16", "fp32")) | (x.c.tp < 0), (TITAN,)),
    Rule("precision", (), "DeepSpeed has no {w.precision} training of its own; plan bf16, fp16 or fp32.",
         lambda x: (x.w.precision in ("bf16", "fp16", "fp32")) | (x.c.tp < 0), (DEEPSPEED,)),
    Rule("precision", (), "the native PyTorch script has no {w.precision} training; plan bf16, tf32 or fp32.",
         lambda x: (x.w.precision in ("bf16", "fp32", "tf32")) | (x.c.tp < 0), (PYTORCH,)),
    Rule("optimizer", (), "this framework has no optimizer of kind {w.optimizer}; plan adam_fp32 or adam_pure_bf16.",
         lambda x: (x.w.optimizer in _TITAN_OPTIMIZERS) | (x.c.tp < 0), _TORCH),
    Rule("optimizer", (), "DeepSpeed's Adam keeps fp32 states; plan adam_fp32 instead of {w.optimizer}.",
         lambda x: (x.w.optimizer == "adam_fp32") | (x.c.tp < 0), (DEEPSPEED,)),
    Rule("optimizer", ("zero_stage",), "Megatron's optimizer of kind {w.optimizer} needs a sharded optimizer (without "
         "fp32 weights: Megatron-FSDP), not zero_stage={c.zero_stage}.",
         lambda x: x.c.zero_stage >= {"adam_fp32": 0, "adam_pure_bf16": 2}.get(x.w.optimizer, 1), (MEGATRON,)),
    Rule("fp8_params", ("zero_stage", "optimizer_offload"), "quantized parameters need a sharded optimizer on the "
         "device (zero_stage={c.zero_stage}, optimizer_offload={c.optimizer_offload}).",
         lambda x: (not (x.w.fp8_params and x.d.fp8)) | ((x.c.zero_stage >= 1) & (x.c.optimizer_offload == 0)),
         (MEGATRON,)),
    Rule("sequence_tp", ("tp", "cp", "sequence_parallel"), "seq_len={w.seq_len} is not divisible by cp*tp "
         "({c.cp}*{c.tp}), which sequence parallelism needs.",
         lambda x: (x.c.sequence_parallel == 0) | (x.w.seq_len % (x.c.cp * x.c.tp) == 0),
         (MEGATRON, DEEPSPEED, PYTORCH)),
    Rule("sequence_tp", ("tp", "cp"), "seq_len={w.seq_len} is not divisible by 2*tp*cp (tp={c.tp}, cp={c.cp}), which "
         "TorchTitan asks for.",
         lambda x: x.w.seq_len % (2 * x.c.tp * x.c.cp) == 0, (TITAN,)),
    Rule("sequence_cp", ("cp",), "seq_len={w.seq_len} is not divisible by 2*cp (cp={c.cp}), which balanced context "
         "parallelism needs.",
         lambda x: (x.c.cp == 1) | (x.w.seq_len % (2 * x.c.cp) == 0), (MEGATRON, TITAN)),
    Rule("sequence_cp", ("cp",), "seq_len={w.seq_len} is not divisible by cp={c.cp}.",
         lambda x: x.w.seq_len % x.c.cp == 0, (DEEPSPEED,)),
    Rule("context_parallel", ("cp",), "the native PyTorch script has no context parallelism; cp={c.cp} must be 1 (use "
         "megatron-lm or torchtitan).",
         lambda x: x.c.cp == 1, (PYTORCH,)),
    Rule("cp_comm", ("cp", "cp_comm"), "TorchTitan's context parallelism passes keys around a ring or gathers them; "
         "cp_comm={c.cp_comm} (Ulysses) is not available.",
         lambda x: (x.c.cp == 1) | _one_of(x.c.cp_comm, (_RING, _GATHER)), (TITAN,)),
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
    Rule("expert_sequence", ("tp", "sequence_parallel"), "experts with tp={c.tp} need sequence parallelism.",
         lambda x: (not x.d.is_moe) | (x.c.tp == 1) | (x.c.sequence_parallel == 1), (MEGATRON,)),
    Rule("expert_bias", ("etp",), "Megatron's experts with biases need etp=1, not etp={c.etp}.",
         lambda x: (not (x.d.is_moe and x.m.ffn_bias)) | (x.c.etp == 1), (MEGATRON,)),
    Rule("expert_instances", (*_DEGREES[:2], "dp", "ep", "etp", "zero_stage", "dp_shard"), "{d.instances} optimizer "
         "instances (dp_shard={c.dp_shard}) do not divide the experts' data-parallel degree {d.expert_dp}.",
         lambda x: (not x.d.is_moe) | (x.c.zero_stage == 0) | (x.d.expert_dp % x.d.instances == 0), (MEGATRON,)),
    Rule("vp_needs_pp", ("vp", "pp"), "interleaving (vp={c.vp}) needs pp > 1.",
         lambda x: (x.c.vp == 1) | (x.c.pp > 1)),
    Rule("layers", ("pp", "vp", "layer_split"), "{m.n_layers} layers (split mode {c.layer_split}: {d.units} units) do "
         "not deal out to pp*vp = {d.chunks} chunks; choose pp and vp that divide them, or another layer_split.",
         _split_fits, (MEGATRON, DEEPSPEED, PYTORCH)),
    Rule("layers", ("pp", "vp", "layer_split"), "{m.n_layers} layers (split mode {c.layer_split}: {d.units} units) do "
         "not deal out to pp*vp = {d.chunks} chunks by TorchTitan's options; choose pp and vp that divide them.",
         _titan_deals, (TITAN,)),
    Rule("vp_available", ("vp",), "DeepSpeed has no interleaved schedule; vp={c.vp} must be 1.",
         lambda x: x.c.vp == 1, (DEEPSPEED,)),
    Rule("schedule", ("schedule",), "this framework runs 1F1B only; schedule={c.schedule} is not available.",
         lambda x: x.c.schedule == int(Schedule.ONE_F_ONE_B), (MEGATRON, DEEPSPEED)),
    Rule("schedule", ("schedule", "pp", "vp", "layer_split"), "schedule={c.schedule} with vp={c.vp}, pp={c.pp} does "
         "not exist: GPipe has vp=1, interleaved zero bubble vp >= 2, zero-bubble V vp=2 and even layers, and each "
         "needs pp > 1.",
         lambda x: (x.c.schedule == int(Schedule.ONE_F_ONE_B)) | ((x.c.pp > 1) & (
             ((x.c.schedule == int(Schedule.GPIPE)) & (x.c.vp == 1))
             | ((x.c.schedule == int(Schedule.ZERO_BUBBLE_H1)) & (x.c.vp >= 2))
             | ((x.c.schedule == int(Schedule.ZERO_BUBBLE_V)) & (x.c.vp == 2)
                & (x.c.layer_split == int(LayerSplit.EVEN))))), _TORCH),
    Rule("vocab_pipeline", ("vocab_parallel", "pp", "vp", "schedule"), "vocab_parallel={c.vocab_parallel} splits "
         "embedding and head over the stages of 1F1B; it needs pp of 2 or more, vp=1 and schedule 1f1b.",
         lambda x: (x.c.vocab_parallel == 0) | ((x.c.pp > 1) & (x.c.vp == 1)
                                                & (x.c.schedule == int(Schedule.ONE_F_ONE_B)))),
    Rule("vocab_parallel", ("vocab_parallel",), "no option of this framework splits embedding and head over the "
         "pipeline; vocab_parallel={c.vocab_parallel} can be estimated (--framework any), not launched.",
         lambda x: x.c.vocab_parallel == 0, launch=True),
    Rule("balanced_layers", ("layer_split",), "layer_split=balanced can be estimated (--framework any), not launched; "
         "choose another layer_split.",
         lambda x: x.c.layer_split != int(LayerSplit.BALANCED), launch=True),
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
    Rule("zero_pipeline", ("zero_stage", "pp"), "Megatron-FSDP (zero_stage={c.zero_stage}) runs with TP, EP and CP, "
         "not with pipeline stages (pp={c.pp}).",
         lambda x: (x.c.pp == 1) | (x.c.zero_stage <= 1), (MEGATRON,)),
    Rule("pipeline_degrees", ("pp", "tp", "cp"), "DeepSpeed's pipeline goes with neither its automatic tensor "
         "parallelism nor Ulysses (pp={c.pp}, tp={c.tp}, cp={c.cp}).",
         lambda x: (x.c.pp == 1) | ((x.c.tp == 1) & (x.c.cp == 1)), (DEEPSPEED,)),
    Rule("tensor_parallel", ("tp", "pp"), "the native PyTorch script splits over tp neither norms on queries and keys "
         "nor (without a pipeline) tied embeddings; tp={c.tp} must be 1.",
         lambda x: (x.c.tp == 1) | ((not x.m.attention.qk_norm) & ((not x.m.tied_embeddings) | (x.c.pp > 1))),
         (PYTORCH,)),
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
    Rule("zero_plus", ("hpz", "quantized_weights", "quantized_gradients"), "only DeepSpeed has ZeRO++; hpz={c.hpz}, "
         "quantized_weights={c.quantized_weights}, quantized_gradients={c.quantized_gradients} must be 0.",
         lambda x: (x.c.hpz == 0) & (x.c.quantized_weights == 0) & (x.c.quantized_gradients == 0),
         (MEGATRON, *_TORCH)),
    Rule("zero_plus", ("hpz", "quantized_weights", "quantized_gradients", "zero_stage"), "ZeRO++ (hpz={c.hpz}, "
         "quantized_weights={c.quantized_weights}, quantized_gradients={c.quantized_gradients}) needs zero_stage=3, "
         "not {c.zero_stage}.",
         lambda x: (x.c.zero_stage == 3) | ((x.c.hpz == 0) & (x.c.quantized_weights == 0)
                                            & (x.c.quantized_gradients == 0)), (DEEPSPEED,)),
    Rule("hpz", ("hpz", "dp", "cp"), "a second copy needs hpz to divide dp*cp ({c.dp}*{c.cp}) and to lie between "
         "2 and half of it; hpz={c.hpz} does not (0: no second copy).",
         lambda x: (x.c.hpz == 0) | ((x.c.hpz >= 2) & (x.c.hpz < x.c.dp * x.c.cp)
                                     & ((x.c.dp * x.c.cp) % np.maximum(x.c.hpz, 1) == 0)), (DEEPSPEED,)),
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
         lambda x: (x.c.tp_overlap == 0) | ((x.c.tp > 1) & (x.c.sequence_parallel == 1)), (MEGATRON, TITAN)),
    Rule("tp_overlap", ("tp_overlap",), "this framework does not overlap TP collectives with GEMMs; tp_overlap must be "
         "0.",
         lambda x: x.c.tp_overlap == 0, (DEEPSPEED, PYTORCH)),
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
    Rule("recompute_all", ("recompute_layers",), "DeepSpeed's checkpointing takes all layers; recompute_layers="
         "{c.recompute_layers} must be 0.",
         lambda x: x.c.recompute_layers == 0, (DEEPSPEED,)),
    Rule("recompute_module", ("recompute",), "this framework checkpoints whole layers or none; "
         "recompute={c.recompute} is not available.",
         lambda x: _one_of(x.c.recompute, (0, _FULL)), (DEEPSPEED, PYTORCH)),
    Rule("fp8_alignment", ("tp", "cp", "micro_batch_size"), "FP8 GEMMs need tokens per rank ({d.tokens}) divisible "
         "by 8 and widths per tp rank (tp={c.tp}) divisible by 16.",
         lambda x: (not x.d.fp8) | ((x.d.tokens % 8 == 0) & (x.m.hidden % (16 * x.c.tp) == 0)
                                    & ((x.m.ffn_hidden % (16 * x.c.tp) == 0) | (x.m.n_dense_layers == 0)))),
)  # fmt: skip
