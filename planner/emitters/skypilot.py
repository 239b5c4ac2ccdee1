"""SkyPilot task around a ``launch.sh``: nodes of one kind of GPU, the launch folder as working directory.

Keys and variables: docs.skypilot.co, "Distributed Multi-Node Jobs" (``SKYPILOT_NODE_IPS``, ``SKYPILOT_NUM_NODES``) and
the task YAML's reference. GPU names are those of ``sky show-gpus``.
"""

from __future__ import annotations

import yaml

from ...hardware_profiles.errors import InvalidProblemError
from ..plan import PlanSet
from .base import LaunchOptions
from .slurm import job_name

#: our GPU -> SkyPilot's name; GPUs that no cloud of theirs rents are absent.
_ACCELERATOR = {
    "a100-sxm-40gb": "A100",
    "a100-sxm-80gb": "A100-80GB",
    "a10g-24gb": "A10G",
    "b200-sxm-180gb": "B200",
    "b300-sxm-288gb": "B300",
    "gb200-186gb": "GB200",
    "h100-sxm-80gb": "H100",
    "h200-sxm-141gb": "H200",
    "l4-24gb": "L4",
    "l40s-48gb": "L40S",
    "mi300x-192gb": "MI300X",
    "v100-sxm2-16gb": "V100",
    "v100-sxm2-32gb": "V100-32GB",
}
_RUN = """\
export NNODES="$SKYPILOT_NUM_NODES" JOB_ID="$SKYPILOT_TASK_ID" MASTER_PORT=29500
MASTER_ADDR="$(head -n1 <<< "$SKYPILOT_NODE_IPS")"
export MASTER_ADDR
bash launch.sh
"""


def task(plan_set: PlanSet, options: LaunchOptions) -> str:
    """Text of ``job.sky.yaml``.

    Raises:
        InvalidProblemError: SkyPilot rents no such GPU.
    """
    cluster = plan_set.problem.cluster
    name = _ACCELERATOR.get(cluster.gpu.name)
    if name is None:
        raise InvalidProblemError(
            f"SkyPilot has no name for {cluster.gpu.name} (it has {', '.join(sorted(_ACCELERATOR.values()))}); "
            "use --wrap torchrun or slurm."
        )
    resources: dict[str, object] = {"accelerators": f"{name}:{cluster.gpus_per_node}"}
    if cluster.nodes > 1:
        resources["network_tier"] = "best"
    if options.container_image:
        resources["image_id"] = f"docker:{options.container_image}"
    document = {
        "name": job_name(plan_set, options),
        "num_nodes": cluster.nodes,
        "workdir": ".",
        "resources": resources,
        "run": _RUN,
    }
    return yaml.safe_dump(document, sort_keys=False, width=110)
