"""Every candidate that the rules of a framework admit can be written as a launch file of that framework."""

from dataclasses import replace

import numpy as np
import pytest

from meshwright.costmodels.parallelism.pipeline import stage_layer_list
from meshwright.planner import emitters, plan
from meshwright.planner.space import enumerate_space

MODELS = ("llama-3.1-8b", "mixtral-8x7b", "deepseek-v2-lite", "qwen3-0.6b", "gpt3-1.3b")


@pytest.mark.parametrize("framework", ["megatron-lm", "torchtitan", "deepspeed", "pytorch"])
@pytest.mark.parametrize("model", MODELS)
def test_what_the_rules_admit_no_emitter_refuses(make_problem, framework, model):
    if framework not in emitters.available():
        pytest.skip(f"no emitter for {framework} yet")
    p = make_problem(model, nodes=6, seq_len=2048, global_batch=96, framework=framework)
    table = enumerate_space(p).table
    if not len(table):
        assert framework == "pytorch" and (p.model.moe or p.model.attention.kind == "mla")
        return
    found = plan(replace(p, fit_confidence=1e-6, top=1))
    emitter = emitters.get(framework)
    for i in np.random.default_rng(0).integers(len(table), size=250):
        config = table.row(int(i))
        layers = stage_layer_list(p.model.n_layers, config)
        candidate = replace(found.plans[0], config=config, stage_layers=layers, stage_layout=None)
        assert emitter.refuse(found, candidate) is None, config
