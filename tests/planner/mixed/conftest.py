"""Small requests on clusters of pools."""

from dataclasses import replace

import pytest

from meshwright.costmodels.load_model import load_model
from meshwright.costmodels.load_software import default_software
from meshwright.costmodels.workload import Workload
from meshwright.hardware_profiles.load import load_cluster
from meshwright.hardware_profiles.mixed import Link, MixedCluster
from meshwright.planner.mixed.problem import MixedProblem


@pytest.fixture
def make_mixed():
    """``make_mixed(pools=(("dgx-h100", 1), ("dgx-a100-80", 2)), model="llama-3.1-8b", link=..., ...)``."""

    def make(
        pools=(("dgx-h100", 1), ("dgx-a100-80", 2)), *, model="llama-3.1-8b", layers=None, seq_len=4096,
        global_batch=64, rate=25e9, total=0.0, kind="infiniband", precision="bf16", optimizer="adam_fp32", **changes,
    ):  # fmt: skip
        found = tuple(
            replace(load_cluster(cluster, nodes=nodes), name="abcd"[i]) for i, (cluster, nodes) in enumerate(pools)
        )
        names = [pool.name for pool in found]
        between = tuple(
            Link(pools=(a, b), kind=kind, bytes_per_s=rate, total_bytes_per_s=total, latency_s=5e-6)
            for i, a in enumerate(names)
            for b in names[i + 1 :]
        )
        spec = load_model(model)
        if layers is not None:
            moe = replace(spec.moe, n_moe_layers=layers) if spec.moe else None
            spec = replace(spec, n_layers=layers, moe=moe)
        return MixedProblem(
            model=spec,
            cluster=MixedCluster(name="mix", pools=found, between=between),
            workload=Workload(seq_len=seq_len, global_batch=global_batch, precision=precision, optimizer=optimizer),
            software=tuple(default_software("megatron-lm", pool.gpu) for pool in found),
            **changes,
        )

    return make
