"""Calibrating on runs of one's own: tables and logs of one cluster, one profile file, and what is refused."""

from __future__ import annotations

import csv
import json
import math
import re

import pytest

from meshwright.cli.main import run
from meshwright.costmodels.load_software import load_era, read_era
from meshwright.planner.plan_json import read_plan_set

ERA = "megatron-core-2025"
SIZE = ["--nodes", "2", "--seq-len", "4096", "--global-batch", "64"]
LAYOUTS = {
    "a": {"tp": 2, "pp": 1, "micro_batch": 1},
    "b": {"tp": 1, "pp": 2, "micro_batch": 1},
    "c": {"tp": 4, "pp": 2, "micro_batch": 2},
    "left-out": {"tp": 2, "pp": 2, "micro_batch": 2},
}
COLUMNS = "model_name,framework,n_gpus,seq_len,global_batch_sequences,micro_batch,tp,pp,cp,vp,sp,zero_stage_or_fsdp,"
COLUMNS += "recompute,precision,step_time_s,notes"


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    """The release with kernels that run slower than anywhere published."""
    text = load_era(ERA).path.read_text(encoding="utf-8")
    slower = re.sub(r"gemm_derate: [\d.]+", "gemm_derate: 0.72", text)
    slower = re.sub(r"memory_derate: [\d.]+", "memory_derate: 0.6", slower)
    assert slower != text
    path = tmp_path_factory.mktemp("truth") / "truth.yaml"
    path.write_text(slower)
    return path


@pytest.fixture(scope="module")
def plan_file(tmp_path_factory):
    """Even stages, which a table of runs can describe."""
    path = tmp_path_factory.mktemp("plans") / "plan.json"
    request = ["plan", "llama-3.1-8b", "--cluster", "dgx-h100", *SIZE, "--refine", "off"]
    assert run([*request, "--out", str(path)]) == 0
    return path


def step_s(cli, layout, *, software=ERA):
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in layout.items()]
    more = ["--set", f"sequence_parallel={int(layout['tp'] > 1)},tp_overlap=0", "--software", software]
    answer = cli.json("estimate", "llama-3.1-8b", "--cluster", "dgx-h100", *SIZE, *flags, *more)
    return answer["plans"][0]["metrics"]["step_s"]


def row(layout, step, **cells):
    values = {
        "model_name": "llama-3.1-8b", "framework": "Megatron-LM", "n_gpus": 16, "seq_len": 4096,
        "global_batch_sequences": 64, "cp": 1, "vp": 1, "sp": int(layout["tp"] > 1), "zero_stage_or_fsdp": "zero1",
        "recompute": "none", "precision": "bf16", "step_time_s": step, "notes": "set(tp_overlap=0)", **layout, **cells,
    }  # fmt: skip
    return values


def write_runs(path, rows, columns=COLUMNS):
    names = columns.split(",")
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows({name: r.get(name, "") for name in names} for r in rows)
    return path


@pytest.fixture
def runs_file(cli, truth, tmp_path):
    rows = [row(LAYOUTS[name], step_s(cli, LAYOUTS[name], software=truth)) for name in ("a", "b", "c")]
    return write_runs(tmp_path / "my_runs.csv", rows)


def write_log(path, step, *, batch=64, first="", lines=20):
    path.write_text(
        first
        + "".join(
            f" [2026-05-01 10:00:{i:02d}] iteration {i:8d}/   5000 | consumed samples: {i * batch:12d} | elapsed time "
            f"per iteration (ms): {step * 1e3 * (6 if i < 3 else 1):.3f} | global batch size: {batch:5d} |\n"
            for i in range(1, lines + 1)
        )
    )
    return path


# -- tables ---------------------------------------------------------------------------------------
def test_three_runs_bring_a_fourth_nearer_to_the_truth(cli, truth, runs_file, tmp_path):
    mine = tmp_path / "mine.yaml"
    (fit,) = cli.json("calibrate", runs_file, "--cluster", "dgx-h100", "-o", mine)
    assert (fit["software"], fit["rows"], fit["groups"]) == (ERA, 3, 3)
    assert fit["error_in"] < 0.6 * fit["error_before"]
    assert fit["error_group_left_out"] < 0.8 * fit["error_before"], "each run predicted by the other two"
    real, before, after = (step_s(cli, LAYOUTS["left-out"], software=s) for s in (truth, ERA, mine))
    assert abs(math.log(before / real)) > 0.05
    assert abs(math.log(after / real)) < 0.6 * abs(math.log(before / real))


def test_the_file_is_a_whole_profile(cli, runs_file, tmp_path):
    mine = tmp_path / "mine.yaml"
    err = cli("calibrate", runs_file, "--cluster", "dgx-h100", "-o", mine).err
    assert f"--software {mine}" in err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine.yaml", "my_runs.csv"]
    era, shipped = read_era(mine).software, load_era(ERA).software
    assert era.name == ERA and era.fit is not None and shipped.fit is not None
    assert era.fit.n_rows == 3
    assert era.fit.half_width >= shipped.fit.half_width, "three runs cannot tell that the interval is too wide"
    assert era.coefficients["gemm_derate"] < shipped.coefficients["gemm_derate"]
    assert era.coefficients["ep_overlap"] == pytest.approx(shipped.coefficients["ep_overlap"]), "no run has experts"
    ranked = cli.json("plan", "llama-3.1-8b", "--cluster", "dgx-h100", *SIZE, "--software", mine, "--top", "1")
    assert ranked["problem"]["software"]["coefficients"]["gemm_derate"] == era.coefficients["gemm_derate"]


@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_runs_will_do(cli, runs_file, count):
    lines = runs_file.read_text().splitlines()
    runs_file.write_text("\n".join(lines[: count + 1]) + "\n")
    (fit,) = cli.json("calibrate", runs_file, "--cluster", "dgx-h100")
    assert fit["rows"] == count
    assert fit["error_in"] < fit["error_before"]
    assert fit["half_width"] >= load_era(ERA).software.fit.half_width
    if count == 1:
        assert fit["error_group_left_out"] == pytest.approx(fit["error_before"], rel=1e-3)


def test_a_folder_still_takes_every_release(cli, runs_file, tmp_path):
    with runs_file.open("a") as file:
        file.write(runs_file.read_text().splitlines()[1].replace("Megatron-LM", "DeepSpeed") + "\n")
    mine = tmp_path / "mine.yaml"
    err = cli("calibrate", runs_file, "--cluster", "dgx-h100", "-o", mine, code=2).err
    assert "--eras" in err and "folder" in err and not mine.exists()
    cli("calibrate", runs_file, "--cluster", "dgx-h100", "-o", mine, "--eras", ERA)
    assert read_era(mine).software.name == ERA
    folder = tmp_path / "both"
    cli("calibrate", runs_file, "--cluster", "dgx-h100", "-o", folder)
    assert {p.stem for p in folder.glob("*.yaml")} == {ERA, "deepspeed-2025"}


def test_software_names_the_release_of_every_row(cli, runs_file):
    (fit,) = cli.json("calibrate", runs_file, "--cluster", "dgx-h100", "--software", "megatron-lm-2024")
    assert fit["software"] == "megatron-lm-2024"


def test_nothing_is_overwritten_unasked(cli, runs_file, tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text("kept")
    assert "--force" in cli("calibrate", runs_file, "--cluster", "dgx-h100", "-o", mine, code=2).err
    assert mine.read_text() == "kept"
    cli("calibrate", runs_file, "--cluster", "dgx-h100", "-o", mine, "--force")
    assert read_era(mine).software.name == ERA
    rows = tmp_path / "rows.csv"
    rows.write_text("kept")
    assert "--rows" in cli("calibrate", runs_file, "--cluster", "dgx-h100", "--rows", rows, code=2).err
    assert rows.read_text() == "kept"


def test_a_cluster_of_ones_own(cli, runs_file, tmp_path):
    cluster = tmp_path / "my.yaml"
    cluster.write_text(
        "name: my\ngpu: h100-sxm-80gb\ngpus_per_node: 8\nnodes: 2\ntiers:\n"
        "  - {kind: nvlink, domain_gpus: 8, gbytes_per_s_per_gpu: 450}\n  - {kind: roce, gbytes_per_s_per_gpu: 5}\n"
    )
    (slow,) = cli.json("calibrate", runs_file, "--cluster", cluster)
    (fast,) = cli.json("calibrate", runs_file, "--cluster", "dgx-h100")
    assert slow["error_before"] != pytest.approx(fast["error_before"], rel=0.02), "the links are the cluster's"


# -- logs -----------------------------------------------------------------------------------------
def test_a_log_of_a_plan(cli, plan_file, tmp_path):
    """The row that a plan and its log give is priced as the plan was."""
    plan = next(p for p in read_plan_set(plan_file).plans if p.stage_layout is None)
    log, rows, mine = write_log(tmp_path / "run.log", 0.9), tmp_path / "rows.csv", tmp_path / "mine.yaml"
    arguments = ["calibrate", log, "--cluster", "dgx-h100", "--plan", f"{plan_file}:{plan.rank}"]
    arguments += ["--rows", rows, "-o", mine]
    out, err = cli(*arguments, "--json")
    (fit,) = json.loads(out)
    predicted = plan.metrics["step_s"]
    assert fit["software"] == ERA
    assert fit["error_before"] == pytest.approx(abs(0.9 / predicted - 1.0), rel=1e-3)
    assert "median of 18 of 20 lines" in err and "0.9 s a step" in err
    (cells,) = csv.DictReader(rows.open())
    assert float(cells["step_time_s"]) == pytest.approx(0.9)
    assert float(cells["tps_gpu_effective"]) == pytest.approx(64 * 4096 / 0.9 / 16, rel=1e-4)
    (again,) = cli.json("calibrate", rows, "--cluster", "dgx-h100")
    assert again["coefficients"] == pytest.approx(fit["coefficients"], rel=1e-4)


def test_logs_with_a_plan_each(cli, plan_file, tmp_path):
    logs = [write_log(tmp_path / f"run{i}.log", 0.8 + 0.1 * i) for i in (1, 2)]
    plans = ["--plan", f"{plan_file}:1", "--plan", f"{plan_file}:3"]
    (fit,) = cli.json("calibrate", *logs, "--cluster", "dgx-h100", *plans)
    assert fit["rows"] == 2
    third = write_log(tmp_path / "run3.log", 1.0)
    assert (
        "--plan is given 2 times for 3 logs"
        in cli("calibrate", *logs, third, "--cluster", "dgx-h100", *plans, code=2).err
    )


def test_a_log_without_a_plan_says_what_was_assumed(cli, tmp_path):
    world = "using world size: 16, data-parallel size: 8, tensor-model-parallel size: 2, "
    log = write_log(tmp_path / "run.log", 0.9, first=world + "pipeline-model-parallel size: 1\n")
    err = cli("calibrate", log, "--cluster", "dgx-h100", "--model", "llama-3.1-8b", "--seq-len", "4096").err
    assert f"{log} assumed: " in err and "micro-batch" in err


def test_repetitions_are_one_group(cli, plan_file, tmp_path):
    logs = [write_log(tmp_path / f"run{i}.log", 0.9 + 0.01 * i) for i in range(3)]
    (fit,) = cli.json("calibrate", *logs, "--cluster", "dgx-h100", "--plan", plan_file)
    assert (fit["rows"], fit["groups"]) == (3, 1)
    assert fit["error_group_left_out"] == pytest.approx(fit["error_before"], rel=1e-3)


def test_tables_and_logs_together(cli, runs_file, plan_file, tmp_path):
    log = write_log(tmp_path / "run.log", 0.9)
    (fit,) = cli.json("calibrate", runs_file, log, "--cluster", "dgx-h100", "--plan", plan_file)
    assert fit["rows"] == 4


def test_warm_up_can_be_given(cli, plan_file, tmp_path):
    log = write_log(tmp_path / "run.log", 0.9)
    asked = ["calibrate", log, "--cluster", "dgx-h100", "--plan", plan_file, "--warmup"]
    assert "median of 10 of 20 lines" in cli(*asked, "10").err
    assert "leaves none" in cli(*asked, "20", code=2).err


# -- what is refused ------------------------------------------------------------------------------
def one_sentence(err):
    lines = err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("meshwright: ") and "bug" not in err, err
    return lines[0]


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ({"gpu": "A100-SXM4-80GB"}, "gpu is 'A100-SXM4-80GB'"),
        ({"gpu": "Z9000"}, "Unknown GPU"),
        ({"n_gpus": 12}, "12 GPUs do not fill nodes of 8"),
        ({"gpus_per_node": 4}, "gpus_per_node is 4"),
    ],
)
def test_rows_that_contradict_the_cluster(cli, tmp_path, cells, words):
    runs = write_runs(tmp_path / "runs.csv", [row(LAYOUTS["a"], 1.0, **cells)], COLUMNS + ",gpu,gpus_per_node")
    sentence = one_sentence(cli("calibrate", runs, "--cluster", "dgx-h100", code=2).err)
    assert words in sentence and "runs.csv, line 2" in sentence and "--cluster" in sentence


def test_more_gpus_than_the_cluster_has(cli, tmp_path):
    cluster = tmp_path / "my.yaml"
    cluster.write_text(
        "name: my\ngpu: h100-sxm-80gb\ngpus_per_node: 8\nnodes: 2\ntiers:\n"
        "  - {kind: nvlink, domain_gpus: 8, gbytes_per_s_per_gpu: 450}\n  - {kind: roce, gbytes_per_s_per_gpu: 25}\n"
    )
    runs = write_runs(tmp_path / "runs.csv", [row(LAYOUTS["a"], 1.0, n_gpus=64)])
    assert "more than the 16 of my" in one_sentence(cli("calibrate", runs, "--cluster", cluster, code=2).err)


def test_wrong_flags_are_one_sentence(cli, runs_file, plan_file, tmp_path):
    log = write_log(tmp_path / "run.log", 0.9)
    placed = ["--cluster", "dgx-h100"]
    cases = [
        ([log], "--cluster"),
        ([runs_file, "--cluster", "dgx-h1000"], "Unknown cluster 'dgx-h1000'"),
        ([runs_file, "--cluster", "none.yaml"], "none.yaml"),
        ([runs_file, "--model", "llama-3.1-8b"], "--model goes with --cluster"),
        ([runs_file, "--warmup", "3"], "--warmup goes with --cluster"),
        ([runs_file, *placed, "--from-scratch"], "--cluster is for runs of your own"),
        ([runs_file, *placed, "--software", "megatron"], "unknown software 'megatron'"),
        ([runs_file, *placed, "--software", "mine.yaml"], "a release that ships"),
        ([runs_file, *placed, "--model", "llama-3.1-70b"], "see --model"),
        ([log, *placed], "which model it trains; give --model"),
        ([log, *placed, "--model", "llama-3.1-8b"], "--gpus"),
        ([log, *placed, "--model", "llama-3.1-8b", "--gpus", "16"], "--seq-len"),
        ([log, *placed, "--plan", tmp_path / "none.json"], "does not exist"),
        ([log, *placed, "--plan", f"{plan_file}:99"], "no rank 99"),
        ([log, *placed, "--plan", plan_file, "--gpus", "8"], "--gpus says 8"),
        ([log, *placed, "--plan", plan_file, "-o", tmp_path / "none" / "mine.yaml"], "does not exist"),
        ([tmp_path / "none.log", *placed], "cannot be read"),
        ([tmp_path, *placed], "cannot be read"),
        ([plan_file, *placed], "no iteration lines"),
    ]
    rows = [row(LAYOUTS["a"], 1.0, n_layers=32)]
    write_runs(runs_file, rows, COLUMNS + ",n_layers")
    for arguments, words in cases:
        assert words in one_sentence(cli("calibrate", *arguments, code=2).err), arguments


def test_a_log_of_another_plan(cli, plan_file, tmp_path):
    log = write_log(tmp_path / "run.log", 0.9, batch=128)
    sentence = one_sentence(cli("calibrate", log, "--cluster", "dgx-h100", "--plan", plan_file, code=2).err)
    assert "global_batch_sequences 128" in sentence and "64" in sentence


def test_rows_that_cannot_be_used_say_why(cli, tmp_path):
    runs = write_runs(tmp_path / "runs.csv", [row(LAYOUTS["a"], ""), row(LAYOUTS["a"], "fast")])
    err = cli("calibrate", runs, "--cluster", "dgx-h100", code=2).err
    assert "line 2" in err and "neither tps_gpu_effective nor step_time_s" in err
    assert "line 3" in err and "not a number" in err
    assert err.strip().splitlines()[-1].startswith("meshwright: none of the runs can be fitted")
