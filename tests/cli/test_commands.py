import json
import re
import stat
import subprocess

import pytest

REQUEST = ["llama-3.1-8b", "--cluster", "dgx-h100", "--nodes", "2", "--seq-len", "4096", "--global-batch", "64"]

HEADER = "source_id,gpu,gpu_memory_gb,n_gpus,gpus_per_node,model_name,n_layers,hidden,n_heads,n_kv_heads,ffn_hidden,"
HEADER += "vocab,seq_len,global_batch_sequences,micro_batch,tp,pp,dp,recompute,tps_gpu_effective"
RUNS = [
    "made-up,H100-SXM,80,16,8,llama-3.1-8b,32,4096,32,8,14336,128256,4096,64,1,2,1,8,none,9000",
    "made-up,A100-SXM,80,16,8,gpt-x,,,,,,,2048,64,,,,,,",
]


@pytest.fixture
def runs_file(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text("\n".join([HEADER, *RUNS]) + "\n")
    return path


def test_estimate_prices_the_stated_configuration(cli):
    answer = cli.json("estimate", *REQUEST, "--tp", "2", "--pp", "2", "--micro-batch", "1", "--recompute", "full/4")
    (plan,) = answer["plans"]
    config = plan["config"]
    assert (config["tp"], config["pp"], config["dp"], config["micro_batch_size"]) == (2, 2, 4, 1)
    assert (config["recompute"], config["recompute_layers"]) == (32, 4)
    assert plan["metrics"]["step_s"] == pytest.approx(sum(plan["time_s"].values()), rel=1e-6)
    assert plan["metrics"]["peak_bytes"] == pytest.approx(sum(plan["memory_bytes"].values()), rel=1e-6)


def test_estimate_agrees_with_the_search(cli):
    best = cli.json("plan", *REQUEST, "--refine", "off")["plans"][0]
    config = ",".join(f"{k}={v}" for k, v in best["config"].items())
    (plan,) = cli.json("estimate", *REQUEST, "--set", config)["plans"]
    assert plan["config"] == best["config"]
    assert plan["metrics"] == best["metrics"]


def test_estimate_prints_parts_that_add_up(cli):
    out = cli("estimate", *REQUEST, "--tp", "2").out
    assert max(map(len, out.splitlines())) <= 100
    assert re.search(r"^step +\d", out, re.M) and re.search(r"^memory +\d", out, re.M)


def test_explain_names_parts_bounds_and_neighbours(cli, plan_file):
    out = cli("explain", plan_file, "--rank", "2", "--why-not", "tp=8,pp=2").out
    assert max(map(len, out.splitlines())) <= 100
    for word in ("time of a step", "memory at the peak", "bounds", "is chosen;", "why not tp=8,pp=2:"):
        assert word in out
    facts = cli.json("explain", plan_file, "--rank", "2", "--why-not", "tp=8,pp=2")
    assert facts["plan"]["rank"] == 2
    assert facts["why_not"][0]["kind"] in ("rule", "memory", "slower", "best")


def test_a_rank_that_is_not_there_is_a_sentence(cli, plan_file):
    assert "1 to 10" in cli("explain", plan_file, "--rank", "99", code=2).err
    assert "1 to 10" in cli("compare", f"{plan_file}:1", f"{plan_file}:99", code=2).err


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": "other/v1"}', "\x00"])
def test_a_garbled_plan_is_a_sentence(cli, tmp_path, text):
    path = tmp_path / "plan.json"
    path.write_text(text)
    for command in (["explain", path], ["export", path], ["compare", path, path]):
        err = cli(*command, code=2).err
        assert len(err.splitlines()) == 1 and "plan.json" in err


def test_compare_shows_what_differs(cli, plan_file):
    out = cli("compare", f"{plan_file}:1", f"{plan_file}:4").out
    assert max(map(len, out.splitlines())) <= 100
    assert "rank 1" in out and "rank 4" in out
    facts = cli.json("compare", f"{plan_file}:1", f"{plan_file}:4")
    assert facts["a"]["rank"] == 1 and facts["b"]["rank"] == 4


def test_export_lists_frameworks(cli):
    assert {"megatron-lm", "torchtitan", "deepspeed", "pytorch"} <= {e["name"] for e in cli.json("export", "--list")}
    assert "megatron-lm" in cli("export", "--list").out


def test_the_list_of_frameworks_says_what_plans_each_takes(cli):
    plans = {e["name"]: e["plans"] for e in cli.json("export", "--list")}
    assert plans["megatron-lm"] == ["one cluster", "pools"] and plans["torchtitan"] == ["one cluster"]
    assert plans["flagscale"] == ["pools"]
    lines = cli("export", "--list").out.splitlines()
    assert max(map(len, lines)) <= 100 and next(x for x in lines if x.startswith("flagscale")).split()[1:3] == [
        "2025",
        "pools",
    ]


def test_export_writes_and_check_reads_back(cli, plan_file, tmp_path):
    rank = 1
    folder = tmp_path / "launch"
    files = cli.json("export", plan_file, "--rank", rank, "--to", "megatron-lm", "--out", folder)["files"]
    script = folder / "launch.sh"
    assert str(script) in files
    assert script.stat().st_mode & stat.S_IXUSR
    subprocess.run(["bash", "-n", script], check=True)
    assert "--force" in cli("export", plan_file, "--out", folder, code=2).err
    cli("export", plan_file, "--out", folder, "--wrap", "slurm", "--force")
    best = json.loads(plan_file.read_text())["plans"][rank - 1]
    facts = cli.json("check", script, "--cluster", "dgx-h100")
    assert facts["plan"]["config"] == best["config"]
    assert facts["plan"]["metrics"]["step_s"] == pytest.approx(best["metrics"]["step_s"], rel=1e-6)
    assert facts["verdict"] == "it fits"
    out = cli("check", script).out
    assert "is assumed, see --cluster" in " ".join(out.split())
    assert max(map(len, out.splitlines())) <= 100


def test_export_without_a_folder_writes_nothing(cli, plan_file):
    out, err = cli("export", plan_file)
    assert "==> launch.sh <==" in out
    assert "nothing was written" in err


def test_check_refuses_another_number_of_gpus(cli, plan_file, tmp_path):
    cli("export", plan_file, "--out", tmp_path / "launch")
    assert "GPUs" in cli("check", tmp_path / "launch" / "launch.sh", "--gpus", "8", code=2).err


def test_models(cli):
    names = {m["name"]: m for m in cli.json("models")}
    assert 7e9 < names["llama-3.1-8b"]["params"] < 9e9
    assert "llama-3.1-8b" in cli("models").out
    assert cli.json("models", "llama-3.1-8b")["hidden"] == 4096
    assert "hidden" in cli("models", "llama-3.1-8b").out


def test_hardware(cli):
    facts = cli.json("hardware")
    assert "h100-sxm-80gb" in {g["name"] for g in facts["gpus"]}
    assert "dgx-h100" in {c["name"] for c in facts["clusters"]}
    assert max(map(len, cli("hardware").out.splitlines())) <= 100
    assert cli.json("hardware", "h100-sxm-80gb")["name"] == "h100-sxm-80gb"
    assert cli.json("hardware", "dgx-h100")["gpus_per_node"] == 8
    assert "sources:" in cli("hardware", "dgx-h100").out


def test_backtest_scores_and_writes_rows(cli, runs_file, tmp_path):
    assert "made-up" in cli("backtest", runs_file).out
    facts = cli.json("backtest", runs_file)
    assert facts["sets"]["made-up"]["rows"] == 2
    rows = tmp_path / "rows.csv"
    assert cli("backtest", runs_file, "--rows", rows).out == ""
    lines = rows.read_text().splitlines()
    assert lines[0].startswith("file,line,status,predicted_tokens_per_s_per_gpu,low,high,")
    assert [line.split(",")[1:3] for line in lines[1:]][1] == ["3", "skipped"]
    assert "--force" in cli("backtest", runs_file, "--rows", rows, code=2).err
