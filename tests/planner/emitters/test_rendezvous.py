"""How a launch numbers its nodes: as the scheduler does, else as they arrive."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from sample_plans import LLAMA, plan_set

from meshwright.costmodels.parallel import ParallelConfig
from meshwright.planner.emitters import LaunchOptions, get


def words(tmp_path: Path, **env: str) -> list[str]:
    """What a launch hands to ``torchrun``, written down by a stand-in."""
    ps, plan = plan_set(LLAMA, ParallelConfig(tp=8, dp=4, sequence_parallel=1))
    (tmp_path / "launch.sh").write_text(get("megatron-lm").emit(ps, plan, LaunchOptions()).files["launch.sh"])
    stand_in = tmp_path / "torchrun"
    stand_in.write_text('#!/bin/bash\nprintf "%s\\n" "$@" > "$WORDS"\n')
    stand_in.chmod(0o755)
    base = {"PATH": f"{tmp_path}:/usr/bin:/bin", "WORDS": str(tmp_path / "words"), "MASTER_ADDR": "node7"}
    subprocess.run(["bash", "launch.sh"], cwd=tmp_path, env={**base, **env}, check=True, timeout=20)
    return (tmp_path / "words").read_text().split("\n")


@pytest.mark.parametrize("name", ["NODE_RANK", "SLURM_NODEID", "PET_NODE_RANK", "SKYPILOT_NODE_RANK"])
def test_node_ranks_of_a_scheduler_hold(tmp_path: Path, name: str) -> None:
    got = words(tmp_path, **{name: "2"})
    assert got[got.index("--node-rank") + 1] == "2"
    assert got[got.index("--master-addr") + 1] == "node7" and "--rdzv-backend" not in got
    assert got[got.index("--nnodes") + 1] == "4"


def test_a_placement_wins_over_the_scheduler(tmp_path: Path) -> None:
    got = words(tmp_path, NODE_RANK="3", SLURM_NODEID="0")
    assert got[got.index("--node-rank") + 1] == "3"


def test_without_a_scheduler_nodes_are_numbered_as_they_arrive(tmp_path: Path) -> None:
    got = words(tmp_path)
    assert got[got.index("--rdzv-endpoint") + 1] == "node7:29500" and "--node-rank" not in got
