"""What the planner ranks for a framework, its emitter writes; and what is written reads back."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from sample_plans import plan_set

from meshwright.costmodels.load_model import load_model
from meshwright.costmodels.load_software import default_software
from meshwright.costmodels.model_spec import ModelSpec
from meshwright.costmodels.parallel import ParallelConfig
from meshwright.costmodels.rules import violations
from meshwright.costmodels.workload import Workload
from meshwright.hardware_profiles.load import load_cluster
from meshwright.planner import PlanningProblem, plan
from meshwright.planner.emitters import LaunchOptions, available, get, write_bundle
from meshwright.planner.launch_reader import read_megatron_launch

#: Emitters that write all that the planner ranks for their framework (accelerate writes a part of pytorch's).
FRAMEWORKS = tuple(name for name in available() if get(name).framework == name)
OPTIONS = LaunchOptions(train_script="train.py")
MODELS = ("llama-3.1-8b", "qwen3-30b-a3b", "deepseek-v3", "gpt3-1.3b", "gpt-oss-20b", "llama-3.2-1b")


def random_config(rng: random.Random, model: ModelSpec) -> ParallelConfig:
    """Any combination of modes, most of them against some rule."""
    tp, cp, pp, dp = (rng.choice(v) for v in ((1, 1, 2, 4), (1, 1, 1, 2), (1, 1, 2, 4), (1, 2, 4, 8)))
    return ParallelConfig(
        tp=tp,
        cp=cp,
        pp=pp,
        dp=dp,
        vp=rng.choice((1, 1, 2)),
        ep=rng.choice((1, 1, 2, 4)) if model.moe else 1,
        etp=rng.choice((1, tp)) if model.moe else 1,
        zero_stage=rng.choice((0, 1, 2, 3)),
        dp_shard=rng.choice((0, 0, max(1, dp * cp // 2))),
        recompute=rng.choice((0, 0, 1, 2, 4, 6, 8, 16, 32)),
        recompute_layers=rng.choice((0, 0, 2)),
        sequence_parallel=rng.choice((0, 1)),
        schedule=rng.choice((0, 0, 0, 1, 2, 3)),
        cp_comm=rng.choice((0, 1, 2)),
        overlap_grad_reduce=rng.choice((0, 1, 1)),
        overlap_param_gather=rng.choice((0, 1)),
        tp_overlap=rng.choice((0, 0, 1)),
        optimizer_offload=rng.choice((0, 0, 1)),
        layer_split=rng.choice((0, 0, 1)),
    )


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_what_the_rules_allow_is_written(framework: str) -> None:
    rng, emitter, allowed = random.Random(5), get(framework), 0
    models = [load_model(name) for name in MODELS]
    for _ in range(4000):
        model = rng.choice(models)
        config = random_config(rng, model)
        ps, candidate = plan_set(model, config, seq_len=2048, framework=framework)
        broken = violations(model, ps.problem.workload, ps.problem.cluster, framework, config)
        if any(bool(mask) for mask in broken.values()):
            continue
        allowed += 1
        assert emitter.refuse(ps, candidate) is None, config
    assert allowed > 10


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize(("model", "batch"), [("llama-3.1-70b", 512), ("gpt3-13b", 256)])
def test_every_ranked_plan_is_written(framework: str, model: str, batch: int, tmp_path: Path) -> None:
    cluster = load_cluster("dgx-h100", nodes=8)
    problem = PlanningProblem(
        model=load_model(model),
        cluster=cluster,
        workload=Workload(seq_len=2048, global_batch=batch),
        software=default_software(framework, cluster.gpu),
        framework=framework,
        top=60,
    )
    plans, emitter = plan(problem), get(framework)
    assert plans.plans
    for candidate in plans.plans:
        bundle = emitter.emit(plans, candidate, OPTIONS)
        if framework == "megatron-lm":
            write_bundle(bundle, tmp_path / str(candidate.rank))
            read = read_megatron_launch(tmp_path / str(candidate.rank) / "launch.sh")
            assert read.config == candidate.config
            assert read.stage_layers in ((), candidate.stage_layers)
