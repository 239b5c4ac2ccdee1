"""A vocabulary split over the pipeline, and layers balanced against the head."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshwright.costmodels.load_model import load_model
from meshwright.costmodels.memory import stage_parameters
from meshwright.costmodels.parallel import LayerSplit, ParallelConfig, VocabParallel
from meshwright.costmodels.parallelism.balance import balanced_last, head_in_layers
from meshwright.costmodels.parallelism.pipeline import in_flight, stage_layer_list, stage_layers
from meshwright.costmodels.parallelism.vocabulary import barriers, bubble_change_s, shard_rows
from meshwright.costmodels.schedule import bubble_s
from meshwright.costmodels.schedules import PassKind, PassTimes, build_schedule, simulate
from meshwright.costmodels.software import Software
from meshwright.costmodels.stage_time import stage_time
from meshwright.costmodels.training import estimate
from meshwright.costmodels.workload import Workload

sys.path.insert(0, str(Path(__file__).parent))
from devices import cluster

SOFTWARE = Software(name="t", framework="megatron-lm", release="t", attention="flash2")
WORK = Workload(seq_len=4096, global_batch=64)
NAMES = {
    VocabParallel.TWO_BARRIERS: "vocab-1",
    VocabParallel.ONE_BARRIER: "vocab-2",
    VocabParallel.INTERLACED: "interlaced",
}


@given(p=st.integers(2, 12), m=st.integers(1, 40), kind=st.sampled_from(list(NAMES)))
@settings(max_examples=60, deadline=None)
def test_activations_are_the_simulators(p: int, m: int, kind: VocabParallel) -> None:
    c = ParallelConfig(pp=p, vocab_parallel=kind)
    peak = simulate(build_schedule(NAMES[kind], p, m), PassTimes(1.0, 2.0)).peak_in_flight()
    assert peak == pytest.approx([float(in_flight(c, m, s)) for s in range(p)])


@given(
    p=st.sampled_from([4, 8, 16]),
    rounds=st.integers(4, 8),
    backward=st.floats(1.8, 2.5),
    head=st.floats(0.1, 1.0),
    kind=st.sampled_from(list(NAMES)),
)
@settings(max_examples=40, deadline=None)
def test_the_closed_form_stays_near_the_simulator(
    p: int, rounds: int, backward: float, head: float, kind: VocabParallel
) -> None:
    m, c = p * rounds, ParallelConfig(pp=p, vocab_parallel=kind)
    s = head * (1 / 3 if kind == VocabParallel.TWO_BARRIERS else 2 / 3)
    shards = {PassKind.OUTPUT_S: s, PassKind.OUTPUT_T: head - s, PassKind.OUTPUT_HEAD: head}
    schedule = build_schedule(NAMES[kind], p, m, costs=(1.0, backward, head))
    simulated = simulate(schedule, PassTimes(1.0, backward, None, shards)).makespan_s
    stage = 1.0 + backward + head
    bubble = float(bubble_s(c, p * stage, stage, 1 / 3)) + float(bubble_change_s(c, head, 1.0 + backward))
    # the worst of 4,000 random draws is 2.34%, at four stages of sixteen micro-batches
    assert m * stage + bubble == pytest.approx(simulated, rel=0.025)
    if kind == VocabParallel.INTERLACED:
        assert m * stage + bubble == pytest.approx(simulated, rel=1e-9)


@given(n=st.integers(1, 40), p=st.integers(2, 12), head=st.floats(0.0, 9.0))
@settings(max_examples=100, deadline=None)
def test_balanced_layers_make_the_longest_stage_shortest(n: int, p: int, head: float) -> None:
    def longest(last: int) -> float:
        return max(-(-(n - last) // (p - 1)), last + head)

    chosen = int(balanced_last(n, p, head))
    assert longest(chosen) == pytest.approx(min(longest(last) for last in range(n + 1)))
    assert balanced_last(n, np.array([p, p]), head).tolist() == [chosen, chosen]
    c = ParallelConfig(pp=p, layer_split=LayerSplit.BALANCED)
    listed, kinds = stage_layer_list(n, c, 0, head), stage_layers(n, c, 0, head)
    assert sum(listed) == n and listed[-1] == chosen and float(kinds.total()) == pytest.approx(n)
    assert int(kinds.first) == listed[0] and (p == 2 or int(kinds.mid) == max(listed[1:-1]))


def test_layer_redistribution_of_the_paper() -> None:
    """sail-sg/VocabularyParallelism leaves 0, 3 and 4 of 32 layers on the last stage for 256k, 64k and 32k at pp 8."""
    assert [int(balanced_last(32, 8, 6.25 * k)) for k in (1.0, 0.25, 0.125)] == [0, 3, 4]


@pytest.mark.parametrize("name", ["llama-3.1-8b", "mixtral-8x7b", "gpt3-175b"])
def test_shards_hold_the_vocabulary_once(name: str) -> None:
    model = load_model(name)
    whole = ParallelConfig(tp=2, pp=8)
    split = replace(whole, vocab_parallel=VocabParallel.ONE_BARRIER)
    rows = int(shard_rows(model, split, 128)) * 16
    assert 0 <= rows - model.vocab < 32 * 2
    before, after = stage_parameters(model, whole).dense, stage_parameters(model, split).dense
    copies = 1 if model.tied_embeddings else 2
    again = (2 - copies) * model.padded_vocab(2) // 2 * model.hidden  # tied, first and last stage hold it each
    padding = (model.padded_vocab(2) - model.vocab) * 2 * model.hidden
    assert float(after.total()) == pytest.approx(float(before.total()) - again, abs=padding + 64 * 2 * model.hidden)
    assert float(after.mid - before.mid) == pytest.approx(copies * rows * model.hidden / 16)


def test_a_wide_head_runs_faster_split_and_leaves_fewer_logits() -> None:
    model, machine = load_model("llama-3.1-8b"), cluster(nodes=1)
    base = ParallelConfig(pp=8)
    plain = estimate(model, WORK, base, machine, SOFTWARE)
    assert float(plain.memory.logits_bytes) == 0.0 or int(plain.fullest_stage) == 7
    for kind in NAMES:
        split = estimate(model, WORK, replace(base, vocab_parallel=kind), machine, SOFTWARE)
        assert float(split.step_s) < float(plain.step_s)
        assert float(split.memory.logits_bytes) > 0.0
    balanced = estimate(model, WORK, replace(base, layer_split=LayerSplit.BALANCED), machine, SOFTWARE)
    assert float(balanced.step_s) < float(plain.step_s)
    assert head_in_layers(model) == pytest.approx(2.41, rel=0.02)


def test_stages_share_head_and_embedding_alike() -> None:
    model, machine = load_model("llama-3.1-8b"), cluster(nodes=1)
    c = ParallelConfig(pp=8, vocab_parallel=VocabParallel.TWO_BARRIERS)
    whole = stage_time(machine, model, WORK, SOFTWARE, c).whole()
    assert float(whole.first) == pytest.approx(float(whole.mid)) == pytest.approx(float(whole.last))
    assert [float(barriers(replace(c, vocab_parallel=k))) for k in VocabParallel] == [0.0, 2.0, 1.0, 0.0]


def test_one_stage_has_nothing_to_split() -> None:
    model, machine = load_model("llama-3.1-8b"), cluster(nodes=1)
    plain = estimate(model, WORK, ParallelConfig(dp=8), machine, SOFTWARE)
    same = estimate(model, WORK, ParallelConfig(dp=8, vocab_parallel=1), machine, SOFTWARE)
    assert float(same.step_s) == float(plain.step_s) and float(same.peak_bytes) == float(plain.peak_bytes)
