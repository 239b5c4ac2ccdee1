"""``meshwright estimate``: predict time and memory of one configuration."""

from __future__ import annotations

from typing import Annotated

import typer

from . import options as o
from .output import check_writable, note, write_text


def estimate(
    model: o.ModelArg,
    cluster: o.ClusterOpt,
    seq_len: o.SeqLenOpt = None,
    global_batch: o.GlobalBatchOpt = None,
    nodes: o.OneNodesOpt = None,
    gpus: o.GpusOpt = None,
    tp: Annotated[int | None, typer.Option(min=1, metavar="N", help="Tensor-parallel degree.")] = None,
    cp: Annotated[int | None, typer.Option(min=1, metavar="N", help="Context-parallel degree.")] = None,
    ep: Annotated[int | None, typer.Option(min=1, metavar="N", help="Expert-parallel degree.")] = None,
    etp: Annotated[int | None, typer.Option(min=1, metavar="N", help="Tensor-parallel degree of experts.")] = None,
    pp: Annotated[int | None, typer.Option(min=1, metavar="N", help="Pipeline stages.")] = None,
    vp: Annotated[int | None, typer.Option(min=1, metavar="N", help="Model chunks per stage.")] = None,
    micro_batch: Annotated[int | None, typer.Option(min=1, metavar="N", help="Sequences of a micro-batch.")] = None,
    recompute: Annotated[
        str | None, typer.Option(metavar="MODE", help="none, selective, full, full/LAYERS, or modules: attn+act.")
    ] = None,
    zero: Annotated[int | None, typer.Option(min=0, max=3, metavar="0..3", help="ZeRO stage (3: FSDP).")] = None,
    config: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE,..", help="Other fields: schedule=gpipe,cp_comm=ulysses. Repeats."),
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Layers dealt one by one, as in Megatron-LM: Et*7|t*8|t*7L."),
    ] = None,
    framework: o.FrameworkOpt = o.Framework.MEGATRON_LM,
    software: o.SoftwareOpt = None,
    precision: o.PrecisionOpt = o.Precision.BF16,
    optimizer: o.OptimizerOpt = o.Optimizer.ADAM_FP32,
    grad_dtype: o.GradDtypeOpt = None,
    task: o.TaskOpt = o.Task.PRETRAIN,
    lora_rank: o.LoraRankOpt = 0,
    lora_targets: o.LoraTargetsOpt = o.LoraTargets.ATTENTION,
    max_memory: o.MaxMemoryOpt = None,
    tokens: o.TokensOpt = None,
    price: o.PriceOpt = None,
    as_json: o.JsonOpt = False,
    out: o.OutOpt = None,
    force: o.ForceOpt = False,
) -> None:
    """Predict time and memory of one configuration.

    Fields that are not given take the framework release's default; data parallelism fills the cluster.
    """
    if out is not None:
        check_writable(out, force=force, flag="--out")
    from .anatomy import plan_anatomy
    from .parse_config import parse_config_values, parse_field
    from .request import Request, build_problem, config_on_cluster

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
        tokens=tokens,
        price=price,
    )
    degrees = {"tp": tp, "cp": cp, "ep": ep, "etp": etp, "pp": pp, "vp": vp}
    degrees |= {"micro_batch_size": micro_batch, "zero_stage": zero}
    values = parse_config_values(config or (), "--set")
    values |= {name: value for name, value in degrees.items() if value is not None}
    if recompute is not None:
        values |= parse_field("recompute", recompute, "--recompute")
    problem = build_problem(request)

    from ..planner.launch_reader import explicit_layout
    from ..planner.plan_json import to_json
    from ..planner.search import estimate_plan

    chosen = config_on_cluster(values, problem)
    answer = estimate_plan(problem, chosen, explicit_layout(layout, problem.model, chosen) if layout else None)
    if out is not None:
        write_text(out, to_json(answer), force=force, flag="--out")
        note(f"wrote {out}")
    if as_json:
        print(to_json(answer), end="")
    else:
        print(plan_anatomy(answer, answer.plans[0]))
