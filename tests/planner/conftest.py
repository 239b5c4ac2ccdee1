"""Requests for the planner's tests: shipped profiles at small sizes, and tiny models that can be searched by hand."""

from dataclasses import replace

import pytest

from meshwright.costmodels.load_model import load_model
from meshwright.costmodels.load_software import default_software
from meshwright.costmodels.model_spec import AttentionSpec, ModelSpec, MoeSpec
from meshwright.costmodels.workload import Workload
from meshwright.hardware_profiles.load import load_cluster
from meshwright.planner.problem import PlanningProblem

TINY = ModelSpec(
    name="tiny", family="llama", n_layers=6, hidden=2048, ffn_hidden=5632, vocab=32000,
    attention=AttentionSpec(n_heads=16, n_kv_heads=4, head_dim=128, v_head_dim=128),
)  # fmt: skip
TINY_MOE = replace(
    TINY, name="tiny-moe", n_layers=4,
    moe=MoeSpec(n_experts=6, top_k=2, ffn_hidden=1408, n_moe_layers=4),
)  # fmt: skip


@pytest.fixture(scope="session")
def make_problem():
    """``make_problem(model="llama-3.1-8b", nodes=1, gpus=None, seq_len=4096, global_batch=64, ...)``."""

    def make(
        model="llama-3.1-8b", *, cluster="dgx-h100", nodes=1, gpus=None, seq_len=4096, global_batch=64,
        framework="megatron-lm", precision="bf16", **changes,
    ):  # fmt: skip
        size = {"gpus": gpus} if gpus else {"nodes": nodes}
        where = load_cluster(cluster, **size)
        spec = load_model(model) if isinstance(model, str) else model
        work = Workload(seq_len=seq_len, global_batch=global_batch, precision=precision)
        software = default_software(framework, where.gpu)
        return PlanningProblem(
            model=spec, cluster=where, workload=work, software=software, framework=framework, **changes
        )

    return make


@pytest.fixture
def tiny():
    return TINY


@pytest.fixture
def tiny_moe():
    return TINY_MOE
