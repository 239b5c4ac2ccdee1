"""``meshwright timeline``: text of at most 100 columns, JSON with every pass, a picture."""

import builtins
import sys

import pytest

REQUEST = ("llama-3.1-70b", "--cluster", "dgx-h100", "--nodes", "4", "--seq-len", "4096", "--global-batch", "32")


@pytest.fixture
def piped(cli, tmp_path):
    path = tmp_path / "plan.json"
    cli("plan", *REQUEST, "--pin", "pp=4,vp=1,dp=1", "--top", "1", "-o", path)
    return path


def test_text(cli, piped):
    text = cli("timeline", piped).out
    assert "1f1b, 4 stages, 32 micro-batches" in text and "closed form of the planner" in text
    assert max(len(line) for line in text.splitlines()) <= 100
    chart = cli("timeline", piped, "--micro-batches", "64").out.split("the first ")[1].splitlines()
    assert chart[1].startswith("0 0") and chart[4].startswith("3 .")
    whole = cli("timeline", piped, "--schedule", "zb-h1", "--micro-batches", "4").out
    assert "the first" not in whole and "w" in whole.splitlines()[-6]


def test_json_holds_every_pass(cli, piped):
    data = cli.json("timeline", piped, "--schedule", "gpipe", "--micro-batches", "6")
    assert data["schedule"] == "gpipe" and len(data["stages"]) == 4
    for stage in data["stages"]:
        assert len(stage["passes"]) == 12
        busy = sum(one["end_s"] - one["start_s"] for one in stage["passes"])
        assert stage["busy_s"] == pytest.approx(busy, rel=1e-6)
        assert stage["peak_in_flight"] == 6
    assert data["makespan_s"] == pytest.approx(max(s["passes"][-1]["end_s"] for s in data["stages"]))


def test_picture(cli, piped, tmp_path):
    pytest.importorskip("matplotlib")
    first, second = tmp_path / "a.svg", tmp_path / "b.svg"
    assert "written" in cli("timeline", piped, "--micro-batches", "4", "-o", first).out
    cli("timeline", piped, "--micro-batches", "4", "-o", second)
    assert first.read_bytes() == second.read_bytes() and b"<svg" in first.read_bytes()
    assert "exists" in cli("timeline", piped, "-o", first, code=2).err
    assert "ends in none of" in cli("timeline", piped, "-o", tmp_path / "a.txt", code=2).err


def test_a_missing_matplotlib_names_the_extra(cli, piped, tmp_path, monkeypatch):
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    for name in [n for n in sys.modules if n.startswith("matplotlib")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", refuse)
    assert "meshwright[notebooks]" in cli("timeline", piped, "-o", tmp_path / "a.svg", code=2).err
