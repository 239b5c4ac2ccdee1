"""Stage costs by number of layers against the whole cost model's stages of even pipelines."""

import numpy as np
import pytest

from meshwright.costmodels.candidates import CandidateTable
from meshwright.costmodels.load_model import load_model
from meshwright.costmodels.load_software import default_software, load_software
from meshwright.costmodels.memory import memory_breakdown
from meshwright.costmodels.parallel import ParallelConfig, Recompute
from meshwright.costmodels.stage_table import (
    FIRST,
    LAST,
    MIDDLE,
    ONLY,
    exposed_traffic_s,
    held_micro_batches,
    micro_batch_table,
    peak_bytes,
    state_table,
    transfer_buffer_bytes,
)
from meshwright.costmodels.stage_time import stage_time
from meshwright.costmodels.training import estimate
from meshwright.costmodels.workload import Workload
from meshwright.hardware_profiles.load import load_cluster

CLUSTER = load_cluster("dgx-h100", nodes=8)
MEGATRON = default_software("megatron-lm", CLUSTER.gpu)
WORK = Workload(seq_len=4096, global_batch=256)
CASES = [
    ("llama-3.1-70b", ParallelConfig(tp=2, pp=8, dp=4, micro_batch_size=2, sequence_parallel=1)),
    ("llama-3.1-70b", ParallelConfig(tp=4, pp=4, dp=4, sequence_parallel=1, recompute=int(Recompute.FULL))),
    ("llama-3.1-70b", ParallelConfig(tp=8, pp=1, dp=8, cp=1, sequence_parallel=1)),
    ("mixtral-8x7b", ParallelConfig(tp=2, pp=4, dp=8, ep=4, sequence_parallel=1)),
    ("deepseek-v2", ParallelConfig(tp=2, pp=6, dp=4, ep=8, sequence_parallel=1)),
    ("gpt3-1.3b", ParallelConfig(tp=1, pp=4, dp=16, cp=1)),
]


def tables(name, config, software=MEGATRON):
    model, rows = load_model(name), CandidateTable.from_configs([config])
    work = WORK if name != "gpt3-1.3b" else Workload(seq_len=2048, global_batch=256)
    return (
        model,
        work,
        micro_batch_table(model, work, CLUSTER, software, rows),
        state_table(model, work, CLUSTER, software, rows),
    )


@pytest.mark.parametrize(("name", "config"), CASES)
def test_time_of_a_stage_is_that_of_the_cost_model(name, config):
    model, work, time, _ = tables(name, config)
    whole, k = stage_time(CLUSTER, model, work, MEGATRON, config).whole(), model.n_layers // config.pp
    expected = {ONLY: whole.first} if config.pp == 1 else {FIRST: whole.first, MIDDLE: whole.mid, LAST: whole.last}
    for kind, seconds in expected.items():
        assert time.whole_s[0, kind, k] == pytest.approx(float(seconds), rel=1e-12)


@pytest.mark.parametrize("era", ["megatron-core-2025", "megatron-deepspeed-2022", "megatron-lm-2021"])
@pytest.mark.parametrize(("name", "config"), CASES)
def test_peak_of_the_first_stage_is_that_of_the_ledger(name, config, era):
    software = load_software(era)
    model, work, time, state = tables(name, config, software)
    kind, k, micro = FIRST if config.pp > 1 else ONLY, model.n_layers // config.pp, 16.0
    ledger, _ = memory_breakdown(model, work, software, config, micro, first_stage=True)
    live = held_micro_batches(software, np.array(config.pp), np.array(1), micro, 0)
    at = (0, kind, k)
    peak = peak_bytes(software, state.base[at], state.update[at], time.kept[at], time.short[at], time.working[at], live)
    assert peak + transfer_buffer_bytes(model, work, config, config.pp) == pytest.approx(float(ledger.total), rel=1e-12)


@pytest.mark.parametrize(("name", "config"), CASES)
def test_end_of_a_step_is_that_of_the_estimate(name, config):
    """On the stage with most parameters, which is the one that the estimate takes (with the window of the busiest one,
    which hides nothing in this release)."""
    model, work, time, state = tables(name, config)
    if model.tied_embeddings:
        pytest.skip("the reduction of tied embeddings is priced with the links between stages")
    kinds, k = ([ONLY] if config.pp == 1 else [FIRST, MIDDLE, LAST]), model.n_layers // config.pp
    at = (0, kinds, k)
    shown = exposed_traffic_s(
        MEGATRON, config, state.reduce_s[at], state.gather_s[at], time.backward_s[at], time.forward_s[at]
    )
    parts = estimate(model, work, config, CLUSTER, MEGATRON).time
    heaviest = int(np.argmax(state.grad_bytes[at]))
    assert shown[heaviest] == pytest.approx(float(parts.dp_s + parts.param_gather_s), rel=1e-9)
    # the estimate adds the most dense and the most expert parameters of any stage, which may be two stages
    update = state.optimizer_s[at].max()
    assert update <= float(parts.optimizer_s) * (1 + 1e-9)
    if model.moe is None:
        assert update == pytest.approx(float(parts.optimizer_s), rel=1e-9)


def test_costs_rise_with_layers():
    for name, config in CASES:
        model, _, time, state = tables(name, config)
        least = model.n_dense_layers if model.moe and model.moe.dense_first else 1
        for array in (time.whole_s, time.kept, state.base, state.grad_bytes):
            assert (np.diff(array[:, :, max(least, 1) :], axis=2) >= 0).all(), name
