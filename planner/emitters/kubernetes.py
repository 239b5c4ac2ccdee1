"""Kubeflow TrainJob around a ``launch.sh``: one pod a node, each running ``torchrun``.

Kubeflow Trainer 2, ``trainer.kubeflow.org/v1alpha1`` (kubeflow/trainer 8c0f5059, CRD of TrainJob; ``PET_*`` variables:
``pkg/constants/constants.go``). The launch files travel in a ConfigMap that every pod mounts; ``/dev/shm`` becomes
memory, because a pod's default of 64 MB is too little for NCCL. The container's image holds the framework.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from ...hardware_profiles.errors import InvalidProblemError
from ..plan import PlanSet
from .base import LaunchOptions
from .slurm import job_name

_RUNTIME = "torch-distributed"
_MOUNT = "/launch"
#: Bytes that one ConfigMap may hold (Kubernetes API, 1 MiB with its keys).
_LARGEST = 1_000_000
#: Device plug-ins' resource names.
_RESOURCE = {"nvidia": "nvidia.com/gpu", "amd": "amd.com/gpu"}
# files cannot be executed or changed where a ConfigMap is mounted, so they are copied first
_COMMAND = (
    f"mkdir -p ~/launch && cp -L {_MOUNT}/* ~/launch/ && cd ~/launch && "
    'NNODES="$PET_NNODES" MASTER_ADDR="$PET_MASTER_ADDR" MASTER_PORT="$PET_MASTER_PORT" exec bash launch.sh'
)


def dns_label(text: str) -> str:
    """A name that Kubernetes takes: lower-case letters, digits and hyphens, at most 63, no hyphen at its ends."""
    made = "".join(c if c.isascii() and c.isalnum() else "-" for c in text.lower())
    return made[:50].strip("-") or "meshwright"


def job_manifests(files: Mapping[str, str], plan_set: PlanSet, options: LaunchOptions) -> str:
    """Text of ``job.yaml``: the ConfigMap of the launch files and the TrainJob that mounts it.

    Raises:
        InvalidProblemError: the vendor has no device plug-in known here, or the files exceed a ConfigMap.
    """
    cluster = plan_set.problem.cluster
    resource = _RESOURCE.get(cluster.gpu.vendor.lower())
    if resource is None:
        raise InvalidProblemError(
            f"--wrap kubernetes knows the device plug-ins of {', '.join(_RESOURCE)}, not of {cluster.gpu.vendor}; "
            "use --wrap torchrun inside pods of your own."
        )
    if sum(len(text.encode()) for text in files.values()) > _LARGEST:
        raise InvalidProblemError(
            "The launch files exceed the 1 MiB of a ConfigMap; use --wrap torchrun in your image."
        )
    name = dns_label(job_name(plan_set, options))
    config_map = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": f"{name}-launch"},
        "data": dict(files),
    }
    trainer: dict[str, Any] = {
        "numNodes": cluster.nodes,
        "numProcPerNode": cluster.gpus_per_node,
        "command": ["bash", "-c", _COMMAND],
        "env": [{"name": "JOB_ID", "value": name}],
        "resourcesPerNode": {"limits": {resource: cluster.gpus_per_node}},
    }
    if options.container_image:
        trainer["image"] = options.container_image
    job = {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": {"name": name},
        "spec": {
            "runtimeRef": {"apiGroup": "trainer.kubeflow.org", "kind": "ClusterTrainingRuntime", "name": _RUNTIME},
            "trainer": trainer,
            "runtimePatches": [{"manager": "meshwright", "trainingRuntimeSpec": _pod_patch(name)}],
        },
    }
    return "---\n".join(yaml.safe_dump(part, sort_keys=False, width=110) for part in (config_map, job))


def _pod_patch(name: str) -> dict[str, Any]:
    """Volumes of the runtime's only job, both called ``node``: the launch files and shared memory."""
    pod = {
        "containers": [
            {
                "name": "node",
                "volumeMounts": [
                    {"name": "launch", "mountPath": _MOUNT, "readOnly": True},
                    {"name": "shared-memory", "mountPath": "/dev/shm"},
                ],
            }
        ],
        "volumes": [
            {"name": "launch", "configMap": {"name": f"{name}-launch"}},
            {"name": "shared-memory", "emptyDir": {"medium": "Memory"}},
        ],
    }
    job = {"name": "node", "template": {"spec": {"template": {"spec": pod}}}}
    return {"template": {"spec": {"replicatedJobs": [job]}}}
