"""The profiles that peers ship, where they are at hand."""

import os
from pathlib import Path

import pytest

from meshwright.planner.layer_profiles import galvatron, piper
from meshwright.planner.solvers.chain_partition import ChainSolver
from meshwright.planner.solvers.chain_problem import ChainProblem, largest_load
from meshwright.planner.solvers.result import Termination

ROOT = Path(__file__).resolve().parents[3]
PEERS = Path(os.environ.get("MESHWRIGHT_DATA", ROOT.parent / "shared" / "data")) / "peers"
pytestmark = pytest.mark.skipif(not PEERS.is_dir(), reason="the profiles of peers are not at hand (MESHWRIGHT_DATA)")


def test_bert_32_is_solved_to_the_load_that_piper_reaches():
    problem = ChainProblem(
        profile=piper.read(PEERS / "piper" / "bert32a100.json"),
        devices=512,
        memory_bytes=8 * 2**30,
        bandwidth_bytes_per_s=25 * 2**30,
        micro_batches=1920,
    )
    found = ChainSolver().solve(problem)
    assert found.termination == Termination.OPTIMAL
    assert found.objective == largest_load(problem, found.value) == pytest.approx(0.00256112784601251, rel=1e-12)


@pytest.mark.parametrize(("name", "layers", "edges"), [("bert32a100", 37, 67), ("gnmt", 78, 104), ("resnet", 177, 193)])
def test_every_piper_workload_reads(name, layers, edges):
    profile = piper.read(PEERS / "piper" / f"{name}.json", seconds_per_unit=1e-3)
    assert (len(profile.layers), len(profile.edges)) == (layers, edges)
    assert profile.stated["devices"] == 10 and all(e.source < e.target for e in profile.edges)


def test_galvatron_llama_2_7b_reads():
    folder = PEERS / "galvatron" / "llama2-7b"
    name = "profiling_bf16_llama2-7b_all.json"
    profile = galvatron.read(folder / f"computation_{name}", folder / f"memory_{name}", layers=32)
    assert len(profile.layers) == 34 and len(profile.settings) == 4 * 12
    plain, again = profile.layers[1].variants(("", 1, 1))
    assert plain.forward_s == pytest.approx(4.396252679824831e-3)
    assert plain.fixed_bytes == pytest.approx(4 * 778.2236328125 * 2**20)
    assert again.in_flight_bytes == 32 * 2**20
