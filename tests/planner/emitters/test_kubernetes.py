"""The TrainJob wrapper."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from sample_plans import LLAMA, plan_set

from meshwright.costmodels.parallel import ParallelConfig
from meshwright.hardware_profiles.errors import InvalidProblemError
from meshwright.planner.emitters import LaunchBundle, LaunchOptions, available, get
from meshwright.planner.emitters.kubernetes import dns_label, job_manifests

#: Keys of ``TrainJob.spec.trainer`` (trainer.kubeflow.org/v1alpha1): a CRD drops others in silence.
TRAINER_KEYS = {"args", "command", "env", "image", "numNodes", "numProcPerNode", "resourcesPerNode"}


def bundle(**options: Any) -> LaunchBundle:
    ps, plan = plan_set(LLAMA, ParallelConfig(tp=8, dp=4, sequence_parallel=1))
    return get("megatron-lm").emit(ps, plan, LaunchOptions(wrap="kubernetes", **options))


def manifests(**options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    config_map, job = yaml.safe_load_all(bundle(**options).files["job.yaml"])
    return config_map, job


def test_the_job_asks_for_the_planned_machines() -> None:
    config_map, job = manifests(container_image="example.org/train:1")
    assert job["apiVersion"] == "trainer.kubeflow.org/v1alpha1" and job["kind"] == "TrainJob"
    trainer = job["spec"]["trainer"]
    assert set(trainer) <= TRAINER_KEYS
    assert (trainer["numNodes"], trainer["numProcPerNode"]) == (4, 8)
    assert trainer["resourcesPerNode"]["limits"] == {"nvidia.com/gpu": 8}
    assert trainer["image"] == "example.org/train:1"
    assert config_map["metadata"]["name"] == job["metadata"]["name"] + "-launch"
    assert bundle().command == "kubectl apply -f job.yaml"
    assert "image" not in manifests()[1]["spec"]["trainer"]


def test_pods_mount_the_launch_files_as_they_are() -> None:
    made = bundle()
    config_map, job = manifests()
    assert config_map["data"] == {k: v for k, v in made.files.items() if k != "job.yaml"}
    (patch,) = job["spec"]["runtimePatches"]
    (node,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    pod = node["template"]["spec"]["template"]["spec"]
    mounted = {m["name"]: m["mountPath"] for m in pod["containers"][0]["volumeMounts"]}
    assert {v["name"] for v in pod["volumes"]} == set(mounted)
    assert mounted["shared-memory"] == "/dev/shm"
    assert pod["volumes"][0]["configMap"]["name"] == config_map["metadata"]["name"]


def test_the_command_hands_the_rendezvous_to_the_launch(tmp_path: Path) -> None:
    """Run as in a pod, with the mount and the launch replaced by ones of this test."""
    _, job = manifests()
    mount = tmp_path / "mount"
    mount.mkdir()
    (mount / "launch.sh").write_text('printf "%s\\n" "$NNODES" "$MASTER_ADDR" "$MASTER_PORT" > words\n')
    shell, dash_c, command = job["spec"]["trainer"]["command"]
    env = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    env |= {"PET_NNODES": "4", "PET_MASTER_ADDR": "job-node-0-0.job", "PET_MASTER_PORT": "29400"}
    subprocess.run([shell, dash_c, command.replace("/launch/*", f"{mount}/*")], check=True, env=env, timeout=20)
    assert (tmp_path / "launch" / "words").read_text().split() == ["4", "job-node-0-0.job", "29400"]


@given(st.text(max_size=90))
def test_any_name_becomes_a_dns_label(text: str) -> None:
    name = dns_label(text)
    assert 1 <= len(name) + len("-launch") <= 63
    assert all(c in "abcdefghijklmnopqrstuvwxyz0123456789-" for c in name)
    assert name[0] != "-" and name[-1] != "-"


def test_hostile_text_stays_a_value() -> None:
    hostile = 'x"\n  hostNetwork: true\n---\nkind: Pod'
    _, job = manifests(container_image=hostile)
    assert job["spec"]["trainer"]["image"] == hostile


def test_an_unknown_vendor_and_too_large_a_bundle_are_refused() -> None:
    ps, _ = plan_set(LLAMA, ParallelConfig(tp=8, dp=4, sequence_parallel=1))
    with pytest.raises(InvalidProblemError, match="ConfigMap"):
        job_manifests({"launch.sh": "x" * 1_100_000}, ps, LaunchOptions())
    cluster = replace(ps.problem.cluster, gpu=replace(ps.problem.cluster.gpu, vendor="acme"))
    with pytest.raises(InvalidProblemError, match="acme"):
        job_manifests({}, replace(ps, problem=replace(ps.problem, cluster=cluster)), LaunchOptions())


def test_every_emitter_can_be_wrapped() -> None:
    options = LaunchOptions(
        wrap="kubernetes", train_script="t.py", torchtitan_module="llama3", torchtitan_config="llama3_8b"
    )
    for name in available():
        framework = get(name).framework
        zero = 1 if framework in ("megatron-lm", "deepspeed") else 3
        ps, plan = plan_set(LLAMA, ParallelConfig(dp=32, zero_stage=zero), framework=framework)
        assert len(list(yaml.safe_load_all(get(name).emit(ps, plan, options).files["job.yaml"]))) == 2
