import subprocess
import sys
import types

import pytest

from meshwright.cli import main as cli
from meshwright.hardware_profiles.errors import InvalidProblemError, NoFeasiblePlanError

PLAN = ["plan", "llama-3.1-8b", "--cluster", "dgx-h100", "--seq-len", "4096", "--global-batch", "64"]


def last_line(capsys) -> str:
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.strip().splitlines()) == 1, err
    return err.strip()


@pytest.fixture
def command(monkeypatch):
    """Replace the body of ``models`` by a function."""

    def put(body):
        def models() -> None:
            body()

        module = types.ModuleType("meshwright.cli.models")
        module.models = models
        monkeypatch.setitem(sys.modules, "meshwright.cli.models", module)

    return put


def raiser(error):
    def body():
        raise error

    return body


@pytest.mark.parametrize(
    ("error", "code"),
    [(InvalidProblemError("No."), 2), (NoFeasiblePlanError("Nothing fits."), 3), (KeyboardInterrupt(), 130)],
)
def test_exit_codes(command, capsys, error, code):
    command(raiser(error))
    assert cli.run(["models"]) == code
    assert last_line(capsys).startswith("meshwright: ")


def test_a_bug_is_one_line_and_a_traceback_only_on_request(command, capsys, monkeypatch):
    monkeypatch.delenv("MESHWRIGHT_DEBUG", raising=False)
    command(raiser(ZeroDivisionError("float\ndivision")))
    assert cli.run(["models"]) == 1
    line = last_line(capsys)
    assert "please report it" in line and "ZeroDivisionError: float division" in line
    monkeypatch.setenv("MESHWRIGHT_DEBUG", "1")
    assert cli.run(["models"]) == 1
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.delenv("MESHWRIGHT_DEBUG")
    assert cli.run(["--debug", "models"]) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["plam"], "Did you mean plan"),
        (["xyzzy"], "The commands are plan"),
        (["--nope"], "--nope"),
        (["plan"], "MODEL"),
        (["plan", "llama-3.1-8b"], "--cluster"),
        ([*PLAN, "--nodes"], "--nodes"),
        ([*PLAN, "--seq-len", "0"], "--seq-len"),
        ([*PLAN, "--seq-len", "-5"], "--seq-len"),
        ([*PLAN, "--seq-len", "8k"], "--seq-len"),
        ([*PLAN, "--global-batch", "0"], "--global-batch"),
        ([*PLAN, "--top", "0"], "--top"),
        ([*PLAN, "--gpus", "0"], "--gpus"),
        ([*PLAN, "--framework", "megatron"], "--framework"),
        ([*PLAN, "--precision", "bf17"], "--precision"),
        ([*PLAN], "--nodes (hosts) or --gpus"),
        ([*PLAN, "--nodes", "2", "--gpus", "16"], "--nodes and --gpus"),
        ([*PLAN, "--nodes", "0"], "--nodes"),
        ([*PLAN, "--nodes", "-1"], "--nodes"),
        ([*PLAN, "--nodes", "4..2"], "--nodes"),
        ([*PLAN, "--nodes", "two"], "--nodes"),
        ([*PLAN, "--nodes", "2", "--pin", "tp=x"], "--pin"),
        ([*PLAN, "--nodes", "2", "--exclude", "tpp=1"], "--exclude"),
        ([*PLAN, "--nodes", "2", "--task", "lora"], "--lora-rank"),
        ([*PLAN, "--nodes", "2", "--lora-rank", "8"], "--task lora"),
        ([*PLAN, "--nodes", "2", "--objective", "cost"], "--price"),
        ([*PLAN, "--nodes", "2", "--price", "nan"], "--price"),
        ([*PLAN, "--nodes", "2", "--price", "0"], "--price"),
        ([*PLAN, "--nodes", "2", "--tokens", "0"], "--tokens"),
        ([*PLAN, "--nodes", "2", "--tokens", "many"], "--tokens"),
        ([*PLAN, "--nodes", "2", "--max-memory", "80"], "--max-memory"),
        ([*PLAN, "--nodes", "2", "--max-memory", "120%"], "--max-memory"),
        ([*PLAN, "--nodes", "2", "--out", "no/such/folder/plan.json"], "--out"),
        ([*PLAN, "--nodes", "2", "--software", "megatron-9"], "megatron-9"),
        (["estimate", *PLAN[1:], "--nodes", "1", "--tp", "3"], "tp x cp x pp = 3"),
        (["estimate", *PLAN[1:], "--nodes", "1", "--recompute", "some"], "--recompute"),
        (["estimate", *PLAN[1:], "--nodes", "1..4"], "--nodes"),
        (["plan", "llama-9", *PLAN[2:], "--nodes", "2"], "llama-9"),
        (["plan", "llama-3.1-8b", "--cluster", "dgx-z100", *PLAN[4:], "--nodes", "2"], "dgx-z100"),
        (["plan", "nowhere/config.json", *PLAN[2:], "--nodes", "2"], "nowhere/config.json"),
        (["plan", "llama-3.1-8b", "--cluster", "nowhere.yaml", *PLAN[4:]], "nowhere.yaml"),
        (["models", "llama-9"], "llama-9"),
        (["hardware", "z100"], "z100"),
        (["explain", "nowhere.json"], "nowhere.json"),
        (["compare", "nowhere.json:1", "nowhere.json:2"], "nowhere.json"),
        (["export", "nowhere.json"], "nowhere.json"),
        (["export"], "plan.json"),
        (["check", "nowhere.sh"], "nowhere.sh"),
        (["backtest", "nowhere.csv"], "nowhere.csv"),
        (["backtest", "nowhere.csv", "--held-out", "row"], "--held-out"),
        (["calibrate", "nowhere.csv"], "nowhere.csv"),
        (["calibrate", "nowhere.csv", "--out", "/"], "--out"),
    ],
)
def test_a_mistake_is_one_sentence_that_names_the_place(arguments, part, capsys):
    assert cli.run(arguments) == 2
    line = last_line(capsys)
    assert part in line
    assert "Traceback" not in line and "bug" not in line


def test_version(capsys):
    assert cli.run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("meshwright ")


def test_no_arguments_show_the_help(capsys):
    assert cli.run([]) == 0
    assert "Usage: meshwright" in capsys.readouterr().out


def test_a_reader_that_leaves_is_no_fault():
    code = "from meshwright.cli.main import main; import sys; sys.argv = ['meshwright', 'models']; main()"
    shell = f'"{sys.executable}" -c "{code}" | true; echo "${{PIPESTATUS[0]}}"'
    result = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=True)
    assert result.stderr == ""
    assert result.stdout.splitlines()[-1] == "0"


def test_help_loads_nothing_heavy():
    code = (
        "from meshwright.cli.main import run; import sys; run(['--help']); "
        "print([m for m in ('numpy', 'yaml', 'scipy', 'pandas', 'ortools', 'pulp', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
