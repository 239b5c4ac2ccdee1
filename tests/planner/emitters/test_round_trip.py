"""Our own Megatron-LM launches read back to the plan that they came from."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from sample_plans import random_plans

from meshwright.planner.emitters import LaunchOptions, get, write_bundle
from meshwright.planner.launch_reader import read_megatron_launch
from meshwright.planner.plan import Plan, PlanSet


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(random_plans())
def test_emitted_launch_reads_back(pair: tuple[PlanSet, Plan]) -> None:
    plan_set, plan = pair
    emitter = get("megatron-lm")
    assert emitter.refuse(plan_set, plan) is None
    bundle = emitter.emit(plan_set, plan, LaunchOptions())
    with tempfile.TemporaryDirectory() as folder:
        write_bundle(bundle, Path(folder) / "out")
        read = read_megatron_launch(Path(folder) / "out" / "launch.sh")
    problem = plan_set.problem
    assert read.config == plan.config
    assert (read.nodes, read.gpus_per_node) == (problem.cluster.nodes, problem.cluster.gpus_per_node)
    assert read.stage_layers in ((), plan.stage_layers)
    assert read.workload == problem.workload
    model = problem.model
    for name in ("n_layers", "hidden", "ffn_hidden", "vocab", "gated_ffn", "tied_embeddings", "norm", "mtp_layers"):
        assert getattr(read.model, name) == getattr(model, name), name
    assert read.model.moe == model.moe
    assert read.model.learned_positions == model.learned_positions
    assert read.model.attention.n_kv_heads == model.attention.n_kv_heads
    assert read.model.attention.windowed_layers == model.attention.windowed_layers
    assert read.model.params() == model.params()
    assert not [note for note in read.notes if "not read" in note], read.notes
