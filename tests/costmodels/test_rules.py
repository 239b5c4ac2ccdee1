"""The rules against a slow restatement, one configuration and one ``if`` at a time."""

import random
from dataclasses import replace

import numpy as np
import pytest

from meshwright.costmodels.candidates import CandidateTable
from meshwright.costmodels.model_spec import AttentionSpec, ModelSpec, MoeSpec
from meshwright.costmodels.parallel import CpComm, LayerSplit, ParallelConfig, Recompute, Schedule
from meshwright.costmodels.rules import FRAMEWORKS, RULES, first_violation_sentence, rules_of, validate, violations
from meshwright.costmodels.workload import Workload
from meshwright.hardware_profiles.errors import InvalidProblemError
from meshwright.hardware_profiles.types import Cluster, Curve, Fit, Gpu, Provenance, Tier

NO_CURVE = Curve(coefficients={}, provenance=Provenance.DATASHEET, fit=Fit(source="test"))
GPU = Gpu(
    name="g", vendor="v", architecture="a", peak_flops={"bf16": 1e14, "fp8": 2e14}, memory_bytes=80e9,
    hbm_bytes_per_s=2e12, host_bytes_per_s=3e10, sm_count=100, power_w=400.0, gemm={}, attention={},
    memory_bound=NO_CURVE, collectives={},
)  # fmt: skip
CLUSTER = Cluster(
    name="c", gpu=GPU, nodes=4, gpus_per_node=8,
    tiers=(Tier(kind="nvlink", domain_gpus=8, bytes_per_s=3e11, latency_s=0.0),
           Tier(kind="infiniband", domain_gpus=32, bytes_per_s=2e10, latency_s=0.0)),
)  # fmt: skip
DENSE = ModelSpec(
    name="dense", family="llama", n_layers=30, hidden=1024, ffn_hidden=2688, vocab=32000,
    attention=AttentionSpec(n_heads=12, n_kv_heads=4, head_dim=64, v_head_dim=64),
)  # fmt: skip
SPARSE = replace(
    DENSE, name="sparse", n_layers=16,
    attention=replace(DENSE.attention, kind="mla", n_heads=16, n_kv_heads=16, kv_lora_rank=64, qk_rope_head_dim=32),
    moe=MoeSpec(n_experts=24, top_k=2, ffn_hidden=512, n_moe_layers=14, shared_ffn_hidden=1540),
)  # fmt: skip
WINDOWED = replace(DENSE, name="windowed", attention=replace(DENSE.attention, window=128, windowed_layers=15))
LEARNED = replace(DENSE, name="learned", learned_positions=2048)
BIASED = replace(SPARSE, name="biased", ffn_bias=True, mtp_layers=1)
TIED = replace(DENSE, name="tied", tied_embeddings=True)
NORMED = replace(DENSE, name="normed", attention=replace(DENSE.attention, qk_norm=True))
BLOCKS = replace(DENSE, name="blocks", parallel_block=True)
MODELS = (DENSE, SPARSE, WINDOWED, LEARNED, BIASED, TIED, NORMED, BLOCKS)
WORK = Workload(seq_len=4100, global_batch=48)
WORKS = (
    WORK,
    replace(WORK, precision="fp8", optimizer="adam_8bit", fp8_params=True),
    replace(WORK, precision="tf32", optimizer="adam_pure_bf16"),
    replace(WORK, precision="fp16"),
)
NAMES = {r.name for r in RULES}


def broken_slowly(m, w, k, framework, c):
    """Names of the broken rules, restated from the frameworks' documentation."""
    bad = set()
    a, moe = m.attention, m.moe
    torch = framework in ("torchtitan", "pytorch")
    mega, deep, titan = framework == "megatron-lm", framework == "deepspeed", framework == "torchtitan"
    if c.tp * c.cp * c.pp * c.dp != k.nodes * k.gpus_per_node:
        bad.add("world_size")
    if a.n_heads / c.tp != a.n_heads // c.tp:
        bad.add("heads")
    if a.n_kv_heads % c.tp and not (mega and c.tp % a.n_kv_heads == 0):
        bad.add("kv_heads")
    dense_layers = m.n_layers - (moe.n_moe_layers if moe else 0)
    if (dense_layers and m.ffn_hidden % c.tp) or (moe and moe.shared_ffn_hidden % c.tp):
        bad.add("ffn")
    odd = moe or a.kind != "mha" or m.parallel_block or m.mtp_layers or a.window
    if (mega and m.parallel_block) or (framework == "pytorch" and odd):
        bad.add("model")
    precisions = {
        "torchtitan": ("bf16", "fp32"),
        "deepspeed": ("bf16", "fp16", "fp32"),
        "pytorch": ("bf16", "fp32", "tf32"),
    }
    if not mega and w.precision not in precisions[framework]:
        bad.add("precision")
    if torch and w.optimizer not in ("adam_fp32", "adam_pure_bf16"):
        bad.add("optimizer")
    if deep and w.optimizer != "adam_fp32":
        bad.add("optimizer")
    if mega and w.optimizer != "adam_fp32" and c.zero_stage < (2 if w.optimizer == "adam_pure_bf16" else 1):
        bad.add("optimizer")
    if mega and w.fp8_params and w.precision == "fp8" and (c.zero_stage == 0 or c.optimizer_offload):
        bad.add("fp8_params")
    if m.learned_positions and w.seq_len > m.learned_positions:
        bad.add("positions")
    if (titan and w.seq_len % (c.tp * c.cp * 2)) or (not titan and c.sequence_parallel and w.seq_len % (c.tp * c.cp)):
        bad.add("sequence_tp")
    if c.cp > 1 and framework == "pytorch":
        bad.add("context_parallel")
    if c.cp > 1 and framework != "pytorch" and w.seq_len % (c.cp if deep else 2 * c.cp):
        bad.add("sequence_cp")
    if c.cp > 1:
        if (titan and c.cp_comm == CpComm.ULYSSES) or (deep and c.cp_comm != CpComm.ULYSSES):
            bad.add("cp_comm")
        if mega and a.window and c.cp_comm == CpComm.RING:
            bad.add("cp_window")
        if c.cp_comm == CpComm.ULYSSES and not torch:
            ranks = c.tp * c.cp
            if a.n_heads % ranks or (mega and a.n_kv_heads % ranks):
                bad.add("ulysses_heads")
    if not moe:
        if c.ep != 1 or c.etp != 1:
            bad.add("moe_only")
        if c.ep != 1:
            bad.add("experts")
        if c.etp != 1:
            bad.add("expert_ffn")
    else:
        if moe.n_experts % c.ep:
            bad.add("experts")
        if moe.ffn_hidden % c.etp:
            bad.add("expert_ffn")
    if (c.tp * c.cp * c.dp) % (c.ep * c.etp):
        bad.add("expert_region")
    if (titan and (c.dp_shard * c.tp) % c.ep) or (deep and (c.dp * c.cp) % c.ep):
        bad.add("expert_shard")
    if (torch and c.etp != 1) or (deep and c.etp not in (1, c.tp)):
        bad.add("expert_tp")
    if mega and moe:
        if c.tp > 1 and not c.sequence_parallel:
            bad.add("expert_sequence")
        if m.ffn_bias and c.etp > 1:
            bad.add("expert_bias")
        replicas = max(c.dp * c.cp // c.dp_shard, 1)
        if c.zero_stage and max(c.tp * c.cp * c.dp // (c.ep * c.etp), 1) % replicas:
            bad.add("expert_instances")
    if c.vp > 1 and c.pp == 1:
        bad.add("vp_needs_pp")
    chunks = c.pp * c.vp
    if m.n_layers < chunks or (c.layer_split == LayerSplit.EVEN and m.n_layers % chunks):
        bad.add("layers")
    elif c.layer_split == LayerSplit.EMBEDDING_AND_LOSS_COUNT:
        each = (m.n_layers + 2) // chunks
        if each * chunks != m.n_layers + 2 or each < 2 or chunks == 1:
            bad.add("layers")
    elif c.layer_split == LayerSplit.BALANCED:
        if c.vp > 1 or c.pp == 1:
            bad.add("layers")
    elif titan and c.layer_split == LayerSplit.LAYOUT and m.n_layers % chunks and not titan_deals(m.n_layers, chunks):
        bad.add("layers")
    if c.layer_split == LayerSplit.BALANCED and framework != "any":
        bad.add("balanced_layers")
    if c.vocab_parallel and framework != "any":
        bad.add("vocab_parallel")
    if c.vocab_parallel and (c.pp == 1 or c.vp > 1 or c.schedule != Schedule.ONE_F_ONE_B):
        bad.add("vocab_pipeline")
    if deep and c.vp != 1:
        bad.add("vp_available")
    if c.schedule != Schedule.ONE_F_ONE_B:
        exists = {
            Schedule.GPIPE: c.vp == 1,
            Schedule.ZERO_BUBBLE_H1: c.vp >= 2,
            Schedule.ZERO_BUBBLE_V: c.vp == 2 and not c.layer_split,
        }
        if not torch or c.pp == 1 or not exists[Schedule(c.schedule)]:
            bad.add("schedule")
    n_micro, rest = divmod(w.global_batch, c.micro_batch_size * c.dp)
    if rest or n_micro == 0:
        bad.add("batch")
    if mega and c.vp > 1 and (n_micro == 0 or n_micro % c.pp):
        bad.add("interleave_batch")
    if torch:
        rounds = max(1, n_micro // c.pp)
        if c.vp > 1 and n_micro % rounds:
            bad.add("interleave_batch")
        if c.vp == 1 and c.schedule == Schedule.ONE_F_ONE_B and n_micro < c.pp:
            bad.add("interleave_batch")
    allowed = {"megatron-lm": (0, 1, 2, 3), "deepspeed": (0, 1, 2, 3), "torchtitan": (2, 3), "pytorch": (0, 2, 3)}
    if c.zero_stage not in allowed[framework]:
        bad.add("zero_stage")
    if (deep or mega) and c.pp > 1 and c.zero_stage > 1:
        bad.add("zero_pipeline")
    if framework == "pytorch" and c.tp > 1 and (a.qk_norm or (m.tied_embeddings and c.pp == 1)):
        bad.add("tensor_parallel")
    if framework == "pytorch" and c.tp_overlap:
        bad.add("tp_overlap")
    if deep:
        if c.pp > 1 and (c.tp > 1 or c.cp > 1):
            bad.add("pipeline_degrees")
        if c.recompute_layers:
            bad.add("recompute_all")
        if c.tp > 1 and c.zero_stage > 2:
            bad.add("zero_tensor")
        if moe and c.zero_stage > 2:
            bad.add("zero_experts")
        if c.dp_shard != c.dp * c.cp:
            bad.add("hybrid_shard")
        if c.tp_overlap:
            bad.add("tp_overlap")
    if (c.dp * c.cp) % c.dp_shard:
        bad.add("dp_shard")
    if torch and c.dp_shard % c.cp:
        bad.add("hybrid_shard")
    if (c.hpz or c.quantized_weights or c.quantized_gradients) and not (deep and c.zero_stage == 3):
        bad.add("zero_plus")
    if deep and c.hpz and c.hpz not in [n for n in range(2, c.dp * c.cp) if c.dp * c.cp % n == 0]:
        bad.add("hpz")
    if c.optimizer_offload and (c.zero_stage != 1 if mega else c.zero_stage < 1):
        bad.add("offload")
    if mega and c.zero_stage and c.overlap_param_gather and not c.overlap_grad_reduce:
        bad.add("overlap")
    if c.tp_overlap and (mega or titan) and not (c.tp > 1 and c.sequence_parallel):
        bad.add("tp_overlap")
    full = bool(c.recompute & Recompute.FULL)
    if (full and c.recompute != Recompute.FULL) or (c.recompute_layers and not full):
        bad.add("recompute")
    if c.recompute_layers > -(-m.n_layers // c.pp):
        bad.add("recompute_layers")
    if mega:
        if c.recompute & Recompute.MLA_UP_PROJECTION and a.kind != "mla":
            bad.add("recompute_module")
        if c.recompute & Recompute.FFN_ACTIVATION and not moe:
            bad.add("recompute_activation")
        if c.recompute_layers % c.vp:
            bad.add("recompute_chunks")
    elif titan:
        if c.recompute not in (0, 6, 32) or c.recompute_layers:
            bad.add("recompute_module")
    elif c.recompute not in (0, 32):
        bad.add("recompute_module")
    if w.precision == "fp8":
        tokens = c.micro_batch_size * w.seq_len // (c.cp * c.tp)
        if tokens % 8 or m.hidden % (16 * c.tp) or (dense_layers and m.ffn_hidden % (16 * c.tp)):
            bad.add("fp8_alignment")
    return bad


def titan_deals(n_layers, chunks):
    """TorchTitan gives the first stages one more layer; embedding and head may weigh up to four layers each.

    Wanted is our layout: middle chunks first, then the first, then the last.
    """
    wanted = [n_layers // chunks] * chunks
    for i in [*range(1, chunks - 1), 0, chunks - 1][: n_layers % chunks]:
        wanted[i] += 1
    for first in range(5):
        for last in range(5):
            weight = n_layers + first + last
            per_stage = -(-weight // chunks)
            if -(-weight // per_stage) != chunks:
                continue
            dealt = [weight // chunks + (i < weight % chunks) for i in range(chunks)]
            dealt[0] -= first
            dealt[-1] -= last
            if dealt == wanted:
                return True
    return False


def random_configs(n, seed):
    """Mostly sensible values, so that single rules decide."""
    rng = random.Random(seed)
    out = []
    for _ in range(n):
        tp, cp, pp = rng.choice([1, 1, 2, 3, 4, 8]), rng.choice([1, 1, 1, 2, 4]), rng.choice([1, 1, 2, 3, 4, 5, 8])
        dp = max(32 // (tp * cp * pp), 1) if rng.random() < 0.8 else rng.choice([1, 2, 3, 4])
        out.append(
            ParallelConfig(
                tp=tp,
                cp=cp,
                pp=pp,
                dp=dp,
                ep=rng.choice([1, 1, 2, 3, 8]),
                etp=rng.choice([1, 1, 2, tp]),
                vp=rng.choice([1, 1, 1, 2, 3, 5]),
                micro_batch_size=rng.choice([1, 1, 2, 3, 5, 64]),
                zero_stage=rng.randrange(4),
                dp_shard=rng.choice([0, 0, 0, 1, 2, 4]),
                recompute=rng.choice([0, 0, 2, 4, 6, 8, 18, 32, 33]),
                recompute_layers=rng.choice([0, 0, 0, 2, 6, 99]),
                sequence_parallel=rng.randrange(2),
                schedule=rng.choice([0, 0, 0, 1, 2, 3]),
                cp_comm=rng.randrange(3),
                overlap_grad_reduce=rng.choice([1, 1, 0]),
                overlap_param_gather=rng.choice([1, 1, 0]),
                tp_overlap=rng.choice([0, 0, 1]),
                optimizer_offload=rng.choice([0, 0, 1]),
                layer_split=rng.choice([0, 0, 0, 1, 1, 2, 2, 3]),
                vocab_parallel=rng.choice([0, 0, 0, 0, 0, 1, 2, 3]),
                hpz=rng.choice([0] * 9 + [1, 2, 3, 4, 32]),
                quantized_weights=rng.choice([0] * 9 + [1]),
                quantized_gradients=rng.choice([0] * 9 + [1]),
            )
        )
    return out


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("model", MODELS, ids=lambda m: m.name)
@pytest.mark.parametrize("work", WORKS, ids=lambda w: f"{w.precision}-{w.optimizer}")
def test_masks_equal_the_slow_restatement(framework, model, work):
    configs = random_configs(400, seed=f"{framework}{model.name}")
    masks = violations(model, work, CLUSTER, framework, CandidateTable.from_configs(configs))
    for i, config in enumerate(configs):
        assert {n for n, mask in masks.items() if mask[i]} == broken_slowly(model, work, CLUSTER, framework, config), (
            config
        )


@pytest.mark.parametrize("framework", [*FRAMEWORKS, "any"])
def test_one_configuration_gives_what_its_row_gives(framework):
    configs = random_configs(60, seed=1)
    masks = violations(SPARSE, WORK, CLUSTER, framework, CandidateTable.from_configs(configs), placement=True)
    for i, config in enumerate(configs):
        alone = violations(SPARSE, WORK, CLUSTER, framework, config, placement=True)
        assert {n: bool(v) for n, v in alone.items()} == {n: bool(v[i]) for n, v in masks.items()}


def test_every_rule_is_broken_by_some_configuration_somewhere():
    seen = set()
    for model in MODELS:
        for framework in FRAMEWORKS:
            for work in WORKS:
                table = CandidateTable.from_configs(random_configs(300, seed=framework))
                found = violations(model, work, CLUSTER, framework, table, placement=True)
                seen |= {n for n, mask in found.items() if mask.any()}
    assert seen == NAMES


def test_any_accepts_what_at_least_one_framework_accepts():
    configs = random_configs(6000, seed=5)
    table = CandidateTable.from_configs(configs)

    def refused(framework):
        return np.logical_or.reduce(list(violations(DENSE, WORK, CLUSTER, framework, table).values()))

    alone = np.logical_and.reduce([refused(f) for f in FRAMEWORKS])
    # what nobody can launch may still be estimated under `any`
    launched = (table.vocab_parallel == 0) & (table.layer_split != LayerSplit.BALANCED)
    assert (refused("any") == alone)[launched].all() and alone[~launched].all()
    assert 0 < (~alone).sum() < len(configs)


def test_tp_beyond_the_scale_up_domain_is_a_preference_only():
    config = ParallelConfig(tp=16, dp=2, sequence_parallel=1)
    model = replace(DENSE, attention=replace(DENSE.attention, n_heads=16))
    work = replace(WORK, seq_len=4096)
    assert first_violation_sentence(model, work, CLUSTER, "megatron-lm", config) == ""
    assert "scale-up domain of 8" in first_violation_sentence(
        model, work, CLUSTER, "megatron-lm", config, placement=True
    )
    assert {r.name for r in rules_of("megatron-lm")} - {r.name for r in rules_of("megatron-lm", placement=False)} == {
        "placement"
    }


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tp": 8, "dp": 2}, "Attention heads (12) are not divisible by tp=8"),
        ({"dp": 31}, "Tp*cp*pp*dp is 62"),
        ({"pp": 4, "dp": 8}, "30 layers"),
        ({"micro_batch_size": 5}, "Global batch 48 is not divisible by micro_batch_size*dp = 80"),
        ({"zero_stage": 7}, "zero_stage=7 is unknown"),
        ({"vp": 2, "pp": 1, "dp": 32}, "Interleaving (vp=2) needs pp > 1"),
    ],
)
def test_validate_says_the_rule_in_one_sentence(changes, words):
    with pytest.raises(InvalidProblemError) as caught:
        validate(
            DENSE,
            replace(WORK, global_batch=48),
            CLUSTER,
            "megatron-lm",
            ParallelConfig(**{"dp": 16, "pp": 2, **changes}),
        )
    text = str(caught.value)
    assert words.lower() in text.lower() and text.endswith(".") and "{" not in text


def test_validate_returns_a_legal_configuration_and_refuses_numbers_below_the_least():
    good = ParallelConfig(dp=16, pp=2)
    assert validate(DENSE, WORK, CLUSTER, "megatron-lm", good) is good
    with pytest.raises(InvalidProblemError, match="tp=0 is below its least value 1"):
        validate(DENSE, WORK, CLUSTER, "megatron-lm", ParallelConfig(tp=0))


def test_every_sentence_can_be_filled_in():
    for model in MODELS:
        for framework in FRAMEWORKS:
            for config in random_configs(80, seed=3):
                text = first_violation_sentence(model, WORK, CLUSTER, framework, config)
                assert "{" not in text


def test_unknown_framework_is_named_with_the_nearest():
    with pytest.raises(InvalidProblemError, match="Did you mean torchtitan"):
        violations(DENSE, WORK, CLUSTER, "torchtian", ParallelConfig())
