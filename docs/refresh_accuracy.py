"""Write docs/accuracy.md and its plots from the tables of measured runs, and the accuracy sentence of README.md.

``python docs/refresh_accuracy.py`` scores the profiles as they are (seconds); with ``--held-out`` every run is also
predicted without its group and without its source (minutes). Sections that a call does not compute stay as they are.
Tables are found in ``MESHWRIGHT_DATA``, beside the checkout in ``../shared/data``, or are named on the command line.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))
sys.path.insert(0, str(ROOT / "docs"))

from accuracy_plots import scatter_plot, spread_plot  # noqa: E402

from meshwright.costmodels.interval import is_borrowed  # noqa: E402
from meshwright.planner.validate.backtest import BacktestResult, RowResult, backtest  # noqa: E402
from meshwright.planner.validate.calibrate import calibrate  # noqa: E402
from meshwright.planner.validate.evidence import NEVER_FITTED  # noqa: E402
from meshwright.planner.validate.held_out import predict_held_out  # noqa: E402
from meshwright.planner.validate.memory_counting import counting_of  # noqa: E402
from meshwright.planner.validate.memory_fit import fit_memory, mean_error, memory_data, under_share  # noqa: E402
from meshwright.planner.validate.report import MEMORY_COLUMNS, markdown_table  # noqa: E402
from meshwright.planner.validate.scores import (  # noqa: E402
    Score,
    is_duplicate,
    is_inconsistent,
    measured,
    score,
    score_rows,
    set_name,
)

PAGE, TEXT, README = ROOT / "docs" / "accuracy.md", ROOT / "docs" / "accuracy.md.in", ROOT / "README.md"
IMAGES = ROOT / "docs" / "images"
Wanted = Callable[[RowResult], bool]
SCALE = 64


def tables(named: Sequence[str]) -> list[Path]:
    """The CSV files to score."""
    if named:
        return [Path(name) for name in named]
    data = Path(os.environ.get("MESHWRIGHT_DATA", ROOT.parent / "shared" / "data"))
    found = sorted((data / "training_runs").glob("*.csv"))
    if not found:
        raise SystemExit("no tables of runs: name them, or set MESHWRIGHT_DATA to the folder above training_runs")
    return found


# -- which rows ---------------------------------------------------------------------------------------------------


def is_dense(row: RowResult) -> bool:
    """A row whose model has no experts."""
    return row.problem is not None and row.problem.model.moe is None


def of(*sources: str) -> Wanted:
    """Rows of some sources."""
    return lambda row: set_name(row) in sources


def is_stated(row: RowResult) -> bool:
    """Dense, and the table says dimensions, batch, micro-batch, tp, pp, dp and recompute."""
    names = (
        "n_layers", "hidden", "seq_len", "global_batch_sequences", "micro_batch", "tp", "pp", "dp", "recompute",
    )  # fmt: skip
    return is_dense(row) and all(row.run.text(name) for name in names)


def on(*gpus: str) -> Wanted:
    """Rows of some GPU types."""
    return lambda row: row.problem is not None and row.problem.cluster.gpu.name.startswith(gpus)


def both(*tests: Wanted) -> Wanted:
    """All of some tests."""
    return lambda row: all(test(row) for test in tests)


def plain(rows: Sequence[RowResult]) -> list[RowResult]:
    """Pre-training rows with a known method, listed once."""
    return [r for r in rows if "(" not in set_name(r) and not is_duplicate(r)]


_NEW = of("mlperf-v4.1", "mlperf-v5.0", "nemo-docs", "megatron-lm")
#: (set, rows, aim for rows left out by group, in percent)
AIMS: list[tuple[str, Wanted, str]] = [
    ("vtrain-multi, 64 and 512 A100", of("vtrain-multi"), "MAPE 6, median 3.5, p90 13"),
    ("vtrain-single, 2 to 8 A100", of("vtrain-single"), "MAPE 6, p90 13"),
    ("paper-2205.05198, 22B to 1T (never fitted)", of("paper-2205.05198"), "MAPE 3.6, worst 8"),
    ("llm-foundry, MPT under FSDP", of("llm-foundry"), "MAPE 7"),
    ("bigscience-tr11, 176B class", of("bigscience-tr11"), "MAPE 8"),
    ("dense pre-training on H100, H200, B200", both(is_dense, _NEW, on("h100", "h200", "b200")), "MAPE 8"),
    ("paper-2411.05288, baseline pipelines", of("paper-2411.05288"), "MAPE 6"),
    ("megatron-bridge, sparse models", both(of("megatron-bridge"), lambda r: not is_dense(r)), "MAPE 20"),
    (
        "megatron-bridge, sparse, H100 and B200",
        both(of("megatron-bridge"), lambda r: not is_dense(r), on("h100", "b200")),
        "MAPE 15",
    ),
    ("every dense row that states its layout and recompute", is_stated, "MAPE 9, median 5"),
]


def assumptions_of(row: RowResult) -> str:
    """The widest kind of assumption, as the interval sees it."""
    kinds = set(row.problem.assumed) if row.problem is not None else set()
    for kind in ("layout", "recompute", "network", "software", "micro_batch", "numerics"):
        if kind in kinds:
            return kind.replace("_", "-")
    return "nothing or little"


def regime(row: RowResult) -> tuple[str, ...]:
    """GPU generation, dense or sparse, scale, widest assumption."""
    p = row.problem
    if p is None:
        return ("", "", "", "")
    generation = p.cluster.gpu.architecture + (" (borrowed)" if is_borrowed(p.cluster, p.workload) else "")
    scale = f"up to {SCALE}" if p.n_gpus <= SCALE else f"over {SCALE}"
    return (generation, "dense" if is_dense(row) else "sparse", scale, assumptions_of(row))


# -- sections -----------------------------------------------------------------------------------------------------


def percent(value: float, digits: int = 1) -> str:
    """A share in percent without its sign, ``-`` where unknown."""
    return "-" if math.isnan(value) else f"{100 * value:.{digits}f}"


def lines_of(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, the first column to the left."""
    out = ["| " + " | ".join(header) + " |", "|" + "---|" + "---:|" * (len(header) - 1)]
    return "\n".join([*out, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def shipped_section(result: BacktestResult) -> str:
    """The profiles as they are, by source."""
    table = score_rows(result.rows)
    header = ["tokens/s per GPU", "rows", "predicted", "scored", "seen", "MAPE", "median", "p90", "bias", "in 90%"]
    rows = []
    for name, s in table.sets.items():
        if not s.scored or (name == "all, unseen" and s.scored == table.sets["all pre-training"].scored):
            continue
        mine = [r for r in result.predicted if set_name(r) == name and not is_duplicate(r)]
        seen = "-" if name.startswith("all") else percent(sum(r.seen for r in mine) / max(len(mine), 1), 0)
        bias = f"{100 * s.bias:+.1f}"
        rows.append(
            [name, str(s.rows), str(s.predicted), str(s.scored), seen, percent(s.mape), percent(s.median),
             percent(s.p90), bias, percent(s.interval_coverage, 0)]
        )  # fmt: skip
    skipped = [f"- {count} rows: {reason}" for reason, count in sorted(table.skipped.items(), key=lambda i: -i[1])[:4]]
    left = sum(table.skipped.values())
    listing = (
        f"\nNot predicted: {left} rows, and {table.duplicates} duplicate listings not scored. Commonest reasons:\n\n"
    )
    return lines_of(header, rows) + listing + "\n".join(skipped) + "\n"


def memory_section(result: BacktestResult) -> str:
    """Peak memory and out-of-memory calls, by source."""
    table = score_rows(result.rows)
    return markdown_table(table, MEMORY_COLUMNS, "peak memory (%)", "memory_rows") + "\n" + _outcomes(result)


def memory_left_out_section(result: BacktestResult) -> str:
    """Peak memory with the run's group left out of the fit of context, communicators and slack."""
    fits = fit_memory(memory_data(result))
    data = fits.data
    sources = np.array([set_name(row) for row in data.results], dtype=object)
    stated = np.array([row.status == "ok" for row in data.results])
    described = np.array([is_stated(row) for row in data.results])
    sets = [(str(name), data.usable & (sources == name)) for name in dict.fromkeys(sources[data.usable])]
    sets += [
        ("all pre-training", data.usable),
        ("all, as stated", data.usable & stated),
        ("all, layout and recompute stated", data.usable & described),
    ]
    header = ["peak memory (%)", "rows", "fitted: MAPE", "under", "left out: MAPE", "under"]
    rows = []
    for name, mine in sets:
        pairs = [(mean_error(e[mine]), under_share(e[mine])) for e in (fits.error, fits.error_left_out)]
        rows.append([name, str(int(mine.sum())), *(percent(value) for pair in pairs for value in pair)])
    return lines_of(header, rows)


def _outcomes(result: BacktestResult) -> str:
    whole = score(plain(result.rows))
    told = score([r for r in plain(result.rows) if r.status == "ok" or is_stated(r)])
    known = [r for r in result.rows if math.isfinite(measured(r, "peak_memory_gb"))]
    uncounted = sum(not counting_of(r.run).known for r in known)
    skipped = f" {uncounted} of {len(known)} rows do not say how their peak was counted and are not scored."
    text = (
        f"Of {whole.oom_rows} runs that ran out of memory {percent(whole.oom_recall, 0)}% are called infeasible; of "
        f"the runs that went through {percent(whole.false_alarms)}% are (false alarms). Of those that describe their "
        f"layout and recomputation it is {percent(told.oom_recall, 0)}% of {told.oom_rows}, with "
        f"{percent(told.false_alarms)}% false alarms."
    )
    return textwrap.fill(text + (skipped if uncounted else ""), 118) + "\n"


def held_out_section(group: BacktestResult, source: BacktestResult) -> str:
    """Both folds side by side, by source."""
    header = ["left out", "rows", "group: MAPE", "median", "p90", "in 90%", "source: MAPE", "median", "p90", "in 90%"]
    names = dict.fromkeys(set_name(r) for r in plain(group.rows))
    rows = []
    for name in [*names, "all pre-training"]:
        a, b = (score([r for r in plain(x.rows) if name in (set_name(r), "all pre-training")]) for x in (group, source))
        if a.scored:
            rows.append([name, str(a.scored), *_four(a), *_four(b)])
    return lines_of(header, rows)


def _four(s: Score) -> list[str]:
    return [percent(s.mape), percent(s.median), percent(s.p90), percent(s.interval_coverage, 0)]


def aims_section(group: BacktestResult, source: BacktestResult) -> str:
    """Sets of interest against what they are meant to reach."""
    header = ["set (left out by group)", "rows", "MAPE", "median", "p90", "worst", "aim", "source left out: MAPE"]
    rows = []
    for name, wanted, aim in AIMS:
        chosen = [r for r in plain(group.rows) if wanted(r)]
        a, b = score(chosen), score([r for r in plain(source.rows) if wanted(r)])
        worst = max((abs(e) for e in errors(chosen)), default=math.nan)
        if a.scored:
            figures = [percent(a.mape), percent(a.median), percent(a.p90), percent(worst, 0)]
            rows.append([name, str(a.scored), *figures, aim, percent(b.mape)])
    return lines_of(header, rows)


def errors(rows: Sequence[RowResult]) -> list[float]:
    """Signed relative errors of the rows that can be scored."""
    good = [r for r in rows if r.status != "skipped" and not is_inconsistent(r)]
    pairs = [(r.tokens_per_s_per_gpu, measured(r, "tps_gpu_effective")) for r in good]
    return [guess / real - 1.0 for guess, real in pairs if math.isfinite(real)]


def choice_section(group: BacktestResult) -> str:
    """Picking among measured plans of one problem."""
    header = [
        "left out by group",
        "groups",
        "best picked %",
        "mean regret %",
        "Spearman in groups",
        "over groups of 5 or more",
        "over set",
    ]
    rows = []
    for name in [*dict.fromkeys(set_name(r) for r in plain(group.rows)), "all pre-training"]:
        s = score([r for r in plain(group.rows) if name in (set_name(r), "all pre-training")])
        if s.choice_groups:
            ranks = [
                "-" if math.isnan(v) else f"{v:.2f}" for v in (s.group_spearman, s.large_group_spearman, s.spearman)
            ]
            rows.append([name, str(s.choice_groups), percent(s.best_picked, 0), percent(s.regret), *ranks])
    return lines_of(header, rows)


def interval_section(group: BacktestResult) -> str:
    """Coverage and width of the 90% intervals."""
    rows_ = plain(group.rows)
    sizes: dict[str, int] = {}
    for r in rows_:
        sizes[set_name(r)] = sizes.get(set_name(r), 0) + bool(errors([r]))
    largest = sorted(sizes, key=lambda n: -sizes[n])[:5]
    sets: list[tuple[str, Wanted]] = [(f"{name} (one of the five largest)", of(name)) for name in largest]
    sets += [
        ("all", lambda r: True),
        ("dense on A100 and H100", both(is_dense, on("a100", "h100"))),
        ("sparse", lambda r: not is_dense(r)),
        ("as stated", lambda r: r.status == "ok"),
        ("something assumed", lambda r: r.status == "assumed"),
    ]
    out = []
    for name, wanted in sets:
        s = score([r for r in rows_ if wanted(r)])
        out.append([name, str(s.scored), percent(s.interval_coverage), percent(s.half_width)])
    return lines_of(["left out by group", "rows", "inside 90% interval %", "median half-width %"], out)


def regime_section(group: BacktestResult, least: int = 5) -> str:
    """Residuals by regime, largest error first."""
    sets: dict[tuple[str, ...], list[float]] = {}
    for row in plain(group.rows):
        sets.setdefault(regime(row), []).extend(errors([row]))
    ranked = sorted(((k, v) for k, v in sets.items() if len(v) >= least), key=lambda i: -np.mean(np.abs(i[1])))
    rows = [
        [", ".join(key), str(len(v)), percent(float(np.mean(np.abs(v)))), f"{100 * np.median(v):+.1f}",
         percent(float(np.quantile(np.abs(v), 0.9)))]
        for key, v in ranked[:12]
    ]  # fmt: skip
    return lines_of(["GPU, model, GPUs, assumed", "rows", "MAPE", "bias", "p90"], rows)


def sentence(group: BacktestResult, source: BacktestResult) -> str:
    """What README.md says."""
    a, b = (score([r for r in plain(x.rows) if is_stated(r)]) for x in (group, source))
    moe = score([r for r in plain(group.rows) if not is_dense(r)])
    whole = score(plain(group.rows))
    text = (
        f"On {a.scored} published dense runs that state their layout the mean error of tokens/s is {percent(a.mape)}% "
        f"(median {percent(a.median)}%) when the run's group is left out of the fit, and {percent(b.mape)}% (median "
        f"{percent(b.median)}%) when its whole source is; on {moe.scored} sparse runs it is {percent(moe.mape)}%. "
        f"{percent(whole.interval_coverage, 0)}% of all {whole.scored} left-out runs lie inside their 90% interval."
    )
    return textwrap.fill(text, 118) + "\n"


# -- page ---------------------------------------------------------------------------------------------------------


def filled(page: str, old: str, sections: dict[str, str]) -> str:
    """Replace ``{{name}}`` by a section, or by what the old page holds between the marks of that section."""

    def text(match: re.Match[str]) -> str:
        name = match.group(1)
        start, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
        kept = old.partition(start)[2].partition(end)[0] or "Not computed yet: run with `--held-out`.\n"
        return start + sections.get(name, kept) + end

    return re.sub(r"^\{\{(\w+)\}\}\n", text, page, flags=re.MULTILINE)


def main() -> None:
    """Compute the sections and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tables", nargs="*", help="CSV files of measured runs")
    parser.add_argument("--held-out", action="store_true", help="also predict every run without its group and source")
    asked = parser.parse_args()
    paths = tables(asked.tables)
    result = backtest(paths)
    scored = sum(bool(errors([r])) for r in plain(result.rows))
    data = f"{len(paths)} tables, {len(result.rows)} rows, {scored} pre-training rows scored.\n"
    sections = {"data": data, "shipped": shipped_section(result), "memory": memory_section(result)}
    sections["memory_left_out"] = memory_left_out_section(result)
    IMAGES.mkdir(exist_ok=True)
    if asked.held_out:
        fits = calibrate(result, leave_out=NEVER_FITTED)
        group, source = (predict_held_out(result, fits, by) for by in ("group", "source"))
        sections |= {
            "held_out": held_out_section(group, source),
            "aims": aims_section(group, source),
            "choice": choice_section(group),
            "intervals": interval_section(group),
            "regimes": regime_section(group),
        }
        points = [(set_name(r), r, e) for r in plain(group.rows) for e in errors([r])]
        scatter_plot([(n, measured(r, "tps_gpu_effective"), r.tokens_per_s_per_gpu) for n, r, _ in points], IMAGES)
        spread_plot([(", ".join(regime(r)[:3]), e) for _, r, e in points], IMAGES)
        write_readme(sentence(group, source))
    old = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    PAGE.write_text(filled(TEXT.read_text(encoding="utf-8"), old, sections), encoding="utf-8")


def write_readme(text: str) -> None:
    """Replace README.md's accuracy sentence, which stands between two marks."""
    start, end = "<!-- accuracy: written by docs/refresh_accuracy.py -->\n", "<!-- end of accuracy -->\n"
    page = README.read_text(encoding="utf-8")
    if start in page and end in page:
        README.write_text(page.partition(start)[0] + start + text + end + page.partition(end)[2], encoding="utf-8")
    else:
        print(f"{README.name} has no marks for this sentence:\n{text}", file=sys.stderr)


if __name__ == "__main__":
    main()
