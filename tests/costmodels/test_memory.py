"""The memory ledger against published closed forms and against properties that hold for any ledger."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from meshwright.costmodels.activations import layer_activations
from meshwright.costmodels.candidates import CandidateTable
from meshwright.costmodels.estimate import MemoryBreakdown
from meshwright.costmodels.interval import fit_probability, memory_sigma
from meshwright.costmodels.load_model import load_model
from meshwright.costmodels.load_software import load_era
from meshwright.costmodels.memory import memory_breakdown, stage_parameters
from meshwright.costmodels.model_spec import AttentionSpec, ModelSpec
from meshwright.costmodels.parallel import ParallelConfig, Recompute
from meshwright.costmodels.software import Software
from meshwright.costmodels.workload import Workload
from meshwright.hardware_profiles.load import cluster_from_gpu, load_gpu

UNFUSED = Software(name="t", framework="megatron-lm", release="t", attention="unfused")


def gpt(n_layers: int, hidden: int, heads: int) -> ModelSpec:
    return ModelSpec(
        name="gpt",
        family="gpt",
        n_layers=n_layers,
        hidden=hidden,
        ffn_hidden=4 * hidden,
        vocab=51200,
        gated_ffn=False,
        norm="layernorm",
        learned_positions=2048,
        dropout=True,
        attention=AttentionSpec(n_heads=heads, n_kv_heads=heads, head_dim=hidden // heads, v_head_dim=hidden // heads),
    )


#: arXiv 2205.05198, Table 3: layers, hidden, heads, tensor-parallel size, micro-batch.
TABLE_3 = {"22B": (48, 6144, 64, 8, 4), "175B": (96, 12288, 96, 8, 1), "530B": (105, 20480, 128, 8, 1)}


@pytest.mark.parametrize("name", TABLE_3)
def test_korthikanti_table_2(name: str) -> None:
    """Every row of arXiv 2205.05198 Table 2, exactly: bytes of activations of one layer."""
    n, h, a, t, b = TABLE_3[name]
    s = 2048
    model, work = gpt(n, h, a), Workload(seq_len=s, global_batch=8, precision="fp16")

    def ours(tp: int, **kw: int) -> float:
        c = ParallelConfig(tp=tp, micro_batch_size=b, **kw)
        return float(layer_activations(model, work, UNFUSED, c, moe=False).kept)

    sbh, scores = s * b * h, 5 * a * s / h
    attn = Recompute.CORE_ATTENTION
    assert ours(1) == pytest.approx(sbh * (34 + scores))
    assert ours(t) == pytest.approx(sbh * (10 + 24 / t + scores / t))
    assert ours(t, sequence_parallel=1) == pytest.approx(sbh / t * (34 + scores))
    assert ours(t, recompute=attn) == pytest.approx(sbh * (10 + 24 / t))
    assert ours(t, sequence_parallel=1, recompute=attn) == pytest.approx(34 * sbh / t)
    full = layer_activations(model, work, UNFUSED, ParallelConfig(tp=t, micro_batch_size=b), moe=False)
    assert float(full.input) == pytest.approx(2 * sbh)


def test_model_states_are_18_bytes_per_parameter() -> None:
    """Megatron's mixed precision: 2 weights + 4 gradients + 12 Adam; 6 + 12/d with the distributed optimizer."""
    model, work = gpt(24, 2048, 16), Workload(seq_len=2048, global_batch=64)
    for zero, per_param in ((0, 18.0), (1, 6 + 12 / 8), (2, 2 + 16 / 8), (3, 18 / 8)):
        c = ParallelConfig(dp=8, zero_stage=zero)
        memory, _ = memory_breakdown(model, work, UNFUSED, c, np.float64(8))
        n = float(stage_parameters(model, c).dense.first)
        states = memory.weights_bytes + memory.gradients_bytes + memory.optimizer_bytes
        assert float(states) == pytest.approx(per_param * n)


def test_first_stage_holds_all_micro_batches_in_flight() -> None:
    """1F1B keeps L layers' worth of activations on the first stage whatever the depth (arXiv 2205.05198, 4.2.3)."""
    model, work = gpt(32, 4096, 32), Workload(seq_len=2048, global_batch=512)
    soft = replace(UNFUSED, attention="flash2")
    one = memory_breakdown(model, work, soft, ParallelConfig(), np.float64(512))[0].activations_bytes
    for pp in (2, 4, 8):
        deep, stage = memory_breakdown(model, work, soft, ParallelConfig(pp=pp), np.float64(512))
        assert int(stage) == 0
        layer = float(one) / 32
        assert float(deep.activations_bytes) == pytest.approx(float(one), abs=pp * layer)


def test_recompute_never_stores_more() -> None:
    model, work = gpt(24, 2048, 16), Workload(seq_len=2048, global_batch=64)
    none = float(layer_activations(model, work, UNFUSED, ParallelConfig(), moe=False).kept)
    for bit in (Recompute.CORE_ATTENTION, Recompute.NORM, Recompute.FFN_ACTIVATION, Recompute.FFN):
        c = ParallelConfig(recompute=bit)
        assert float(layer_activations(model, work, UNFUSED, c, moe=False).kept) < none
    totals = [
        float(
            memory_breakdown(
                model, work, UNFUSED, ParallelConfig(recompute=Recompute.FULL, recompute_layers=k), np.float64(8)
            )[0].activations_bytes
        )
        for k in (1, 6, 12, 24)
    ]
    assert totals == sorted(totals, reverse=True)


def with_coefficients(**coefficients: float) -> Software:
    return replace(UNFUSED, coefficients=coefficients)


def ledger(software: Software, work: Workload, *, first_stage: bool = False, **config: int) -> MemoryBreakdown:
    model, c = gpt(24, 2048, 16), ParallelConfig(**config)
    return memory_breakdown(model, work, software, c, np.float64(8), first_stage=first_stage)[0]


FP16 = Workload(seq_len=2048, global_batch=64, precision="fp16", grad_dtype_bytes=2)
FULL = int(Recompute.FULL)


def test_update_copies_share_the_device_with_activations_in_turn() -> None:
    """The optimizer's step runs after the last backward: its copies raise the peak only beyond the activations."""
    copies = {"update_copy_bytes": 6.0, "allocator_slack": 0.0}
    n = float(stage_parameters(gpt(24, 2048, 16), ParallelConfig()).dense.first)
    bare = ledger(with_coefficients(allocator_slack=0.0), FP16, recompute=FULL)
    some = ledger(with_coefficients(**copies), FP16, recompute=FULL)
    in_use = float(bare.activations_bytes + bare.working_bytes + bare.logits_bytes)
    assert 6 * n > in_use
    assert float(some.total - bare.total) == pytest.approx(6 * n - in_use)
    assert float(some.cached_bytes) == pytest.approx(in_use)  # and the rest stays cached through the next step
    large = ledger(with_coefficients(**copies), FP16, micro_batch_size=8)
    assert float(large.total) == pytest.approx(
        float(ledger(with_coefficients(allocator_slack=0.0), FP16, micro_batch_size=8).total)
    )
    assert float(large.cached_bytes) == pytest.approx(6 * n)
    assert "cached_bytes" not in dict(large.items())


def test_update_copies_are_sharded_and_cast_only_from_16_bits() -> None:
    soft = with_coefficients(cast_copy_bytes=4.0)
    by_dp = [float(ledger(soft, FP16, dp=d, micro_batch_size=8).cached_bytes) for d in (1, 4)]
    assert by_dp[0] == pytest.approx(4 * by_dp[1])
    assert float(ledger(soft, replace(FP16, grad_dtype_bytes=4.0), micro_batch_size=8).cached_bytes) == 0.0
    assert float(ledger(soft, FP16, optimizer_offload=1, micro_batch_size=8).cached_bytes) == 0.0


def test_norm_copy_is_bounded_by_the_shard() -> None:
    """A float64 copy of the largest tensor, or of the rank's shard where that is smaller."""
    soft = with_coefficients(norm_double_bytes=8.0)
    n = float(stage_parameters(gpt(24, 2048, 16), ParallelConfig()).dense.first)
    largest = 51200 * 2048
    for dp in (1, 64):
        cached = float(ledger(soft, FP16, dp=dp, micro_batch_size=8).cached_bytes)
        assert cached == pytest.approx(8 * min(largest, n / dp))


def test_pipeline_outputs_and_static_slots() -> None:
    one = 2 * 2048 * 2048 * 2.0

    def activations(pp: int, **coefficients: float) -> float:
        soft = with_coefficients(**coefficients)
        m = ledger(soft, FP16, first_stage=True, pp=pp, micro_batch_size=2, recompute=FULL)
        return float(m.activations_bytes)

    plain = activations(4)
    assert activations(4, pipeline_outputs=1.0) - plain == pytest.approx(4 * one)
    assert activations(4, pipeline_slots=2.0) == pytest.approx(plain * 9 / 4)
    assert activations(1, pipeline_outputs=1.0, pipeline_slots=2.0) == pytest.approx(activations(1))


def test_zero_2_that_shards_late_holds_whole_gradients() -> None:
    late = ledger(with_coefficients(zero2_whole_gradients=1.0), FP16, dp=8, zero_stage=2)
    assert float(late.gradients_bytes) == pytest.approx(
        8 * float(ledger(UNFUSED, FP16, dp=8, zero_stage=2).gradients_bytes)
    )


def test_fsdp_shards_one_copy_of_the_weights() -> None:
    """FSDP keeps the fp32 shard (12 bytes with Adam's moments) and gathers 16-bit weights; DeepSpeed keeps both."""
    work = Workload(seq_len=2048, global_batch=64)
    fsdp = replace(UNFUSED, framework="torchtitan")
    deepspeed = replace(UNFUSED, framework="deepspeed")
    n = float(stage_parameters(gpt(24, 2048, 16), ParallelConfig()).dense.first)
    for soft, per_param in ((fsdp, 16.0), (deepspeed, 18.0)):
        m = ledger(soft, work, dp=8, zero_stage=3)
        assert float(m.weights_bytes + m.gradients_bytes + m.optimizer_bytes) == pytest.approx(per_param * n / 8)
    fp32 = ledger(UNFUSED, replace(work, precision="fp32"))
    assert float(fp32.weights_bytes + fp32.gradients_bytes + fp32.optimizer_bytes) == pytest.approx(16 * n)


@pytest.mark.parametrize(("tokens", "published_gib"), [(1024, 82.32), (2048, 99.57), (4096, 134.08)])
def test_lora_keeps_no_inputs_of_frozen_layers(tokens: int, published_gib: float) -> None:
    """Peaks of Llama 2 70B LoRA at 8,192 tokens and cp 8, 4, 2 (MLPerf Training v5.0 logs, llama2_70b_lora on GB200:
    the largest allocated memory, read as GiB), within 3%."""
    work = Workload(seq_len=8192, global_batch=8, task="lora", precision="fp8", lora_rank=16, fp8_params=True)
    c = ParallelConfig(cp=8192 // tokens)
    m, _ = memory_breakdown(load_model("llama-2-70b"), work, load_era("megatron-core-2025").software, c, np.float64(1))
    allocated = float(m.total - m.slack_bytes - m.context_bytes)
    assert allocated / 2**30 == pytest.approx(published_gib, rel=0.03)


@pytest.mark.parametrize("era", ["megatron-deepspeed-2022", "deepspeed-2023", "oneflow-2021", "megatron-core-2025"])
def test_a_table_gives_what_its_rows_give(era: str) -> None:
    soft, model, rng = load_era(era).software, load_model("llama-3.1-8b"), np.random.default_rng(1)
    n = 300
    table = CandidateTable(
        {
            "tp": 2 ** rng.integers(0, 4, n),
            "pp": 2 ** rng.integers(0, 3, n),
            "dp": 2 ** rng.integers(0, 5, n),
            "micro_batch_size": 2 ** rng.integers(0, 3, n),
            "zero_stage": rng.integers(0, 4, n),
            "recompute": rng.choice([0, 1, FULL], n),
        }
    )
    work = Workload(seq_len=4096, global_batch=64)
    many, stages = memory_breakdown(model, work, soft, table, np.full(n, 16.0))
    for i in range(0, n, 29):
        one, stage = memory_breakdown(model, work, soft, table.row(i), np.float64(16))
        assert int(stage) == int(stages[i])
        for (name, a), (_, b) in zip(many.items(), one.items(), strict=True):
            assert float(np.broadcast_to(a, (n,))[i]) == pytest.approx(float(b), rel=1e-12), name


def test_first_stage_on_request() -> None:
    work = Workload(seq_len=2048, global_batch=64)
    soft = replace(UNFUSED, attention="flash2")
    model, c = gpt(24, 1024, 16), ParallelConfig(pp=4, micro_batch_size=8, recompute=FULL)
    fullest, stage = memory_breakdown(model, work, soft, c, np.float64(8))
    first, zero = memory_breakdown(model, work, soft, c, np.float64(8), first_stage=True)
    assert int(stage) == 3 and int(zero) == 0
    assert float(first.total) < float(fullest.total)
    assert float(first.logits_bytes) == 0.0


def test_memory_spread_grows_where_less_is_known() -> None:
    large, small = (cluster_from_gpu(load_gpu(name), n_gpus=8) for name in ("a100-sxm-80gb", "v100-sxm2-16gb"))
    known, unknown = with_coefficients(allocator_slack=0.02), UNFUSED
    dense, sparse = gpt(24, 2048, 16), load_model("mixtral-8x7b")
    assert memory_sigma(large, dense, known) < memory_sigma(small, dense, known)
    assert memory_sigma(large, dense, known) < memory_sigma(large, dense, unknown)
    assert memory_sigma(large, dense, known) < memory_sigma(large, sparse, known)
    sigma = memory_sigma(large, dense, known)
    assert fit_probability(80e9, 80e9, sigma) == pytest.approx(0.5, abs=1e-6)
    assert fit_probability(80e9 * np.exp(-1.645 * sigma), 80e9, sigma) == pytest.approx(0.95, abs=1e-3)


def test_pure_bf16_has_no_main_copy_to_share() -> None:
    work = Workload(seq_len=2048, global_batch=64, optimizer="adam_pure_bf16", grad_dtype_bytes=2)
    n = float(stage_parameters(gpt(24, 2048, 16), ParallelConfig()).dense.first)
    for framework in ("torchtitan", "megatron-lm"):
        m = ledger(replace(UNFUSED, framework=framework), work, dp=8, zero_stage=3)
        assert float(m.weights_bytes + m.gradients_bytes + m.optimizer_bytes) == pytest.approx(8 * n / 8)


def test_without_zero_deepspeed_casts_and_flattens_all_gradients() -> None:
    """DeepSpeed fp16/fused_optimizer.py, step: every gradient cast to fp32 (4 bytes), then all flattened (4 more)."""
    soft = with_coefficients(update_copy_bytes=6.0, whole_copy_bytes=2.0)
    n = float(stage_parameters(gpt(24, 2048, 16), ParallelConfig()).dense.first)
    for zero_stage, per_param in ((0, 8.0), (1, 6.0 / 4)):
        m = ledger(soft, FP16, dp=4, zero_stage=zero_stage, micro_batch_size=8)
        assert float(m.cached_bytes) == pytest.approx(per_param * n)


def test_stage_3_reduces_from_a_second_bucket() -> None:
    """DeepSpeed comm/coalesced_collectives.py, reduce_scatter_coalesced: a bucket of 5e8 16-bit elements (1 GB) is
    concatenated by rank into another one."""
    some, none = with_coefficients(bucket_elements=5e8), UNFUSED

    def added(zero_stage: int) -> float:
        full, bare = (ledger(s, FP16, dp=8, zero_stage=zero_stage) for s in (some, none))
        return float(full.buffers_bytes - bare.buffers_bytes)

    assert [added(z) for z in (1, 2, 3)] == pytest.approx([1e9, 1e9, 2e9])


def test_gradients_that_are_freed_fragment_by_their_own_size() -> None:
    """A quarter of 2 bytes per parameter; the same whatever the activations are."""
    n = float(stage_parameters(gpt(24, 2048, 16), ParallelConfig()).dense.first)
    for micro in (1, 8):
        lost = [ledger(with_coefficients(gradient_slack=s), FP16, micro_batch_size=micro) for s in (0.0, 0.25)]
        assert float(lost[1].slack_bytes - lost[0].slack_bytes) == pytest.approx(0.25 * 2 * n)
        assert float(lost[1].total - lost[0].total) == pytest.approx(0.25 * 2 * n)


def test_working_sets_that_accumulation_does_not_share() -> None:
    """OneFlow core/job/intra_job_mem_sharing_util.cpp: chains of several micro-batches keep their own temporaries, so
    that every stage but the last holds those of a forward and of a backward pass."""
    model, shared = gpt(24, 2048, 16), with_coefficients(allocator_slack=0.0)
    soft = with_coefficients(allocator_slack=0.0, unshared_working=1.0)

    def working(software: Software, pp: int, n_micro: float) -> float:
        c = ParallelConfig(pp=pp, recompute=FULL)
        return float(memory_breakdown(model, FP16, software, c, np.float64(n_micro), first_stage=True)[0].working_bytes)

    one = working(shared, 4, 8)
    assert working(soft, 4, 8) == pytest.approx(2 * one)
    assert working(soft, 4, 1) == pytest.approx(one) and working(soft, 1, 8) == pytest.approx(working(shared, 1, 8))
    bare, full = (ledger(s, FP16, first_stage=True, pp=4, recompute=FULL) for s in (shared, soft))
    assert float(full.total - bare.total) == pytest.approx(one)
    assert float(full.activations_bytes) == pytest.approx(float(bare.activations_bytes))


def test_the_stage_that_shows_most_keeps_the_most_activation_blocks() -> None:
    """The optimizer's step sets the peak of all stages, by 6 bytes per parameter: the last needs most (it has the final
    norm too), the first shows most (what four micro-batches in flight left is cached)."""
    model = replace(gpt(24, 2048, 16), vocab=6400, learned_positions=0)
    soft = with_coefficients(update_copy_bytes=6.0, allocator_slack=0.0)
    c = ParallelConfig(pp=4, recompute=FULL)
    needed, last = memory_breakdown(model, FP16, soft, c, np.float64(8))
    shown, first = memory_breakdown(model, FP16, soft, c, np.float64(8), with_cached=True)
    assert (int(last), int(first)) == (3, 0)
    assert float(needed.total) > float(shown.total)
    assert float(shown.total + shown.cached_bytes) > float(needed.total + needed.cached_bytes)
    in_use = float(shown.activations_bytes + shown.working_bytes + shown.logits_bytes)
    assert float(shown.cached_bytes) == pytest.approx(in_use)
