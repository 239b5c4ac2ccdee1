import json
import re

REQUEST = ["llama-3.1-8b", "--cluster", "dgx-h100", "--nodes", "2", "--seq-len", "4096", "--global-batch", "64"]


def test_the_table_is_ranked_and_at_most_a_hundred_columns_wide(cli):
    out, err = cli("plan", *REQUEST)
    lines = out.splitlines()
    assert err == ""
    assert max(map(len, lines)) <= 100
    assert lines[0].split() == [
        "rank", "tp", "cp", "ep", "pp(vp)", "dp", "shard", "mbs", "recompute",
        "step", "s", "tok/s/GPU", "MFU", "peak", "GB", "of", "GPU", "bubble", "comm",
    ]  # fmt: skip
    ranks = [int(re.match(r" *(\d+)", line).group(1)) for line in lines[1:11]]
    assert ranks == list(range(1, 11))
    speeds = [float(line.split()[-6].replace(",", "")) for line in lines[1:11]]
    assert speeds == sorted(speeds, reverse=True)


def test_the_last_line_accounts_for_every_candidate(cli):
    search = cli.json("plan", *REQUEST)["search"]
    assert search["enumerated"] == sum(search["removed"].values()) + search["removed_by_memory"] + search["feasible"]
    text = " ".join(cli("plan", *REQUEST).out.split("\n", 11)[-1].split())
    assert f"{search['enumerated']:,} candidates" in text
    assert f"{search['feasible']:,} ranked" in text
    assert re.search(r"\d+\.\d\d s$", text)
    for rule, count in search["removed"].items():
        assert f"{rule} {count:,}" in text or count == 0


def test_json_is_alone_on_stdout_and_repeats_byte_for_byte(cli):
    first, second = cli("plan", *REQUEST, "--json"), cli("plan", *REQUEST, "--json")
    assert first.out == second.out
    assert json.loads(first.out)["schema"] == "meshwright.plan/v1"
    assert "candidates" in first.err


def test_the_file_is_what_json_prints(cli, plan_file):
    assert plan_file.read_text() == cli("plan", *REQUEST, "--json").out


def test_no_file_is_overwritten_unasked(cli, plan_file):
    assert "--force" in cli("plan", *REQUEST, "-o", plan_file, code=2).err
    cli("plan", *REQUEST, "-o", plan_file, "--force")


def test_timings_go_to_the_report(cli, tmp_path):
    _, err = cli("plan", *REQUEST, "--json", "--report", tmp_path / "report.json")
    report = json.loads((tmp_path / "report.json").read_text())
    assert err == ""
    assert 0 < report["search_s"] < report["total_s"]


def test_pins_excludes_and_top(cli):
    plans = cli.json("plan", *REQUEST, "--pin", "tp=2|4,zero=1", "--exclude", "tp=4,pp=1", "--top", "30")["plans"]
    assert len(plans) == 30
    assert {p["config"]["tp"] for p in plans} <= {2, 4}
    assert {p["config"]["zero_stage"] for p in plans} == {1}
    assert not [p for p in plans if p["config"]["tp"] == 4 and p["config"]["pp"] == 1]


def test_the_memory_cap_holds(cli):
    plans = cli.json("plan", *REQUEST, "--max-memory", "40GB")["plans"]
    assert max(p["metrics"]["peak_bytes"] for p in plans) <= 40e9


def test_numerics_vary_only_when_allowed(cli):
    assert {p["precision"] for p in cli.json("plan", *REQUEST)["plans"]} == {"bf16"}
    assert "fp8" in {p["precision"] for p in cli.json("plan", *REQUEST, "--allow", "fp8")["plans"]}
    assert "precision" in cli("plan", *REQUEST, "--allow", "fp8").out.splitlines()[0]


def test_days_and_dollars(cli):
    metrics = cli.json("plan", *REQUEST, "--tokens", "1T", "--price", "2.10")["plans"][0]["metrics"]
    days = 1e12 / (metrics["tokens_per_s_per_gpu"] * 16) / 86400
    assert abs(metrics["days"] / days - 1) < 1e-6
    assert abs(metrics["dollars"] / (days * 24 * 16 * 2.10) - 1) < 1e-6


def test_a_model_that_cannot_fit_exits_with_3_and_says_what_would_help(cli):
    out, err = cli("plan", "gpt3-175b", "--cluster", "dgx-a100-80", "--nodes", "1", "--seq-len", "2048",
                   "--global-batch", "64", code=3)  # fmt: skip
    assert out == ""
    assert len(err.splitlines()) == 1
    assert "fit" in err


def test_a_rule_that_a_pin_breaks_is_a_sentence(cli):
    err = cli("plan", *REQUEST, "--pin", "tp=3", code=2).err
    assert len(err.splitlines()) == 1


def test_a_range_of_nodes_sizes_the_run(cli, tmp_path):
    request = [*REQUEST[:4], "1..3", *REQUEST[5:], "--tokens", "1T", "--price", "2", "--objective", "cost"]
    out = cli("plan", *request, "-o", tmp_path / "best.json").out
    assert max(map(len, out.splitlines())) <= 100
    assert len(out.splitlines()) == 6
    facts = cli.json("plan", *request)
    assert [p["nodes"] for p in facts["points"]] == [1, 2, 3]
    working = [p for p in facts["points"] if p["tokens_per_s"]]
    cheapest = min(working, key=lambda p: p["dollars_per_million_tokens"])
    assert facts["best_nodes"] == cheapest["nodes"]
    best = json.loads((tmp_path / "best.json").read_text())
    assert best["problem"]["cluster"]["nodes"] == facts["best_nodes"]
    # sizes are compared with even stages, the plans of the best size are refined
    assert best["plans"][0]["metrics"]["step_s"] <= cheapest["metrics"]["step_s"] * (1 + 1e-9)


def test_a_long_range_is_thinned_and_says_so(cli):
    from meshwright.cli.sizing import sizes_of

    assert sizes_of((1, 64)) == list(range(1, 65))
    assert sizes_of((3, 1000)) == [3, 4, 8, 16, 32, 64, 128, 256, 512, 1000]
