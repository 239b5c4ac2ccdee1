"""The Slurm wrapper."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from sample_plans import LLAMA, plan_set

from meshwright.costmodels.parallel import ParallelConfig
from meshwright.hardware_profiles.errors import InvalidProblemError
from meshwright.planner.emitters import LaunchOptions, available, get


def job(**options: str) -> str:
    ps, plan = plan_set(LLAMA, ParallelConfig(tp=8, dp=4, sequence_parallel=1))
    bundle = get("megatron-lm").emit(ps, plan, LaunchOptions(wrap="slurm", **options))
    assert bundle.command == "sbatch job.sbatch"
    return bundle.files["job.sbatch"]


def test_directives() -> None:
    lines = job(partition="gpu", account="proj-1", time_limit="1-02:00:00", job_name="run_1").splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    head = [line for line in lines if line.startswith("#SBATCH")]
    assert lines[1 : 1 + len(head)] == head  # Slurm stops reading at the first command
    for text in ("nodes=4", "ntasks-per-node=1", "gpus-per-node=8", "partition=gpu", "account=proj-1"):
        assert f"#SBATCH --{text}" in head
    assert "#SBATCH --time=1-02:00:00" in head
    assert "#SBATCH --job-name=run_1" in head


def test_empty_directives_are_left_out() -> None:
    text = job()
    assert "--partition" not in text
    assert "--job-name=llama-like-8b" in text


@pytest.mark.parametrize("bad", ["a b", "x\n#SBATCH --uid=0", "$(id)", "a;b"])
def test_directives_cannot_be_injected(bad: str) -> None:
    with pytest.raises(InvalidProblemError, match="Slurm directive"):
        job(partition=bad)


def test_container_words_are_quoted() -> None:
    text = job(container_image="my image.sqsh", container_mounts="/a:/b")
    assert "'--container-image=my image.sqsh' --container-mounts=/a:/b bash launch.sh" in text


def test_runs_the_launch_on_the_first_node(tmp_path: Path) -> None:
    """Under fake Slurm commands the job exports what launch.sh reads."""
    (tmp_path / "job.sbatch").write_text(job())
    for name, body in {
        "scontrol": "printf 'node7\\nnode8\\nnode9\\nnode10\\n'",
        "srun": 'printf "%s\\n" "$MASTER_ADDR" "$MASTER_PORT" "$NNODES" "$JOB_ID" "$@" > words',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    env = {
        "PATH": f"{tmp_path}:/usr/bin:/bin",
        "SLURM_SUBMIT_DIR": str(tmp_path),
        "SLURM_JOB_NODELIST": "node[7-10]",
        "SLURM_JOB_NUM_NODES": "4",
        "SLURM_JOB_ID": "123456",
    }
    subprocess.run(["bash", "job.sbatch", "--x"], cwd=tmp_path, env=env, check=True, timeout=20)
    got = (tmp_path / "words").read_text().split("\n")[:-1]
    assert got == ["node7", "23456", "4", "123456", "--kill-on-bad-exit=1", "bash", "launch.sh", "--x"]


def test_every_emitter_can_be_wrapped() -> None:
    options = LaunchOptions(
        wrap="slurm", train_script="t.py", torchtitan_module="llama3", torchtitan_config="llama3_8b"
    )
    for name in available():
        framework = get(name).framework
        zero = 3 if framework in ("torchtitan", "pytorch") else 1
        ps, plan = plan_set(LLAMA, ParallelConfig(dp=8, zero_stage=zero), framework=framework)
        assert "job.sbatch" in get(name).emit(ps, plan, options).files
