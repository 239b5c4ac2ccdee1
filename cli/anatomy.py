"""One plan in full: degrees, time and memory part by part, intervals and reasons."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

from ..costmodels.parallel import CpComm, LayerSplit, ParallelConfig, Schedule, VocabParallel, recompute_label
from ..planner.compare import Comparison, Difference
from ..planner.explain import Explanation
from ..planner.plan import Plan, PlanSet, Refinement
from .output import WIDTH
from .table import number, percent, render, shard_label


def plan_anatomy(answer: PlanSet, plan: Plan) -> str:
    """Everything that is known about one plan, as text of at most 100 columns."""
    lines = head_lines(answer, plan)
    lines += ["", parts_table(plan.time_s, plan.memory_bytes)]
    if plan.reasons:
        lines += ["", *(line for reason in plan.reasons for line in wrap(f"- {reason}", indent=2))]
    return "\n".join(lines)


def head_lines(answer: PlanSet, plan: Plan) -> list[str]:
    """What is planned, and the totals with their intervals."""
    p, m = answer.problem, plan.metrics
    name = f"{p.model.name} on {p.cluster.nodes} x {p.cluster.gpus_per_node} {p.cluster.gpu.name} ({p.cluster.name})"
    paragraphs = [
        f"{name}: {p.workload.global_batch:,} sequences of {p.workload.seq_len:,} tokens a step, {plan.precision}, "
        f"{p.software.name}",
        "plan       " + config_label(plan.config, p.framework),
        f"step       {number(m['step_s'])} s (90%: {number(m['step_low_s'])} to {number(m['step_high_s'])} s), "
        f"{m['tokens_per_s_per_gpu']:,.0f} tokens/s/GPU, MFU {percent(m['mfu'])}, HFU {percent(m['hfu'])}",
        f"memory     {m['peak_bytes'] / 1e9:.1f} GB (90%: {m['peak_low_bytes'] / 1e9:.1f} to "
        f"{m['peak_high_bytes'] / 1e9:.1f} GB) of {p.cluster.gpu.memory_bytes / 1e9:.1f} GB on the fullest stage, "
        f"fits with probability {m['p_fit']:.2f}",
        f"pipeline   bubble {percent(m['bubble_fraction'])}, "
        f"exposed communication {percent(m['exposed_comm_fraction'])}"
        + (f"; layers per stage {stage_label(plan.stage_layers)}" if len(plan.stage_layers) > 1 else ""),
    ]
    if "days" in m:
        paragraphs.append(f"whole run  {m['days']:,.1f} days" + (f", ${m['dollars']:,.0f}" if "dollars" in m else ""))
    elif "dollars_per_million_tokens" in m:
        paragraphs.append(f"cost       ${m['dollars_per_million_tokens']:.3f} per million tokens")
    return [line for text in paragraphs for line in wrap(text)]


def config_label(config: ParallelConfig, framework: str) -> str:
    """One line that tells a plan from every other."""
    words = [f"{f}={getattr(config, f)}" for f in ("tp", "cp", "ep", "etp", "pp", "vp", "dp")]
    words += [f"micro-batch {config.micro_batch_size}", shard_label(config, framework)]
    words.append(f"recompute {recompute_label(config.recompute, config.recompute_layers)}")
    if config.pp > 1:
        words.append(field_label(config, "schedule"))
    if config.vocab_parallel:
        words.append(f"vocabulary split over the stages ({field_label(config, 'vocab_parallel')})")
    if config.cp > 1:
        words.append(field_label(config, "cp_comm"))
    flags = ("sequence_parallel", "overlap_grad_reduce", "overlap_param_gather", "tp_overlap", "optimizer_offload")
    idle = ("overlap_param_gather",) if config.zero_stage == 0 else ()  # nothing is sharded, so nothing is gathered
    words += [name.replace("_", "-") for name in flags if getattr(config, name) and name not in idle]
    return ", ".join(words)


def field_label(config: ParallelConfig, name: str) -> str:
    """The value of one field in words."""
    value = getattr(config, name)
    if name == "recompute":
        return recompute_label(value, config.recompute_layers)
    kinds = {"schedule": Schedule, "cp_comm": CpComm, "layer_split": LayerSplit, "vocab_parallel": VocabParallel}
    return kinds[name](value).name.lower().replace("_", "-") if name in kinds else str(value)


def explanation_text(answer: PlanSet, plan: Plan, explanation: Explanation) -> str:
    """A plan in full, each part with what makes it, and what the neighbours would cost."""
    lines = head_lines(answer, plan)
    for title, parts, unit, scale in (
        ("time of a step", explanation.time, "s", 1.0),
        ("memory at the peak", explanation.memory, "GB", 1e9),
    ):
        rows = [[part_name(p.name), number(p.amount / scale), percent(p.share), p.reason] for p in parts if p.amount]
        lines += ["", render([title, unit, "share", "because"], rows, left=(0, 3))]
    refined = [refinement_line(r) for r in plan.refinements]
    for title, sentences in (
        ("bounds", explanation.bound),
        ("ranking", plan.reasons),
        *([("what the solvers were asked", refined)] if refined else []),
        ("choices, and what the next values would change", explanation.choices),
    ):
        lines += ["", title, *(line for text in sentences for line in wrap(f"- {text}", indent=2))]
    return "\n".join(lines)


def refinement_line(r: Refinement) -> str:
    """What a kernel was asked for a plan, what it bought, and how good its answer is proven to be."""
    text = f"{r.kind}: {number(r.before_s)} s with even ones"
    if r.after_s == r.before_s:
        return f"{text}, kept"
    text += f", {number(r.after_s)} s as dealt ({r.after_s / r.before_s - 1.0:+.1%})"
    if r.solver:
        text += f"; {r.solver['solver']}: the deal is {r.solver['proof']} for stage times that add up over layers"
    if r.simulated_gain is not None:
        text += f"; the event simulator sees {r.simulated_gain:.1%} less time in the pipeline"
    return text


def comparison_text(first: str, second: str, result: Comparison) -> str:
    """Two plans side by side: fields, metrics and parts that differ."""
    rows = [[n, field_label(result.a.config, n), field_label(result.b.config, n)] for n, _, _ in result.fields]
    lines = [*wrap(result.sentence, indent=2), "", render(["field", first, second], rows, left=(0,))]
    lines += ["", _difference_table("metric", first, second, result.metrics)]
    lines += ["", _difference_table("time of a step, s", first, second, result.time)]
    lines += ["", _difference_table("memory at the peak, GB", first, second, result.memory, 1e9)]
    return "\n".join(lines)


def _difference_table(title: str, first: str, second: str, parts: Sequence[Difference], scale: float = 1.0) -> str:
    rows = []
    for d in parts:
        unit = 1e9 if d.name.endswith("_bytes") else scale
        name = d.name.replace("_bytes", "_gb") if unit != scale else part_name(d.name) if scale > 1 else d.name
        if d.change:
            rows.append([name, f"{d.a / unit:.4g}", f"{d.b / unit:.4g}", f"{d.change / unit:+.3g}"])
    return render([title, first, second, "change"], rows, left=(0,))


def parts_table(time_s: Mapping[str, float], memory_bytes: Mapping[str, float]) -> str:
    """Time and memory side by side, parts that are zero left out."""
    left = _shares(time_s, 1.0)
    right = _shares(memory_bytes, 1e9)
    blank = ["", "", ""]
    height = max(len(left), len(right))
    left += [blank] * (height - len(left))
    right += [blank] * (height - len(right))
    rows = [[*a, *b] for a, b in zip(left, right, strict=True)]
    return render(["time of a step", "s", "share", "memory at the peak", "GB", "share"], rows, left=(0, 3))


def stage_label(layers: tuple[int, ...]) -> str:
    """``8 x 10`` for equal stages, the list otherwise."""
    if len(set(layers)) == 1:
        return f"{len(layers)} x {layers[0]}"
    return " ".join(map(str, layers))


def part_name(name: str) -> str:
    """A part's name without its unit."""
    return name.removesuffix("_bytes").removesuffix("_s").replace("_", " ")


def wrap(text: str, *, indent: int = 11) -> list[str]:
    """Break a paragraph at 100 columns, later lines indented."""
    return textwrap.wrap(text, WIDTH, subsequent_indent=" " * indent, break_on_hyphens=False) or [""]


def _shares(parts: Mapping[str, float], unit: float) -> list[list[str]]:
    total = sum(parts.values()) or 1.0
    shown = sorted(((v, k) for k, v in parts.items() if v), key=lambda item: -abs(item[0]))
    return [[part_name(k), number(v / unit), percent(v / total)] for v, k in shown]
