"""``meshwright plan`` on a cluster of pools: the search, its tables, its document."""

from __future__ import annotations

import json
import textwrap
import time
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from ..costmodels.parallel import recompute_label
from ..planner.mixed.plan import MixedPlan, MixedPlanSet, MixedStage, Pipelines
from ..planner.mixed.plan_json import plan_label, to_json
from ..planner.mixed.search import plan_mixed
from .output import WIDTH, note, progress, write_text
from .request import Request, build_mixed_problem
from .table import number, percent, render

_RANK_HEADER = ("rank", "shape", "stages (layers)", "step s", "tok/s/GPU", "MFU", "GPUs", "of GPU", "recompute")
_STAGE_HEADER = ("stages", "pool", "tp", "cp", "dp", "layers", "mbs", "micro-batches", "recompute", "s each", "of GPU")
_SHAPES = {"pipeline across pools": "pipeline", "replicas in each pool": "replicas", "one pool alone": "one pool"}


def plan_pools(
    request: Request, started: float, *, as_json: bool, out: Path | None, report: Path | None, force: bool
) -> None:
    """Search, print and write the plans of a cluster of pools."""
    problem = build_mixed_problem(request)
    loaded = time.perf_counter()
    with progress("pricing pipelines and replicas across pools"):
        answer = plan_mixed(problem)
    searched = time.perf_counter()
    if out is not None:
        write_text(out, to_json(answer), force=force, flag="--out")
    line = _search_line(answer, time.perf_counter() - started)
    if as_json:
        print(to_json(answer), end="")
    else:
        print(mixed_table(answer))
        print(line)
    if report is not None:
        parts = {"load_s": loaded - started, "search_s": searched - loaded, "total_s": searched - started}
        write_text(report, json.dumps(parts, indent=2) + "\n", force=force, flag="--report")
    elif as_json:
        note(line)
    if out is not None:
        note(f"wrote {out}")


def mixed_table(answer: MixedPlanSet) -> str:
    """Ranked plans, the stages of the first, the best plan of each pool alone, and what more freedom would buy."""
    blocks = [render(_RANK_HEADER, [_rank_row(p) for p in answer.plans], left=(1, 2, 8))]
    best = answer.plans[0]
    blocks.append(f"rank 1, stage by stage ({', '.join(_part(n, s, best) for n, s in best.time_s.items() if s)}):")
    blocks[-1] = textwrap.fill(blocks[-1], WIDTH, subsequent_indent="  ")
    blocks[-1] += "\n" + render(_STAGE_HEADER, [r for g in best.groups for r in _stage_rows(g)], left=(1, 8))
    if answer.single:
        header = ("pool alone", "plan", "step s", "tok/s/GPU", "MFU", "GPUs", "of GPU")
        blocks.append(render(header, [_single_row(p) for p in answer.single], left=(0, 1)))
    said = [*(f"rank 1: {reason}" for reason in best.reasons)]
    if answer.general is not None:
        saved = 1.0 - answer.general.metrics["step_s"] / best.metrics["step_s"]
        said.append(
            f"{saved:.1%} less step time ({number(answer.general.metrics['step_s'])} s) is possible where every pool "
            f"may have its own degrees, recomputation or share of the batch: {plan_label(answer.general)}; "
            "--framework any ranks such plans"
        )
    said += answer.search.notes
    blocks.append("\n".join(textwrap.fill(s, WIDTH, subsequent_indent="  ", break_on_hyphens=False) for s in said))
    return "\n\n".join(blocks)


def _part(name: str, seconds: float, plan: MixedPlan) -> str:
    return f"{name.removesuffix('_s').replace('_', ' ')} {percent(seconds / plan.metrics['step_s'])}"


def _rank_row(plan: MixedPlan) -> list[str]:
    m = plan.metrics
    return [
        str(plan.rank),
        _SHAPES[plan.shape],
        " & ".join(_short(g) for g in plan.groups),
        number(m["step_s"]),
        f"{m['tokens_per_s_per_gpu']:,.0f}",
        percent(m["mfu"]),
        str(int(m["gpus"])),
        f"{m['memory_share'] * 100:.0f}%",
        "/".join(dict.fromkeys(recompute_label(s.recompute) for g in plan.groups for s in g.stages)),
    ]


def _short(group: Pipelines) -> str:
    """``h100 2xtp4(23,22) a100 4xtp4(8,9,9,9) dp1``."""
    words = []
    for pool, run in groupby(group.stages, key=lambda s: s.pool):
        stages = list(run)
        words.append(f"{pool} {len(stages)}xtp{stages[0].tp}({_counts([s.layers for s in stages])})")
    return " ".join([*words, f"dp{group.dp}"])


def _counts(layers: Sequence[int]) -> str:
    return ",".join(f"{n}x{k}" if (k := len(list(run))) > 1 else str(n) for n, run in groupby(layers))


def _stage_rows(group: Pipelines) -> list[list[str]]:
    """One row for every run of like stages."""
    rows, at = [], 0
    for _, run in groupby(group.stages, key=_alike):
        stages = list(run)
        first, last = at, at + len(stages) - 1
        s = stages[0]
        rows.append(
            [
                str(first) if first == last else f"{first}-{last}",
                s.pool,
                str(s.tp),
                str(s.cp),
                str(group.dp),
                str(s.layers),
                str(group.micro_batch_size),
                str(group.micro_batches),
                recompute_label(s.recompute),
                number(s.micro_batch_s),
                f"{max(x.memory_share for x in stages) * 100:.0f}%",
            ]
        )
        at += len(stages)
    return rows


def _alike(stage: MixedStage) -> tuple[object, ...]:
    return (stage.pool, stage.tp, stage.cp, stage.layers, stage.recompute)


def _single_row(plan: MixedPlan) -> list[str]:
    m = plan.metrics
    words = plan_label(plan).removeprefix(f"{plan.pools[0]} ")
    return [
        plan.pools[0], words, number(m["step_s"]), f"{m['tokens_per_s_per_gpu']:,.0f}", percent(m["mfu"]),
        str(int(m["gpus"])), f"{m['memory_share'] * 100:.0f}%",
    ]  # fmt: skip


def _search_line(answer: MixedPlanSet, seconds: float) -> str:
    s = answer.search
    text = f"{s.enumerated:,} candidates, {s.priced:,} splits of layers solved; {s.optimality}; {seconds:.2f} s"
    return textwrap.fill(text, WIDTH, subsequent_indent="  ", break_on_hyphens=False)
