"""The whole estimate: one formula for scalars and arrays, and the directions that physics fixes."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshwright.costmodels.candidates import CandidateTable, unique_rows
from meshwright.costmodels.estimate import Estimate
from meshwright.costmodels.load_model import load_model
from meshwright.costmodels.ops import kernels_per_layer
from meshwright.costmodels.parallel import CpComm, ParallelConfig, Recompute
from meshwright.costmodels.software import Software
from meshwright.costmodels.training import estimate
from meshwright.costmodels.workload import Workload

sys.path.insert(0, str(Path(__file__).parent))
from devices import cluster

SOFTWARE = Software(name="t", framework="megatron-lm", release="t", attention="flash2")
UNFUSED = replace(SOFTWARE, attention="unfused", fused_elementwise=False, launch_blocking=True)
MODELS = ("llama-3.1-8b", "mixtral-8x7b", "deepseek-v3", "gpt3-175b")
POWERS = st.sampled_from([1, 2, 4, 8])

configs = st.builds(
    ParallelConfig,
    tp=POWERS,
    cp=st.sampled_from([1, 2, 4]),
    ep=POWERS,
    pp=st.sampled_from([1, 2, 4, 8]),
    vp=st.sampled_from([1, 2]),
    dp=st.sampled_from([8, 16, 32]),
    micro_batch_size=st.sampled_from([1, 2, 4]),
    zero_stage=st.integers(0, 3),
    recompute=st.sampled_from([0, 1, 2, 6, 16, 32]),
    recompute_layers=st.sampled_from([0, 1, 3]),
    sequence_parallel=st.integers(0, 1),
    schedule=st.integers(0, 3),
    vocab_parallel=st.sampled_from([0, 0, 1, 2, 3]),
    cp_comm=st.sampled_from(list(CpComm)),
    optimizer_offload=st.integers(0, 1),
)


def flat(e: Estimate) -> dict[str, np.ndarray]:
    out = {f"time.{k}": np.asarray(v, float) for k, v in e.time.items()}
    out |= {f"memory.{k}": np.asarray(v, float) for k, v in e.memory.items()}
    for name in ("step_s", "mfu", "hfu", "peak_bytes", "p_fit", "bubble_fraction", "step_low_s", "fullest_stage"):
        out[name] = np.asarray(getattr(e, name), float)
    return out


@given(st.lists(configs, min_size=1, max_size=12), st.sampled_from(MODELS), st.sampled_from((SOFTWARE, UNFUSED)))
@settings(max_examples=40, deadline=None)
def test_scalar_equals_array(rows: list[ParallelConfig], name: str, software: Software) -> None:
    model, work = load_model(name), Workload(seq_len=4096, global_batch=512)
    # 300 rows and more take the factored path
    many = (rows * (300 // len(rows) + 1))[:300]
    table = flat(estimate(model, work, CandidateTable.from_configs(many), cluster(32), software))
    for i, c in enumerate(rows):
        one = flat(estimate(model, work, c, cluster(32), software))
        for key, value in one.items():
            got = np.broadcast_to(table[key], (300,))[i]
            assert got == pytest.approx(float(value), rel=1e-12, abs=1e-12), key


@given(configs, st.sampled_from(MODELS))
@settings(max_examples=40, deadline=None)
def test_parts_add_up_and_are_not_negative(c: ParallelConfig, name: str) -> None:
    e = estimate(load_model(name), Workload(seq_len=4096, global_batch=512), c, cluster(64), SOFTWARE)
    assert all(float(v) >= 0 for _, v in e.time.items())
    assert all(float(v) >= 0 for _, v in e.memory.items())
    assert float(e.step_s) == pytest.approx(sum(float(v) for _, v in e.time.items()))
    assert float(e.peak_bytes) == pytest.approx(sum(float(v) for _, v in e.memory.items()))
    assert float(e.step_low_s) < float(e.step_s) < float(e.step_high_s)
    assert 0 <= float(e.p_fit) <= 1
    assert 0 < float(e.mfu) < 1
    assert float(e.hfu) >= float(e.mfu)


def step(c: ParallelConfig, software: Software = SOFTWARE, gb: int = 512, seq: int = 4096) -> float:
    e = estimate(load_model("llama-3.1-8b"), Workload(seq_len=seq, global_batch=gb), c, cluster(64), software)
    return float(e.step_s)


def test_directions() -> None:
    base = ParallelConfig(tp=4, pp=4, dp=16)
    assert step(replace(base, recompute=Recompute.FULL)) > step(base)
    assert step(replace(base, vp=2)) < step(base, gb=512)
    assert step(replace(base, overlap_grad_reduce=0, overlap_param_gather=0)) > step(base)
    assert step(base, gb=1024) > 1.5 * step(base, gb=512)
    # short sequences on tp 8 leave the device waiting for launches, which CUDA graphs replay
    slow, small = replace(SOFTWARE, coefficients={"launch_s": 40e-6}), ParallelConfig(tp=8, dp=64)
    assert step(small, slow, seq=256) > 1.2 * step(small, seq=256)
    assert step(small, replace(slow, cuda_graphs=True), seq=256) < step(small, slow, seq=256)


def test_experts_divide_memory_but_not_activations() -> None:
    model, work = load_model("mixtral-8x7b"), Workload(seq_len=4096, global_batch=512)

    def parts(ep: int) -> dict[str, float]:
        c = ParallelConfig(dp=64, ep=ep)
        return {k: float(v) for k, v in estimate(model, work, c, cluster(64), SOFTWARE).memory.items()}

    assert parts(8)["weights_bytes"] < parts(1)["weights_bytes"] / 3
    assert parts(8)["activations_bytes"] == pytest.approx(parts(1)["activations_bytes"])


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 70000), st.integers(0, 3)), min_size=1, max_size=400))
@settings(max_examples=50, deadline=None)
def test_unique_rows_inverts(rows: list[tuple[int, int, int]]) -> None:
    cols = [np.array(c) for c in zip(*rows, strict=True)]
    first, inverse = unique_rows(cols)
    assert len(first) == len(set(rows))
    for col in cols:
        assert (col[first][inverse] == col).all()


def test_a_vocabulary_dealt_out_unpadded_slows_the_head() -> None:
    """50257 rows are odd on one rank and divisible by 8 on two (25128), as in VIA-Research/vTrain's runs."""
    model = replace(load_model("gpt3-2.7b"), n_layers=2)
    plain = replace(SOFTWARE, vocab_multiple=1)

    def seconds(tp: int, software: Software) -> float:
        c = ParallelConfig(tp=tp, dp=8 // tp, micro_batch_size=4)
        return float(estimate(model, Workload(seq_len=1024, global_batch=64), c, cluster(1), software).step_s)

    assert seconds(1, plain) > 1.3 * seconds(1, SOFTWARE)
    assert seconds(2, plain) == pytest.approx(seconds(2, SOFTWARE), rel=0.02)


def test_tensor_parallel_ranks_wait_for_each_other() -> None:
    loose = replace(SOFTWARE, coefficients={"tp_wait_s": 0.0})
    tight = replace(SOFTWARE, coefficients={"tp_wait_s": 200e-6})
    assert step(ParallelConfig(tp=8, dp=64), tight) > step(ParallelConfig(tp=8, dp=64), loose)
    assert step(ParallelConfig(dp=512), tight, seq=512) == pytest.approx(step(ParallelConfig(dp=512), loose, seq=512))


def test_backward_collectives_hide_behind_gradient_gemms() -> None:
    c = ParallelConfig(tp=8, dp=64, sequence_parallel=1)
    assert step(c, SOFTWARE) < step(c, replace(SOFTWARE, tp_grad_overlap=False))


def host_bound(launch: str, **coefficients: float) -> float:
    """A step of small layers in which only ``launch`` of the host's times is not zero."""
    none = {"launch_s": 1e-6, "layer_s": 0.0, "layer_backward_s": 0.0, "microbatch_s": 0.0, "host_drain": 1.0}
    software = replace(SOFTWARE, coefficients={**none, launch: 1.5e-3, **coefficients})
    return step(ParallelConfig(dp=512), software, seq=512)


def test_a_forward_that_waits_for_its_host_leaves_nothing_queued_for_backward() -> None:
    """Equal host time costs more in forward: backward, whose kernels outlast its launches, starts later."""
    assert host_bound("layer_s") > host_bound("layer_backward_s") * 1.02


def test_the_device_pays_for_every_kernel() -> None:
    model, c = load_model("gpt3-2.7b"), ParallelConfig()
    work, small = Workload(seq_len=1024, global_batch=1), cluster(1)

    def seconds(kernel_s: float) -> float:
        quick = {"launch_s": 1e-6, "layer_s": 0.0, "layer_backward_s": 0.0, "microbatch_s": 0.0, "kernel_s": kernel_s}
        return float(estimate(model, work, c, small, replace(SOFTWARE, coefficients=quick)).step_s)

    kernels = float(kernels_per_layer(model, work, SOFTWARE, moe=False, c=c))
    assert seconds(1e-5) - seconds(0.0) == pytest.approx(3 * kernels * model.n_layers * 1e-5, rel=1e-6)


def test_gradients_added_by_a_kernel_of_their_own_cost_their_bytes() -> None:
    model, c = load_model("gpt3-2.7b"), ParallelConfig(dp=8, micro_batch_size=4)
    work = Workload(seq_len=2048, global_batch=64, precision="fp16", grad_dtype_bytes=2.0)
    fused, apart = (
        estimate(model, work, c, cluster(1), replace(SOFTWARE, separate_grad_add=s)).time.backward_s
        for s in (False, True)
    )
    linear = 12 * model.hidden**2 * model.n_layers
    assert float(apart - fused) == pytest.approx(2 * 6.0 * linear / 1.3e12, rel=0.8)
