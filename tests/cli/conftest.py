import json

import pytest

from meshwright.cli.main import run

#: A request that is quick to search.
REQUEST = ["llama-3.1-8b", "--cluster", "dgx-h100", "--nodes", "2", "--seq-len", "4096", "--global-batch", "64"]


class Cli:
    """Runs command lines in this process."""

    def __init__(self, capsys):
        self.capsys = capsys

    def __call__(self, *arguments, code=0):
        assert run([str(a) for a in arguments]) == code, self.capsys.readouterr().err
        return self.capsys.readouterr()

    def json(self, *arguments):
        return json.loads(self(*arguments, "--json").out)


@pytest.fixture
def cli(capsys):
    return Cli(capsys)


@pytest.fixture(scope="session")
def plan_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("plans") / "plan.json"
    assert run(["plan", *REQUEST, "--out", str(path)]) == 0
    return path
