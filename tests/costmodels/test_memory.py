"""The memory ledger against published closed forms and against properties that hold for any ledger."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from meshwright.costmodels.memory import layer_activations, memory_breakdown, stage_parameters
from meshwright.costmodels.model_spec import AttentionSpec, ModelSpec
from meshwright.costmodels.parallel import ParallelConfig, Recompute
from meshwright.costmodels.software import Software
from meshwright.costmodels.workload import Workload

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
