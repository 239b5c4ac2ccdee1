"""``plan.json``: round trip, schema, the same bytes on every run, one sentence for a garbled file."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from meshwright.costmodels.parallel import CONFIG_FIELDS, ParallelConfig
from meshwright.hardware_profiles.errors import InvalidProblemError
from meshwright.planner import estimate_plan, from_json, plan, to_json
from meshwright.planner.plan_json import SCHEMA_PATH, read_plan_set

jsonschema = pytest.importorskip("jsonschema")
SCRIPT = """
import sys
from meshwright.costmodels.load_model import load_model
from meshwright.costmodels.load_software import default_software
from meshwright.costmodels.workload import Workload
from meshwright.hardware_profiles.load import load_cluster
from meshwright.planner import PlanningProblem, plan, to_json
c = load_cluster("dgx-h100", nodes=1)
p = PlanningProblem(model=load_model("mixtral-8x7b"), cluster=c, workload=Workload(seq_len=4096, global_batch=32),
                    software=default_software("megatron-lm", c.gpu), pins={"pp": (1, 2)}, allow=("offload",))
sys.stdout.write(to_json(plan(p)))
"""


@pytest.fixture
def found(make_problem):
    return plan(
        make_problem(
            "mixtral-8x7b",
            nodes=2,
            pins={"pp": (2, 1), "tp": (2, 4)},
            excludes=({"pp": 2, "tp": 2},),
            allow=("fp8", "offload"),
            price_per_gpu_hour=2.1,
            tokens=1e12,
        )
    )


def schema():
    return json.loads(SCHEMA_PATH.read_text(encoding="utf-8"))


def test_the_schema_is_a_schema_and_knows_every_field():
    jsonschema.Draft202012Validator.check_schema(schema())
    definitions = schema()["$defs"]
    assert set(definitions["field"]["enum"]) == set(CONFIG_FIELDS) == set(definitions["config"]["properties"])


@pytest.mark.parametrize("framework", ["megatron-lm", "torchtitan", "deepspeed", "pytorch", "any"])
def test_documents_keep_the_schema(make_problem, framework):
    document = json.loads(to_json(plan(make_problem(nodes=2, framework=framework))))
    jsonschema.validate(document, schema())
    one = json.loads(to_json(estimate_plan(make_problem(), ParallelConfig(dp=8, zero_stage=3))))
    jsonschema.validate(one, schema())


def test_round_trip(found):
    text = to_json(found)
    jsonschema.validate(json.loads(text), schema())
    again = from_json(text)
    assert to_json(again) == text
    assert [p.config for p in again.plans] == [p.config for p in found.plans]
    assert again.search == found.search and dict(again.provenance) == dict(found.provenance)
    assert again.problem.model == found.problem.model
    assert again.problem.pins == {"tp": (2, 4), "pp": (2, 1)} and again.problem.excludes == ({"tp": 2, "pp": 2},)
    assert again.problem.cluster.gpu.peak_flops == pytest.approx(dict(found.problem.cluster.gpu.peak_flops), rel=1e-8)
    for a, b in zip(again.plans, found.plans, strict=True):
        assert dict(a.metrics) == pytest.approx(dict(b.metrics), rel=1e-8)
        assert (a.rank, a.tied_with, a.pareto, a.reasons, a.stage_layers) == (
            b.rank,
            b.tied_with,
            b.pareto,
            b.reasons,
            b.stage_layers,
        )


def test_a_read_plan_set_can_be_planned_again(found):
    again = plan(from_json(to_json(found)).problem)
    assert again.plans[0].config == found.plans[0].config
    assert again.plans[0].metrics["step_s"] == pytest.approx(found.plans[0].metrics["step_s"], rel=1e-6)


def test_floats_have_at_most_nine_significant_digits(found):
    for number in re.findall(r"-?\d+\.\d+(?:e[+-]?\d+)?", re.sub(r'"(?:[^"\\]|\\.)*"', '""', to_json(found))):
        digits = number.split("e")[0].lstrip("-").replace(".", "").lstrip("0").rstrip("0")
        assert len(digits) <= 9, number


def test_bytes_are_the_same_in_every_process():
    """Also with another hash seed, and on another Python if one with numpy and yaml is at hand."""
    runs = []
    for seed in ("0", "1"):
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}
        )
        runs.append(done.stdout)
    assert runs[0] == runs[1] and runs[0].startswith('{\n "schema": "meshwright.plan/v1"')
    assert str(Path.home()) not in runs[0]


GARBLED = {
    "": "is not JSON",
    "{": "is not JSON",
    "[]": "has schema None",
    '{"schema": "other/v2"}': "has schema 'other/v2'",
    '{"schema": "meshwright.plan/v1", "kind": "training"}': "the key 'problem' is missing",
}


@pytest.mark.parametrize("text", GARBLED)
def test_garbled_text_is_one_sentence(text):
    with pytest.raises(InvalidProblemError, match=re.escape(GARBLED[text])) as caught:
        from_json(text)
    assert "\n" not in str(caught.value) and caught.value.exit_code == 2


def broken(document, path, value):
    *parents, last = path
    inner = document
    for key in parents:
        inner = inner[key]
    if value is KeyError:
        del inner[last]
    else:
        inner[last] = value
    return json.dumps(document)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("problem", "model", "n_layers"), "many", "n_layers"),
        (("problem", "workload", "seq_length"), 1, "seq_length"),
        (("problem", "workload", "global_batch"), KeyError, "global_batch"),
        (("problem", "cluster", "gpu", "gemm"), KeyError, "gemm"),
        (("problem", "software", "colour"), "blue", "colour"),
        (("problem", "top"), 0, "top"),
        (("problem", "extra"), 0, "extra"),
        (("plans", 0, "config", "tp"), "two", "config.tp"),
        (("plans", 0, "config", "width"), 1, "width"),
        (("plans", 0, "metrics", "step_s"), None, "step_s"),
        (("plans", 0, "rank"), True, "rank"),
        (("plans",), 3, "plans"),
        (("search", "feasible_"), 3, "feasible_"),
    ],
)
def test_a_broken_part_is_named(found, path, value, words):
    with pytest.raises(InvalidProblemError, match=re.escape(words)) as caught:
        from_json(broken(json.loads(to_json(found)), path, value), where="my.json")
    assert str(caught.value).startswith("my.json")


def test_files(found, tmp_path):
    path = tmp_path / "plan.json"
    path.write_text(to_json(found), encoding="utf-8")
    assert to_json(read_plan_set(path)) == to_json(found)
    with pytest.raises(InvalidProblemError, match="Cannot read the plan file"):
        read_plan_set(tmp_path / "absent.json")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidProblemError, match="not UTF-8"):
        read_plan_set(tmp_path / "bytes.json")


def test_a_number_that_json_cannot_hold_is_refused(found):
    worst = replace(found.plans[0], metrics={"step_s": float("nan")})
    with pytest.raises(InvalidProblemError, match="cannot hold"):
        to_json(replace(found, plans=(worst,)))
