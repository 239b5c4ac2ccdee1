"""Slurm batch script around a ``launch.sh``: one task a node, each running ``torchrun``."""

from __future__ import annotations

import shlex

from ...hardware_profiles.errors import InvalidProblemError
from ..plan import Plan, PlanSet
from .base import LaunchOptions
from .shell import comment, script


def directive(name: str, value: object) -> str:
    """One ``#SBATCH`` line; a value that would need quoting or a new line is refused, Slurm reads no quotes there."""
    text = str(value)
    if not text or shlex.quote(text) != text:
        raise InvalidProblemError(
            f"{text!r} cannot stand in a Slurm directive (--{name}); use letters, digits and any of @%+=:,./_- only."
        )
    return f"#SBATCH --{name}={text}"


def job_name(plan_set: PlanSet, options: LaunchOptions) -> str:
    """The user's name, or one made of the model's letters and digits."""
    made = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in plan_set.problem.model.name)
    return options.job_name or made.strip("-") or "meshwright"


def job_script(plan_set: PlanSet, plan: Plan, options: LaunchOptions) -> str:
    """Text of ``job.sbatch`` (directives per Slurm's sbatch manual; containers as in NVIDIA's Pyxis plug-in)."""
    cluster = plan_set.problem.cluster
    lines = [
        directive("job-name", job_name(plan_set, options)),
        directive("nodes", cluster.nodes),
        directive("ntasks-per-node", 1),
        directive("gpus-per-node", cluster.gpus_per_node),
        "#SBATCH --exclusive",
        directive("output", "%x-%j.out"),
    ]
    for name, value in (
        ("partition", options.partition),
        ("account", options.account),
        ("time", options.time_limit),
    ):
        if value:
            lines.append(directive(name, value))
    srun = ["srun", "--kill-on-bad-exit=1"]
    if options.container_image:
        srun.append(f"--container-image={options.container_image}")
    if options.container_mounts:
        srun.append(f"--container-mounts={options.container_mounts}")
    lines += [
        *comment(f"Plan {plan.rank}: {plan.config.world_size} GPUs, one torchrun a node."),
        "set -euo pipefail",
        "",
        'cd "${SLURM_SUBMIT_DIR:-.}"',
        'mapfile -t HOSTS < <(scontrol show hostnames "$SLURM_JOB_NODELIST")',
        'MASTER_ADDR="${HOSTS[0]}"',
        'NNODES="$SLURM_JOB_NUM_NODES"',
        'JOB_ID="$SLURM_JOB_ID"',
        'MASTER_PORT="$(( 20000 + SLURM_JOB_ID % 20000 ))"',
        "export MASTER_ADDR MASTER_PORT NNODES JOB_ID",
        "",
        f'{shlex.join(srun)} bash launch.sh "$@"',
    ]
    return script(lines)
