"""A simulated pipeline as text: a table of stages and a Gantt chart of at most 100 columns."""

from __future__ import annotations

from typing import Any

from ..costmodels.schedules import PassKind, Simulation, device_order
from ..planner.timeline import Timeline
from .output import WIDTH
from .table import number, percent, render

#: Marks of passes that carry no number of their micro-batch.
_MARKS = {
    PassKind.WEIGHT_GRADIENT: "w",
    PassKind.OUTPUT_S: "S",
    PassKind.OUTPUT_T: "T",
    PassKind.OUTPUT_HEAD: "H",
    PassKind.INPUT_FORWARD: "i",
    PassKind.INPUT_BACKWARD: "i",
}
_HEADER = ("stage", "busy s", "bubble s", "bubble", "in flight", "until W")


def timeline_text(result: Timeline) -> str:
    """Summary, table of stages, Gantt chart."""
    run = result.simulation
    lines = [
        f"{result.schedule}, {run.schedule.n_devices} stages, {result.n_micro} micro-batches: "
        f"{number(run.makespan_s)} s, bubble {percent(run.bubble_fraction)}, "
        f"one transfer between stages {number(1e3 * result.hop_s)} ms" + "; layers dealt one by one" * result.dealt,
        _closed_form_line(result),
        "",
        render(_HEADER, _stage_rows(run)),
        "",
        gantt(run),
        "",
        _legend(run),
    ]
    return "\n".join(lines)


def _legend(run: Simulation) -> str:
    words = ["0-9: forward of a micro-batch (last digit), a-j: its backward"]
    named = {
        PassKind.WEIGHT_GRADIENT: "w: weight gradient",
        PassKind.OUTPUT_S: "S, T: the head's passes",
        PassKind.OUTPUT_HEAD: "H: head",
    }
    words += [text for kind, text in named.items() if kind in run.schedule.kinds]
    return ", ".join([*words, ".: waiting"])


def timeline_json(result: Timeline) -> dict[str, Any]:
    """The same as data, with every pass."""
    run = result.simulation
    whole, held = run.peak_in_flight(), run.peak_in_flight(until_weight_gradient=True)
    stages = []
    for d in range(run.schedule.n_devices):
        stages.append(
            {
                "stage": d,
                "busy_s": float(run.busy_s[d]),
                "bubble_s": float(run.bubble_s[d]),
                "peak_in_flight": float(whole[d]),
                "peak_in_flight_until_weight_gradient": float(held[d]),
                "passes": [
                    {"kind": kind.name.lower(), "micro_batch": i, "chunk": chunk, "start_s": start, "end_s": end}
                    for kind, i, chunk, start, end in device_order(run, d)
                ],
            }
        )
    return {
        "schedule": result.schedule,
        "micro_batches": result.n_micro,
        "makespan_s": run.makespan_s,
        "closed_form_s": result.closed_form_s,
        "dealt": result.dealt,
        "bubble_fraction": run.bubble_fraction,
        "hop_s": result.hop_s,
        "stages": stages,
    }


def gantt(run: Simulation, width: int = WIDTH) -> str:
    """One line per device; a column shows the pass that fills most of it, ``.`` where none fills half.

    A step too long for a column per forward shows its beginning and its end.
    """
    columns = width - len(str(run.schedule.n_devices - 1)) - 1
    shortest = min(end - start for kind, *_, start, end in device_order(run, 0) if kind == PassKind.FORWARD)
    window = columns * shortest
    if run.makespan_s <= 1.5 * window:
        return _chart(run, 0.0, run.makespan_s, columns)
    return "\n".join(
        [
            f"the first {number(window)} s",
            _chart(run, 0.0, window, columns),
            f"the last {number(window)} s",
            _chart(run, run.makespan_s - window, run.makespan_s, columns),
        ]
    )


def _chart(run: Simulation, begin_s: float, end_s: float, columns: int) -> str:
    label = len(str(run.schedule.n_devices - 1))
    per_column = (end_s - begin_s) / columns
    lines = []
    for d in range(run.schedule.n_devices):
        filled, marks = [0.5 * per_column] * columns, ["."] * columns
        for kind, i, _, start, end in device_order(run, d):
            start, end = start - begin_s, end - begin_s
            for k in range(max(int(start / per_column), 0), min(int(end / per_column), columns - 1) + 1):
                share = min(end, (k + 1) * per_column) - max(start, k * per_column)
                if share >= filled[k]:
                    filled[k], marks[k] = share, _mark(kind, i)
        lines.append(f"{d:>{label}} " + "".join(marks))
    return "\n".join(lines)


def _mark(kind: PassKind, micro_batch: int) -> str:
    if kind == PassKind.FORWARD:
        return str(micro_batch % 10)
    return _MARKS.get(kind) or "abcdefghij"[micro_batch % 10]


def _stage_rows(run: Simulation) -> list[list[str]]:
    whole, held = run.peak_in_flight(), run.peak_in_flight(until_weight_gradient=True)
    return [
        [
            str(d),
            number(float(run.busy_s[d])),
            number(float(run.bubble_s[d])),
            percent(float(run.bubble_s[d]) / run.makespan_s),
            f"{whole[d]:.1f}",
            f"{held[d]:.1f}",
        ]
        for d in range(run.schedule.n_devices)
    ]


def _closed_form_line(result: Timeline) -> str:
    if result.closed_form_s is None:
        return "the planner has no closed form of this schedule"
    gap = result.closed_form_s / result.simulation.makespan_s - 1.0
    return f"closed form of the planner: {number(result.closed_form_s)} s ({gap:+.1%} of the simulation)"
