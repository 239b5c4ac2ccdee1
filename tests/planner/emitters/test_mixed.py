"""Launch files of plans on clusters of pools."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from meshwright.costmodels.load_model import load_model
from meshwright.costmodels.load_software import default_software
from meshwright.costmodels.parallel import Recompute
from meshwright.costmodels.workload import Workload
from meshwright.hardware_profiles.errors import InvalidProblemError, UnsupportedByFrameworkError
from meshwright.hardware_profiles.load import load_cluster
from meshwright.hardware_profiles.mixed import Link, MixedCluster
from meshwright.planner.emitters import LaunchOptions, flagscale, get_mixed, megatron_mixed
from meshwright.planner.mixed.plan import ONE_POOL, PIPELINE, REPLICAS, MixedPlan, MixedPlanSet, MixedSearch, MixedStage
from meshwright.planner.mixed.plan import Pipelines as Group
from meshwright.planner.mixed.problem import MixedProblem

OPTIONS = LaunchOptions()


def stage(pool: str, layers: int, tp: int = 4, recompute: int = 0) -> MixedStage:
    return MixedStage(
        pool=pool, tp=tp, cp=1, layers=layers, recompute=recompute, micro_batch_s=0.1, peak_bytes=5e10, memory_share=0.6
    )


def group(stages: list[MixedStage], dp: int = 2, vp: int = 1) -> Group:
    m = 64 // dp
    return Group(dp=dp, micro_batch_size=1, micro_batches=m, vp=vp, stages=tuple(stages), step_s=9.0)


def plans(*groups: Group, shape: str = PIPELINE, model: str = "llama-3.1-8b") -> tuple[MixedPlanSet, MixedPlan]:
    pools = (
        replace(load_cluster("dgx-a100-80", nodes=2), name="a100"),
        replace(load_cluster("dgx-h100", nodes=1), name="h100"),
    )
    problem = MixedProblem(
        model=load_model(model),
        cluster=MixedCluster(
            name="mix", pools=pools, between=(Link(pools=("a100", "h100"), kind="infiniband", bytes_per_s=25e9),)
        ),
        workload=Workload(seq_len=4096, global_batch=64),
        software=tuple(default_software("megatron-lm", p.gpu) for p in pools),
    )
    gpus = sum(s.tp * s.cp * g.dp for g in groups for s in g.stages)
    plan = MixedPlan(
        rank=1,
        shape=shape,
        groups=groups,
        ep=1,
        metrics={"step_s": 10.0, "gpus": float(gpus)},
        time_s={"stage_s": 10.0},
    )
    search = MixedSearch(enumerated=1, priced=1, feasible=1, optimality="one plan", bound_s=10.0)
    return MixedPlanSet(problem=problem, plans=(plan,), single=(), search=search), plan


UNEVEN = group([stage("a100", 8), stage("a100", 9), stage("h100", 15)])


def words(text: str, array: str) -> list[str]:
    body = text.split(f"{array}=(\n")[1].split("\n)")[0]
    return body.split()


def test_uneven_stages_become_a_layout() -> None:
    ps, plan = plans(UNEVEN)
    text = megatron_mixed.emit(ps, plan, OPTIONS).files["launch.sh"]
    parallel = words(text, "PARALLEL_ARGS")
    assert parallel[parallel.index("--pipeline-model-parallel-layout") + 1] == "'Et*8|t*9|t*15L'"
    assert parallel[parallel.index("--tensor-model-parallel-size") + 1] == "4"
    assert parallel[parallel.index("--pipeline-model-parallel-size") + 1] == "3"
    assert "--use-tp-pp-dp-mapping" not in parallel


def test_replicas_are_blocks_of_ranks_with_an_optimizer_each() -> None:
    layers = [16, 16]
    ps, plan = plans(
        group([stage("a100", n) for n in layers], dp=1), group([stage("h100", n) for n in layers], dp=1), shape=REPLICAS
    )
    parallel = words(megatron_mixed.emit(ps, plan, OPTIONS).files["launch.sh"], "PARALLEL_ARGS")
    assert "--use-tp-pp-dp-mapping" in parallel
    assert parallel[parallel.index("--num-distributed-optimizer-instances") + 1] == "2"


def run(folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    (folder / "torchrun").write_text('#!/bin/bash\nprintf "%s\\n" "$@" > words\n')
    (folder / "torchrun").chmod(0o755)
    return subprocess.run(
        ["bash", "launch.sh"],
        cwd=folder,
        env={"PATH": f"{folder}:/usr/bin:/bin", **env},
        capture_output=True,
        text=True,
        check=False,
    )


def test_node_ranks_follow_the_pools(tmp_path: Path) -> None:
    ps, plan = plans(UNEVEN)
    (tmp_path / "launch.sh").write_text(megatron_mixed.emit(ps, plan, OPTIONS).files["launch.sh"])
    ranks = {}
    for pool, nodes in (("a100", 2), ("h100", 1)):
        for node in range(nodes):
            done = run(tmp_path, POOL=pool, NODE_RANK=str(node), MASTER_ADDR="n0")
            assert done.returncode == 0, done.stderr
            said = (tmp_path / "words").read_text().splitlines()
            ranks[pool, node] = int(said[said.index("--node-rank") + 1])
            assert said[said.index("--nnodes") + 1] == "3" and said[said.index("--nproc-per-node") + 1] == "8"
    assert ranks == {("a100", 0): 0, ("a100", 1): 1, ("h100", 0): 2}


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({}, "set POOL"),
        ({"POOL": "v100", "NODE_RANK": "0"}, "a100, h100"),
        ({"POOL": "h100"}, "set NODE_RANK"),
        ({"POOL": "h100", "NODE_RANK": "1"}, "0 to 0"),
        ({"POOL": "h100", "NODE_RANK": "0"}, "set MASTER_ADDR"),
    ],
)
def test_a_node_that_says_too_little_stops(tmp_path: Path, env: dict[str, str], said: str) -> None:
    ps, plan = plans(UNEVEN)
    (tmp_path / "launch.sh").write_text(megatron_mixed.emit(ps, plan, OPTIONS).files["launch.sh"])
    done = run(tmp_path, **env)
    assert done.returncode == 2 and said in done.stderr


def test_slurm_components_and_their_steps(tmp_path: Path) -> None:
    """Under fake Slurm commands every pool gets a step of its own with its name and the first node's address."""
    ps, plan = plans(UNEVEN)
    options = LaunchOptions(wrap="slurm", partition="h100:big,a100:old", time_limit="02:00:00")
    bundle = megatron_mixed.emit(ps, plan, options)
    text = bundle.files["job.sbatch"]
    first, second = text.split("#SBATCH hetjob")
    assert "--nodes=2" in first and "--partition=old" in first and "--time=02:00:00" in first
    assert "--nodes=1" in second and "--partition=big" in second
    (tmp_path / "job.sbatch").write_text(text)
    (tmp_path / "launch.sh").write_text('echo "$POOL $NODE_RANK $MASTER_ADDR $*" >> said\n')
    for name, body in {
        "scontrol": "printf 'node7\\nnode8\\n'",
        "srun": 'while [[ "$1" == --* ]]; do shift; done\nSLURM_NODEID=3 exec "$@"',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_NODELIST_HET_GROUP_0": "node[7-8]", "SLURM_JOB_ID": "5"}
    done = subprocess.run(
        ["bash", "job.sbatch", "--more"], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert sorted((tmp_path / "said").read_text().splitlines()) == ["a100 3 node7 --more", "h100 3 node7 --more"]


def test_partitions_name_pools() -> None:
    ps, plan = plans(UNEVEN)
    with pytest.raises(InvalidProblemError, match="for the pools a100, h100"):
        megatron_mixed.emit(ps, plan, LaunchOptions(wrap="slurm", partition="v100:x"))
    text = megatron_mixed.emit(ps, plan, LaunchOptions(wrap="slurm", partition="gpu")).files["job.sbatch"]
    assert text.count("--partition=gpu") == 2


@pytest.mark.parametrize(
    ("stages", "word"),
    [
        ([stage("a100", 10, tp=4), stage("h100", 22, tp=2)], "tensor-parallel degrees"),
        ([stage("a100", 10), stage("h100", 22, recompute=int(Recompute.FULL))], "recomputation"),
    ],
)
def test_megatron_refuses_what_differs_and_says_the_way_out(stages: list[MixedStage], word: str) -> None:
    ps, plan = plans(group(stages))
    with pytest.raises(UnsupportedByFrameworkError, match=f"differ in their {word}.*--framework megatron-lm"):
        megatron_mixed.emit(ps, plan, OPTIONS)


def test_unequal_shares_are_refused() -> None:
    one, two = group([stage("a100", 32)], dp=4), replace(group([stage("h100", 32)], dp=2), micro_batches=8)
    ps, plan = plans(one, two, shape=REPLICAS)
    with pytest.raises(UnsupportedByFrameworkError, match="numbers of micro-batches"):
        megatron_mixed.emit(ps, plan, OPTIONS)


def meshes(**changes: object) -> dict[str, object]:
    ps, plan = plans(group([stage("a100", 8, tp=4), stage("a100", 9, tp=4), stage("h100", 15, tp=2)]))
    return yaml.safe_load(flagscale.emit(ps, plan, OPTIONS).files["train/plan.yaml"])


def test_flagscale_meshes_pass_its_own_checks() -> None:
    """The conditions of FlagScale's ``pre_validate_args`` of 2025, on what is written."""
    found = meshes()
    hetero, system, model = found["system"]["hetero"], found["system"], found["model"]
    flat = hetero["hetero_process_meshes"]
    assert len(flat) % 5 == 0 and flat == [4, 1, 1, 2, 2, 2, 1, 1, 2, 1]
    tp, cp, dp, pp = flat[0::5], flat[1::5], flat[3::5], flat[4::5]
    assert len(set(tp)) == 1 or system["sequence_parallel"] is True
    assert all(dp[0] * model["micro_batch_size"] % d == 0 for d in dp) and len(set(cp)) == 1
    assert system["pipeline_model_parallel_size"] == sum(pp) == len(hetero["hetero_pipeline_layer_split"])
    assert sum(hetero["hetero_pipeline_layer_split"]) == model["num_layers"]
    assert len(tp) == len(hetero["hetero_device_types"])
    assert hetero["hetero_current_device_type"] in hetero["hetero_device_types"]
    assert "pipeline_model_parallel_layout" not in system


def test_flagscale_hosts_are_ordered_by_pool() -> None:
    ps, plan = plans(UNEVEN)
    bundle = flagscale.emit(ps, plan, OPTIONS)
    assert [line.split()[-1] for line in bundle.files["hostfile"].splitlines()] == ["type=a100"] * 2 + ["type=h100"]
    assert yaml.safe_load(bundle.files["config.yaml"])["experiment"]["runner"]["nnodes"] == 3


def test_flagscale_recomputes_by_stage() -> None:
    full = int(Recompute.FULL)
    ps, plan = plans(group([stage("a100", 8), stage("a100", 9), stage("h100", 15, recompute=full)]))
    system = yaml.safe_load(flagscale.emit(ps, plan, OPTIONS).files["train/plan.yaml"])["system"]
    assert system["recompute_granularity"] == "full"
    assert system["recompute_granularity_per_stage_micro_batch"] == ["[1, 32, 0]", "[1, 32, 0]", "[1, 32, 1]"]
    mixed = group([stage("a100", 10, recompute=int(Recompute.NORM)), stage("h100", 22, recompute=full)])
    with pytest.raises(UnsupportedByFrameworkError, match="full or none"):
        flagscale.emit(*plans(mixed), OPTIONS)


def test_flagscale_refuses_other_shapes_and_interleaving() -> None:
    ps, plan = plans(group([stage("a100", 16), stage("h100", 16)], vp=2))
    assert "interleaving" in str(flagscale.refuse(ps, plan))
    ps, plan = plans(group([stage("a100", 32)], dp=4), group([stage("h100", 32)], dp=2), shape=REPLICAS)
    assert "stages of one pipeline" in str(flagscale.refuse(ps, plan))
    tied = group([stage("a100", 8, tp=4), stage("h100", 8, tp=2)])
    ps, plan = plans(tied, model="llama-3.2-1b")
    assert "tied embeddings" in str(flagscale.refuse(ps, plan))


def test_a_plan_on_one_pool_is_an_ordinary_launch() -> None:
    from meshwright.costmodels.parallel import ParallelConfig

    ps, plan = plans(group([stage("h100", 32)], dp=2), shape=ONE_POOL)
    config = ParallelConfig(tp=4, dp=2, sequence_parallel=1)
    text = megatron_mixed.emit(ps, replace(plan, config=config), OPTIONS).files["launch.sh"]
    assert "--rdzv-backend c10d" in text and "POOL" not in text


def test_the_registry() -> None:
    assert get_mixed("megatron-lm") is megatron_mixed.emit and get_mixed("flagscale") is flagscale.emit
    with pytest.raises(UnsupportedByFrameworkError, match="megatron-lm, flagscale, not for deepspeed"):
        get_mixed("deepspeed")
    with pytest.raises(InvalidProblemError, match=r"no emitter 'flagscal'.*flagscale"):
        get_mixed("flagscal")


@pytest.mark.parametrize("wrap", ["torchrun", "slurm"])
def test_scripts_are_clean(tmp_path: Path, wrap: str) -> None:
    import shutil
    import sys

    shellcheck = shutil.which("shellcheck", path=str(Path(sys.executable).parent)) or shutil.which("shellcheck")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed")
    ps, plan = plans(UNEVEN)
    bundle = megatron_mixed.emit(ps, plan, LaunchOptions(wrap=wrap))
    for name, text in bundle.files.items():
        if name.endswith((".sh", ".sbatch")):
            (tmp_path / name).write_text(text)
            # SC2016: the node's number must expand on the node, not in the job script
            done = subprocess.run(
                [shellcheck, "-e", "SC2016", str(tmp_path / name)], capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stdout
    manifest = json.loads(bundle.files["launch.json"])
    assert manifest["stage_layers"] == [8, 9, 15] and [b["pool"] for b in manifest["nodes"]] == ["a100", "h100"]
