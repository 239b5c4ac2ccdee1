import json
import re
from pathlib import Path

import pytest

from meshwright.cli.main import run

EXAMPLE = str(Path(__file__).resolve().parents[2] / "examples" / "layer_profile.csv")
PP = ("stages", EXAMPLE, "--pp", "4", "--micro-batches", "8", "--memory", "4GB")
CHAIN = ("stages", EXAMPLE, "--devices", "8", "--micro-batches", "8", "--memory", "4GB", "--bandwidth", "25GB")


@pytest.mark.parametrize("line", [PP, CHAIN])
def test_table_and_json_say_the_same(capsys, line):
    assert run(line) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 100 and "optimal" in text
    assert run([*line, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["kind"] == "stages" and facts["solver"]["termination"] == "optimal"
    assert facts["bound_s"] == pytest.approx(facts[facts["objective"]])
    assert sorted(i for s in facts["stages"] for i in s["positions"]) == list(range(8))
    assert all(s["memory_bytes"] <= 4e9 for s in facts["stages"])
    assert f"{1e3 * facts['stages'][0]['load_s']:.4g}" in text


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["--devices", "8"], "either --pp"),
        (["--bandwidth", "1GB"], "--bandwidth goes with --devices"),
        (["--time-unit", "h"], "--time-unit"),
        (["--device", "A100"], "--device"),
        (["--solver", "best"], "no solver 'best'"),
        (["--tp", "2"], "tp 2"),
    ],
)
def test_a_mistake_is_one_sentence(capsys, extra, words):
    assert run([*PP, *extra]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_other_mistakes(capsys, tmp_path):
    assert run(CHAIN[:-2]) == 2 and "--devices needs --bandwidth" in capsys.readouterr().err
    assert run([*CHAIN, "--tp", "1"]) == 2 and "--tp goes with --pp" in capsys.readouterr().err
    assert run([*PP[:-1], "90%"]) == 2 and "--memory" in capsys.readouterr().err
    (tmp_path / "c.json").write_text('{"layernum[2]_bsz1": 3.0}')
    assert run(["stages", str(tmp_path / "c.json"), *PP[2:]]) == 2
    assert "--memory-profile" in capsys.readouterr().err
    assert run(["stages", str(tmp_path / "none.txt"), *PP[2:]]) == 2
    assert "neither a folder" in capsys.readouterr().err


@pytest.mark.parametrize("line", [PP, CHAIN])
def test_no_room_exits_3(capsys, line):
    small = [w if w != "4GB" else "1GB" for w in line]
    assert run(small) == 3
    assert "fits" in capsys.readouterr().err


def test_no_cut_names_the_memory_that_would_do(cli):
    profile = Path(__file__).resolve().parents[2] / "examples" / "layer_profile.csv"
    request = ["stages", profile, "--pp", "4", "--micro-batches", "8", "--memory"]
    said = cli(*request, "1GB", code=3).err
    needed = re.search(r"one fits ([\d.]+) GB", said)
    assert needed, said
    cli(*request, f"{float(needed[1]) + 0.1}GB")
    cli(*request, f"{0.98 * float(needed[1]) - 0.1}GB", code=3)
