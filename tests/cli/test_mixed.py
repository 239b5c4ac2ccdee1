"""``meshwright plan`` and ``export`` on a cluster of pools."""

import json
from pathlib import Path

import pytest

from meshwright.cli.main import run

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "h100-and-a100.yaml"
REQUEST = ["llama-3.1-8b", "--cluster", str(EXAMPLE), "--seq-len", "4096", "--global-batch", "64", "--pin", "cp=1"]


@pytest.fixture(scope="module")
def mixed_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("mixed") / "plan.json"
    assert run(["plan", *REQUEST, "--out", str(path)]) == 0
    return path


def test_tables_fit_and_name_pools(cli):
    out = cli("plan", *REQUEST, "--top", "4").out
    assert max(map(len, out.splitlines())) <= 100
    assert out.startswith("rank shape")
    assert "rank 1, stage by stage" in out and "pool alone" in out and "times as fast as the best pool alone" in out
    assert "optimal over the enumerated space" in " ".join(out.split())


def test_json_is_alone_and_repeats_byte_for_byte(cli, mixed_file):
    out = cli("plan", *REQUEST, "--json").out
    assert out == mixed_file.read_text()
    document = json.loads(out)
    assert (document["schema"], document["kind"]) == ("meshwright.mixed-plan/v1", "mixed-training")
    assert len(document["plans"]) == 10 and len(document["single"]) == 2


def test_export_writes_launches_of_both_frameworks(cli, mixed_file, tmp_path):
    cli("export", mixed_file, "--wrap", "slurm", "--out", tmp_path / "megatron")
    assert {p.name for p in (tmp_path / "megatron").iterdir()} == {"launch.sh", "launch.json", "job.sbatch"}
    cli("export", mixed_file, "--to", "flagscale", "--out", tmp_path / "flagscale")
    assert (tmp_path / "flagscale" / "train" / "plan.yaml").is_file()
    assert "rank 99" in cli("export", mixed_file, "--rank", "99", code=2).err


def test_other_commands_say_what_to_use(cli, mixed_file):
    assert "`meshwright export` does" in cli("explain", mixed_file, code=2).err
    assert "`meshwright plan` only" in cli("estimate", *REQUEST[:3], code=2).err
    assert "infiniband" in cli("hardware", EXAMPLE).out
    assert len(cli.json("hardware", EXAMPLE)["pools"]) == 2


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (["--nodes", "4"], "--nodes does not go with a cluster of pools"),
        (["--objective", "memory"], "--objective does not go"),
        (["--exclude", "tp=8"], "--exclude does not go"),
        (["--allow", "fp8"], "--allow does not go"),
        (["--refine", "full"], "--refine does not go with a cluster of pools"),
        (["--refine", "off"], "the search across pools deals layers exactly"),
        (["--time-limit", "5"], "--time-limit does not go with a cluster of pools"),
        (["--max-memory", "90%"], "give a size such as 70GB"),
        (["--framework", "deepspeed"], "megatron-lm and any"),
        (["--precision", "fp8"], "Pool a100"),
    ],
)
def test_what_is_not_planned_is_refused(cli, extra, said):
    err = cli("plan", *REQUEST, *extra, code=2).err
    assert said in " ".join(err.split())


def test_nothing_fits_is_exit_three(cli):
    err = cli("plan", "llama-3.1-405b", *REQUEST[1:], code=3).err
    assert "layers" in err and err.count("\n") <= 2
