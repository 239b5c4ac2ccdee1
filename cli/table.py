"""Plain tables of at most 100 columns: the same bytes on a terminal and in a pipe."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from ..costmodels.parallel import CpComm, ParallelConfig, Schedule, VocabParallel, recompute_label
from ..planner.plan import Plan, PlanSet
from .output import WIDTH

PLAN_HEADER = (
    "rank", "tp", "cp", "ep", "pp(vp)", "dp", "shard", "mbs", "recompute",
    "step s", "tok/s/GPU", "MFU", "peak GB", "of GPU", "bubble", "comm",
)  # fmt: skip
TIE_MARK = "*"
CUT_MARK = "~"
_VOCABULARY_MARKS = {
    VocabParallel.NONE: "",
    VocabParallel.TWO_BARRIERS: "v1",
    VocabParallel.ONE_BARRIER: "v2",
    VocabParallel.INTERLACED: "vi",
}


def render(header: Sequence[str], rows: Sequence[Sequence[str]], *, left: Sequence[int] = ()) -> str:
    """Align columns: numbers to the right, the columns numbered in ``left`` to the left.

    Where rows would pass 100 columns the gaps narrow, then the widest text column is cut (``~`` ends a cut cell).
    """
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    gap = "  " if sum(widths) + 2 * (len(widths) - 1) <= WIDTH else " "
    excess = sum(widths) + len(gap) * (len(widths) - 1) - WIDTH
    if excess > 0 and left:
        widest = max(left, key=lambda i: widths[i])
        widths[widest] = max(4, widths[widest] - excess)
    out = []
    for line in lines:
        cut = [c if len(c) <= w else c[: w - 1] + CUT_MARK for c, w in zip(line, widths, strict=True)]
        cells = [c.ljust(w) if i in left else c.rjust(w) for i, (c, w) in enumerate(zip(cut, widths, strict=True))]
        out.append(gap.join(cells).rstrip())
    return "\n".join(out)


def shard_label(config: ParallelConfig, framework: str) -> str:
    """``DDP``, ``ZeRO-1``, ``FSDP``, ``HSDP/8`` ... for the sharding of model states."""
    if config.zero_stage == 0:
        return "DDP"
    whole = config.dp_shard == config.dp * config.cp
    if framework in ("torchtitan", "pytorch"):
        kind = ("FSDP" if whole else "HSDP") + ("(z2)" if config.zero_stage == 2 else "")
    else:
        kind = f"ZeRO-{config.zero_stage}"
    plus = f"hpz{config.hpz}" * (config.hpz > 0)
    plus += "w" * (config.quantized_weights > 0) + "g" * (config.quantized_gradients > 0)
    if plus:
        kind, plus = f"Z{config.zero_stage}", f"+{plus}"
    offload = "+off" if config.optimizer_offload else ""
    return (kind if whole else f"{kind}/{config.dp_shard}") + plus + offload


def pipeline_label(plan: Plan) -> str:
    """``8``, ``8(4)`` with four chunks, the schedule where it is not 1F1B, how the vocabulary is split, and ``u`` for
    layers dealt one by one."""
    config = plan.config
    text = f"{config.pp}({config.vp})" if config.vp > 1 else str(config.pp)
    marks = {Schedule.GPIPE: "g", Schedule.ZERO_BUBBLE_H1: "z", Schedule.ZERO_BUBBLE_V: "zv"}
    text += marks.get(Schedule(config.schedule), "") + _VOCABULARY_MARKS[VocabParallel(config.vocab_parallel)]
    return text + "u" * bool(plan.stage_layout)


def context_label(config: ParallelConfig) -> str:
    """The context-parallel degree, with ``u`` for Ulysses and ``a`` for all-gather."""
    marks = {CpComm.ALL_GATHER: "a", CpComm.ULYSSES: "u"}
    return str(config.cp) + (marks.get(CpComm(config.cp_comm), "") if config.cp > 1 else "")


def expert_label(config: ParallelConfig) -> str:
    """The expert-parallel degree, with the experts' tensor degree behind a ``x`` where it is not 1."""
    return f"{config.ep}x{config.etp}" if config.etp > 1 else str(config.ep)


def plan_row(plan: Plan, framework: str) -> list[str]:
    """Cells of one plan under ``PLAN_HEADER``."""
    c, m = plan.config, plan.metrics
    return [
        f"{plan.rank}{TIE_MARK if tied_with_best(plan) else ' '}",
        str(c.tp),
        context_label(c),
        expert_label(c),
        pipeline_label(plan),
        str(c.dp),
        shard_label(c, framework),
        str(c.micro_batch_size),
        recompute_label(c.recompute, c.recompute_layers),
        number(m["step_s"]),
        f"{m['tokens_per_s_per_gpu']:,.0f}",
        percent(m["mfu"]),
        f"{m['peak_bytes'] / 1e9:.1f}",
        f"{m['memory_share'] * 100:.0f}%",
        percent(m["bubble_fraction"]),
        percent(m["exposed_comm_fraction"]),
    ]


def plan_table(answer: PlanSet) -> str:
    """The ranked table, and a line on ties where there are any."""
    framework = answer.problem.framework
    varied = len(answer.problem.precisions) > 1
    header = [*PLAN_HEADER, "precision"] if varied else list(PLAN_HEADER)
    rows = [[*plan_row(p, framework), *([p.precision] if varied else [])] for p in answer.plans]
    text = render(header, rows, left=(6, 8))
    if any(tied_with_best(p) for p in answer.plans):
        text += f"\n{TIE_MARK} tied with rank 1: the difference is inside the noise of the model"
    return text


def tied_with_best(plan: Plan) -> bool:
    """Whether the plan cannot be told from the best one (the best itself: from any other)."""
    return bool(plan.tied_with) and (plan.rank == 1 or 1 in plan.tied_with)


def search_line(answer: PlanSet, seconds: float) -> str:
    """How many candidates there were, what removed the others, and the time taken."""
    s = answer.search
    removed = [f"{rule} {count:,}" for rule, count in s.removed.items() if count]
    if s.removed_by_memory:
        removed.append(f"memory {s.removed_by_memory:,}")
    what = f"; removed by {', '.join(removed)}" if removed else ""
    deep = f", {s.refined} refined" if s.refined else ""
    deep += "" if s.reproducible else " until the time limit (not reproducible)"
    text = f"{s.enumerated:,} candidates{what}; {s.feasible:,} ranked{deep}; {seconds:.2f} s"
    return textwrap.fill(text, WIDTH, subsequent_indent="  ", break_on_hyphens=False)


def percent(share: float) -> str:
    """A share as text with one decimal."""
    return f"{share * 100:.1f}%"


def number(value: float) -> str:
    """Three or four significant digits without exponent."""
    if value == 0:
        return "0"
    digits = 3 if abs(value) < 0.1 else 2 if abs(value) < 100 else 1
    return f"{value:,.{digits}f}"
