"""Host files against golden ones, read back, and run by bash.

After a wanted change write them anew, and read the difference before keeping it:

    MESHWRIGHT_WRITE_GOLDEN=1 python -m pytest tests/planner/emitters/test_placement_files.py
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshwright.costmodels.parallel import ParallelConfig
from meshwright.hardware_profiles.errors import InvalidProblemError
from meshwright.planner.emitters.base import write_bundle
from meshwright.planner.emitters.placement_files import (
    HostPlacement,
    mesh_of,
    placement_bundle,
    read_hostfile,
    read_hosts,
    read_placement,
    read_rankfile,
)

GOLDEN = Path(__file__).parents[2] / "golden" / "placement"
THREE = HostPlacement(
    hosts=("n07", "n01.cluster.local", "n03"),
    gpus_per_node=4,
    mesh=mesh_of(ParallelConfig(tp=4, pp=3)),
    gpu_order={"n03": (2, 3, 0, 1)},
)


def test_files_are_the_golden_ones():
    bundle = placement_bundle(THREE, title="a model, plan 1", cores_per_gpu=12)
    if os.environ.get("MESHWRIGHT_WRITE_GOLDEN"):
        shutil.rmtree(GOLDEN, ignore_errors=True)
        write_bundle(bundle, GOLDEN)
    assert {p.name: p.read_text(encoding="utf-8") for p in GOLDEN.iterdir()} == dict(bundle.files)


HOSTS = st.from_regex(r"[a-z][a-z0-9]{0,5}(-[0-9]{1,3})?(\.[a-z]{2})?", fullmatch=True)


@given(
    hosts=st.lists(HOSTS, min_size=1, unique=True),
    gpus=st.integers(1, 8),
    cores=st.integers(1, 16),
    data=st.data(),
)  # fmt: skip
def test_every_file_reads_back_as_the_same_placement(hosts, gpus, cores, data):
    odd = data.draw(st.lists(st.sampled_from(hosts), unique=True, max_size=2))
    placement = HostPlacement(
        hosts=tuple(hosts),
        gpus_per_node=gpus,
        mesh={"pp": len(hosts), "dp": 1, "cp": 1, "tp": gpus},
        gpu_order={h: tuple(reversed(range(gpus))) for h in odd},
    )
    files = placement_bundle(placement, cores_per_gpu=cores).files
    assert read_placement(files["placement.json"]) == placement
    plain = HostPlacement(hosts=placement.hosts, gpus_per_node=gpus)
    assert read_hostfile(files["hostfile"]) == plain == read_rankfile(files["rankfile"])
    assert read_hosts(files["hosts.txt"]) == placement.hosts == read_hosts(files["slurm_hostfile"])


def source(folder, host):
    shown = "$NODE_RANK $MASTER_ADDR $NNODES ${CUDA_VISIBLE_DEVICES:-all} ${PLACED_TORCHRUN_ARGS[@]}"
    show = f"source ./node_env.sh; echo {shown}"
    environment = {"PATH": os.environ["PATH"], "MESHWRIGHT_HOST": host}
    return subprocess.run(["bash", "-euc", show], cwd=folder, env=environment, capture_output=True, text=True)


def test_every_node_learns_its_rank_and_its_gpus(tmp_path):
    write_bundle(placement_bundle(THREE), tmp_path / "out")
    said = [source(tmp_path / "out", host).stdout.split() for host in ("n07", "n01", "n01.cluster.local", "n03")]
    assert [s[:4] for s in said] == [
        ["0", "n07", "3", "all"],
        ["1", "n07", "3", "all"],
        ["1", "n07", "3", "all"],
        ["2", "n07", "3", "2,3,0,1"],
    ]
    assert " ".join(said[3][4:]) == (
        "--nnodes 3 --nproc-per-node 4 --node-rank 2 --master-addr n07 --master-port 29500"
    )
    stranger = source(tmp_path / "out", "elsewhere")
    assert stranger.returncode == 2 and "not among the placed hosts" in stranger.stderr


def test_hosts_with_one_short_name_are_told_apart_by_their_whole_names(tmp_path):
    write_bundle(placement_bundle(HostPlacement(hosts=("n1.east", "n1.west"), gpus_per_node=8)), tmp_path / "out")
    assert source(tmp_path / "out", "n1.west").stdout.split()[0] == "1"
    assert source(tmp_path / "out", "n1").returncode == 2


def test_scripts_pass_shellcheck(tmp_path):
    checker = shutil.which("shellcheck")
    if checker is None:
        pytest.skip("shellcheck is not installed")
    write_bundle(placement_bundle(THREE), tmp_path / "out")
    scripts = [tmp_path / "out" / n for n in ("node_env.sh", "job_placed.sbatch")]
    done = subprocess.run(
        [checker, "-x", "-e", "SC2016", *scripts], capture_output=True, text=True, cwd=tmp_path / "out"
    )
    assert done.returncode == 0, done.stdout


BAD = {
    "not json": (read_placement, "hosts"),
    "another schema": (read_placement, '{"schema": "meshwright.plan/v1"}'),
    "gaps in ranks": (
        read_placement,
        placement_bundle(THREE).files["placement.json"].replace('"node_rank": 1', '"node_rank": 3'),
    ),
    "no slots": (read_hostfile, "n1\nn2\n"),
    "uneven slots": (read_hostfile, "n1 slots=8\nn2 slots=4\n"),
    "no rank": (read_rankfile, "n1 slot=0\n"),
    "rank twice": (read_rankfile, "rank 0=n1 slot=0\nrank 0=n2 slot=0\n"),
    "ranks mixed": (read_rankfile, "rank 0=n1 slot=0\nrank 1=n2 slot=0\nrank 2=n1 slot=1\nrank 3=n2 slot=1\n"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_placement_is_refused(case):
    read, text = BAD[case]
    with pytest.raises(InvalidProblemError):
        read(text)


def test_names_that_could_be_commands_are_refused():
    for host in ("n1; rm -rf", "$(id)", "", "-n", "n 1", "n\n2"):
        with pytest.raises(InvalidProblemError, match="no host name"):
            HostPlacement(hosts=(host,), gpus_per_node=8)
    with pytest.raises(InvalidProblemError, match="cores-per-gpu"):
        placement_bundle(THREE, cores_per_gpu=0)
