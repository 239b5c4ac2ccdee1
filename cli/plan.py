"""``meshwright plan``: rank every way to train a model on a cluster."""

from __future__ import annotations

import json
import time
from pathlib import Path

from . import options as o
from .output import check_writable, note, progress, write_text


def plan(
    model: o.ModelArg,
    cluster: o.ClusterOpt,
    seq_len: o.SeqLenOpt = None,
    global_batch: o.GlobalBatchOpt = None,
    nodes: o.NodesOpt = None,
    gpus: o.GpusOpt = None,
    framework: o.FrameworkOpt = o.Framework.MEGATRON_LM,
    software: o.SoftwareOpt = None,
    precision: o.PrecisionOpt = o.Precision.BF16,
    optimizer: o.OptimizerOpt = o.Optimizer.ADAM_FP32,
    grad_dtype: o.GradDtypeOpt = None,
    task: o.TaskOpt = o.Task.PRETRAIN,
    lora_rank: o.LoraRankOpt = 0,
    lora_targets: o.LoraTargetsOpt = o.LoraTargets.ATTENTION,
    pin: o.PinOpt = None,
    exclude: o.ExcludeOpt = None,
    allow: o.AllowOpt = None,
    objective: o.ObjectiveOpt = o.Objective.THROUGHPUT,
    max_memory: o.MaxMemoryOpt = None,
    fit_confidence: o.FitConfidenceOpt = None,
    top: o.TopOpt = 10,
    refine: o.RefineOpt = o.Refine.DEFAULT,
    time_limit: o.TimeLimitOpt = None,
    tokens: o.TokensOpt = None,
    price: o.PriceOpt = None,
    as_json: o.JsonOpt = False,
    out: o.OutOpt = None,
    report: o.ReportOpt = None,
    force: o.ForceOpt = False,
) -> None:
    """Rank every way to train MODEL on a cluster, and say what was ruled out.

    The search is exhaustive over what the framework can run. Numerics are inputs: the search varies them only with
    --allow.
    """
    started = time.perf_counter()
    for path, flag in ((out, "--out"), (report, "--report")):
        if path is not None:
            check_writable(path, force=force, flag=flag)
    from ..hardware_profiles.load_mixed import is_mixed_file
    from .parse_config import parse_excludes, parse_pins
    from .request import Request, build_problem, node_range

    request = Request(
        model=model,
        cluster=cluster,
        seq_len=seq_len,
        global_batch=global_batch,
        nodes=nodes,
        gpus=gpus,
        framework=framework.value,
        software=software,
        precision=precision.value,
        optimizer=optimizer.value,
        grad_dtype=grad_dtype.value if grad_dtype else None,
        task=task.value,
        lora_rank=lora_rank,
        lora_targets=lora_targets.value,
        max_memory=max_memory,
        fit_confidence=fit_confidence,
        tokens=tokens,
        price=price,
        objective=objective.value,
        allow=allow or (),
        top=top,
        refine=refine.value,
        time_limit=time_limit,
        pins=parse_pins(pin or (), "--pin"),
        excludes=parse_excludes(exclude or (), "--exclude"),
    )
    if is_mixed_file(cluster):
        from .mixed import plan_pools

        plan_pools(request, started, as_json=as_json, out=out, report=report, force=force)
        return
    span = node_range(request)
    if span is not None and span[0] != span[1]:
        from ..planner.plan_json import to_json
        from .sizing import plans_of_best, size_run

        sizing = size_run(request, span, as_json=as_json)
        if out is not None:
            write_text(out, to_json(plans_of_best(request, sizing)), force=force, flag="--out")
            note(f"wrote {out}: the plans on {sizing.points[sizing.best].nodes} nodes")
        if report is not None:
            write_report(report, {}, started, force=force)
        return
    problem = build_problem(request)
    loaded = time.perf_counter()

    from ..planner.plan_json import to_json
    from ..planner.search import plan as search
    from .table import plan_table, search_line

    with progress("pricing every plan"):
        answer = search(problem, time_limit_s=time_limit)
    searched = time.perf_counter()
    if out is not None:
        write_text(out, to_json(answer), force=force, flag="--out")
    line = search_line(answer, time.perf_counter() - started)
    if as_json:
        print(to_json(answer), end="")
    else:
        print(plan_table(answer))
        print(line)
    if report is not None:
        write_report(report, {"load_s": loaded - started, "search_s": searched - loaded}, started, force=force)
    elif as_json:
        note(line)
    if out is not None:
        note(f"wrote {out}")


def write_report(path: Path, parts: dict[str, float], started: float, *, force: bool) -> None:
    """Write the timings of a run, which plan.json leaves out, as JSON."""
    timings = {**parts, "total_s": time.perf_counter() - started}
    write_text(path, json.dumps(timings, indent=2) + "\n", force=force, flag="--report")
