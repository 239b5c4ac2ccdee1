"""The enumerated space against brute force over every combination of values."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from meshwright.costmodels.candidates import CandidateTable
from meshwright.costmodels.parallel import CONFIG_FIELDS, LayerSplit, ParallelConfig
from meshwright.costmodels.rules import violations
from meshwright.planner.space import divisors, enumerate_space, natural_split

FRAMEWORKS = ("megatron-lm", "torchtitan", "deepspeed", "pytorch")
STAGES = {"megatron-lm": (0, 1, 2, 3), "torchtitan": (2, 3), "deepspeed": (0, 1, 2, 3), "pytorch": (0, 2, 3)}
ALONE = {"megatron-lm": 1, "torchtitan": 3, "deepspeed": 1, "pytorch": 0}


def key(config):
    return tuple(getattr(config, f) for f in CONFIG_FIELDS)


def rows(space):
    return [space.table.row(i) for i in range(len(space.table))]


def node_local(p, tp, cp, ranks):
    best = 0
    for d in range(2, ranks):
        if ranks % d == 0 and d % cp == 0 and d * tp <= p.cluster.gpus_per_node:
            best = d
    return [best] if best else []


def brute_force(p):
    """Every configuration of the documented domains that the rules accept, built one by one."""
    m, w, world, fw = p.model, p.workload, p.cluster.n_gpus, p.framework
    grid = []
    modes = {"deepspeed": (0, 32), "pytorch": (0, 32), "torchtitan": (0, 6, 32)}.get(fw)
    modes = modes or ((0, 2 + 4, 2 + 16, 32) if m.moe else (0, 2, 2 + 16, 32))
    experts = m.moe.n_experts if m.moe else 1
    for tp, cp, pp in product(range(1, world + 1), repeat=3):
        if world % (tp * cp * pp) or tp > 8 or cp > max(1, w.seq_len // 1024) or pp > m.n_layers:
            continue
        dp = world // (tp * cp * pp)
        stages = STAGES[fw] if dp * cp > 1 else (ALONE[fw],)
        shards = {s: [dp * cp] + (node_local(p, tp, cp, dp * cp) if s and fw != "deepspeed" else []) for s in stages}
        for ep, etp, vp, schedule, mbs, comm, mode in product(
            range(1, experts + 1), sorted({1, tp} if m.moe else {1}), range(1, m.n_layers + 1), range(4), range(1, 13),
            range(3 if cp > 1 else 1), modes,
        ):  # fmt: skip
            chunks = pp * vp
            if vp > 4 and m.n_layers % chunks and (m.n_layers + 2) % chunks:
                continue
            if cp == 1:
                comm = 2 if fw == "deepspeed" else 0
            for stage in stages:
                for shard in shards[stage]:
                    c = ParallelConfig(
                        tp=tp, cp=cp, pp=pp, dp=dp, ep=ep, etp=etp, vp=vp, schedule=schedule, micro_batch_size=mbs,
                        cp_comm=comm, recompute=mode, zero_stage=stage, dp_shard=shard, sequence_parallel=int(tp > 1),
                        tp_overlap=0,  # pinned only
                        layer_split=natural_split(m.n_layers, pp, vp),
                    )  # fmt: skip
                    grid.append(c)
    broken = violations(m, w, p.cluster, fw, CandidateTable.from_configs(grid), placement=True)
    bad = np.logical_or.reduce(list(broken.values()))
    return {key(c) for c, refused in zip(grid, bad, strict=True) if not refused}


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_complete_and_legal_for_a_dense_model(make_problem, tiny, framework):
    p = make_problem(tiny, gpus=4, seq_len=2048, global_batch=12, framework=framework)
    found = [key(c) for c in rows(enumerate_space(p))]
    assert len(found) == len(set(found))
    assert set(found) == brute_force(p)


@pytest.mark.parametrize("framework", ["megatron-lm", "torchtitan"])
def test_complete_and_legal_for_experts(make_problem, tiny_moe, framework):
    p = make_problem(tiny_moe, gpus=2, seq_len=2048, global_batch=6, framework=framework)
    assert {key(c) for c in rows(enumerate_space(p))} == brute_force(p)


@pytest.mark.parametrize("framework", [*FRAMEWORKS, "any"])
def test_every_candidate_is_accounted_for(make_problem, framework):
    p = make_problem("mixtral-8x7b", nodes=3, seq_len=8192, global_batch=96, framework=framework)
    space = enumerate_space(p)
    assert space.enumerated == len(space.table) + sum(space.removed.values())
    assert all(n > 0 for n in space.removed.values())
    assert len(space.cell) == len(space.table)


def test_counts_do_not_depend_on_when_a_rule_is_applied(make_problem, tiny):
    """What a rule takes early is counted in whole candidates, not in the rows that there are at that moment."""
    p = make_problem(tiny, gpus=8, seq_len=2048, global_batch=6)
    space = enumerate_space(p)
    legal_dp = enumerate_space(make_problem(tiny, gpus=8, seq_len=2048, global_batch=6, pins={"dp": (1, 2)}))
    others = enumerate_space(make_problem(tiny, gpus=8, seq_len=2048, global_batch=6, pins={"dp": (4, 8)}))
    assert others.removed["batch"] == others.enumerated
    assert space.enumerated == legal_dp.enumerated + others.enumerated
    assert space.removed["batch"] == others.enumerated + legal_dp.removed.get("batch", 0)


def test_cells_hold_the_recompute_modes_of_one_configuration(make_problem):
    space = enumerate_space(make_problem(nodes=1))
    t = space.table
    for cell in np.unique(space.cell)[:50]:
        mine = np.flatnonzero(space.cell == cell)
        assert len(set(t.recompute[mine])) == len(mine)
        assert all(len(np.unique(t.columns[f][mine])) == 1 for f in CONFIG_FIELDS if not f.startswith("recompute"))


def test_pins_are_kept_and_outside_values_allowed(make_problem):
    p = make_problem(nodes=2, pins={"tp": (2, 4), "micro_batch_size": (32,), "zero_stage": (1,), "recompute": (32,)})
    space = enumerate_space(p)
    t = space.table
    assert set(t.tp) == {2, 4} and set(t.micro_batch_size) == {32} and set(t.zero_stage) == {1}
    assert set(t.recompute) == {32}
    both = enumerate_space(make_problem(nodes=2, pins={"sequence_parallel": (0, 1), "overlap_grad_reduce": (0, 1)}))
    assert set(both.table.sequence_parallel) == {0, 1} and set(both.table.overlap_grad_reduce) == {0, 1}
    layers = enumerate_space(make_problem(nodes=1, pins={"recompute": (32,), "recompute_layers": (3,)}))
    assert set(layers.table.recompute_layers) == {3}


def test_a_pin_selects_exactly_its_share_of_the_space(make_problem):
    whole = enumerate_space(make_problem(nodes=2)).table
    pinned = enumerate_space(make_problem(nodes=2, pins={"pp": (2,), "vp": (2, 4)})).table
    expected = {key(whole.row(i)) for i in np.flatnonzero((whole.pp == 2) & ((whole.vp == 2) | (whole.vp == 4)))}
    assert {key(pinned.row(i)) for i in range(len(pinned))} == expected and expected


def test_excludes_remove_conjunctions(make_problem):
    p = make_problem(nodes=2)
    whole = enumerate_space(p)
    fewer = enumerate_space(make_problem(nodes=2, excludes=({"tp": 8}, {"pp": 2, "vp": 2})))
    t = whole.table
    hit = (t.tp == 8) | ((t.pp == 2) & (t.vp == 2))
    assert fewer.removed["exclude"] == hit.sum() > 0
    assert len(fewer.table) == (~hit).sum()


def test_offload_only_when_allowed(make_problem):
    assert set(enumerate_space(make_problem()).table.optimizer_offload) == {0}
    assert set(enumerate_space(make_problem(allow=("offload",))).table.optimizer_offload) == {0, 1}


def test_tp_leaves_the_scale_up_domain_only_when_pinned(make_problem):
    assert enumerate_space(make_problem(nodes=4)).table.tp.max() == 8
    assert set(enumerate_space(make_problem(nodes=4, pins={"tp": (16,)})).table.tp) == {16}


def test_gpu_counts_need_not_be_powers_of_two(make_problem):
    p = make_problem("gpt3-175b", cluster="dgx-a100-80", nodes=15, seq_len=2048, global_batch=1920)
    t = enumerate_space(p).table
    assert (t.world_size == 120).all() and {3, 5, 15} & set(t.pp)


def test_candidate_numbers_stay_moderate(make_problem):
    for nodes in (1, 8, 256, 2048):
        p = make_problem("llama-3.1-70b", nodes=nodes, seq_len=8192, global_batch=4096)
        assert 0 < len(enumerate_space(p).table) < 500_000


def test_small_helpers():
    assert divisors(60) == [1, 2, 3, 4, 5, 6, 10, 12, 15, 20, 30, 60] and divisors(1) == [1]
    assert natural_split(32, 4, 2) == LayerSplit.EVEN
    assert natural_split(62, 8, 2) == LayerSplit.EMBEDDING_AND_LOSS_COUNT
    assert natural_split(31, 8, 1) == LayerSplit.LAYOUT


def test_any_is_the_union_of_the_frameworks(make_problem, tiny):
    p = make_problem(tiny, nodes=1, seq_len=4096, framework="any")
    whole = enumerate_space(p)
    alone = [{key(c) for c in rows(enumerate_space(replace(p, framework=f)))} for f in FRAMEWORKS]
    found = [key(c) for c in rows(whole)]
    assert len(found) == len(set(found)) and set(found) == set.union(*alone)
    assert whole.removed["duplicate"] == sum(map(len, alone)) - len(found) > 0
