"""The SkyPilot wrapper; its own loader reads the task where SkyPilot is installed."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from sample_plans import LLAMA, plan_set

from meshwright.costmodels.parallel import ParallelConfig
from meshwright.hardware_profiles.errors import InvalidProblemError
from meshwright.hardware_profiles.load import list_gpus
from meshwright.planner.emitters import LaunchOptions, get
from meshwright.planner.emitters.skypilot import _ACCELERATOR, task
from meshwright.planner.plan import Plan, PlanSet


def planned(gpu: str = "h100-sxm-80gb") -> tuple[PlanSet, Plan]:
    ps, plan = plan_set(LLAMA, ParallelConfig(tp=8, dp=4, sequence_parallel=1))
    cluster = replace(ps.problem.cluster, gpu=replace(ps.problem.cluster.gpu, name=gpu))
    return replace(ps, problem=replace(ps.problem, cluster=cluster)), plan


def text(**options: Any) -> str:
    ps, plan = planned()
    bundle = get("megatron-lm").emit(ps, plan, LaunchOptions(wrap="skypilot", **options))
    assert bundle.command == "sky launch job.sky.yaml"
    return bundle.files["job.sky.yaml"]


def test_the_task_asks_for_the_planned_machines() -> None:
    made = yaml.safe_load(text(container_image="example.org/train:1"))
    assert set(made) == {"name", "num_nodes", "workdir", "resources", "run"}
    assert made["num_nodes"] == 4 and made["workdir"] == "."
    assert made["resources"] == {
        "accelerators": "H100:8",
        "network_tier": "best",
        "image_id": "docker:example.org/train:1",
    }


def test_the_first_address_is_the_master(tmp_path: Path) -> None:
    (tmp_path / "launch.sh").write_text('printf "%s\\n" "$NNODES" "$MASTER_ADDR" "$MASTER_PORT" "$JOB_ID" > words\n')
    env = {"SKYPILOT_NUM_NODES": "4", "SKYPILOT_NODE_IPS": "10.0.0.7\n10.0.0.8", "SKYPILOT_TASK_ID": "sky-1"}
    run = yaml.safe_load(text())["run"]
    subprocess.run(
        ["bash", "-euo", "pipefail", "-c", run], check=True, cwd=tmp_path, env={"PATH": "/usr/bin:/bin", **env}
    )
    assert (tmp_path / "words").read_text().split() == ["4", "10.0.0.7", "29500", "sky-1"]


def test_names_are_of_gpus_that_we_have() -> None:
    assert set(_ACCELERATOR) <= set(list_gpus())


def test_a_gpu_that_nobody_rents_is_refused() -> None:
    ps, _ = planned("h800-sxm-80gb")
    with pytest.raises(InvalidProblemError, match="h800-sxm-80gb"):
        task(ps, LaunchOptions())


def test_skypilot_itself_reads_the_task(tmp_path: Path) -> None:
    sky = pytest.importorskip("sky", reason="SkyPilot is not installed (pip install skypilot)")
    (tmp_path / "job.sky.yaml").write_text(text(container_image="example.org/train:1"))
    read = sky.Task.from_yaml(str(tmp_path / "job.sky.yaml"))
    assert read.num_nodes == 4
