"""Options that several commands share, declared once so that they read and mean the same everywhere."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Framework(StrEnum):
    """What runs the plan."""

    MEGATRON_LM = "megatron-lm"
    TORCHTITAN = "torchtitan"
    DEEPSPEED = "deepspeed"
    PYTORCH = "pytorch"
    ANY = "any"


class Objective(StrEnum):
    """What the ranking minimises or maximises."""

    THROUGHPUT = "throughput"
    MEMORY = "memory"
    COST = "cost"


class Refine(StrEnum):
    """How far exact kernels take the listed plans."""

    OFF = "off"
    DEFAULT = "default"
    FULL = "full"


class Precision(StrEnum):
    """Recipe of the linear layers."""

    BF16 = "bf16"
    FP16 = "fp16"
    FP8 = "fp8"
    MXFP8 = "mxfp8"
    NVFP4 = "nvfp4"
    TF32 = "tf32"
    FP32 = "fp32"


class GradDtype(StrEnum):
    """Width of the gradient buffer."""

    FP32 = "fp32"
    BF16 = "bf16"


class Optimizer(StrEnum):
    """Optimizer and the width of its states."""

    ADAM_FP32 = "adam_fp32"
    ADAM_BF16 = "adam_bf16"
    ADAM_PRECISION_AWARE = "adam_precision_aware"
    ADAM_8BIT = "adam_8bit"
    ADAM_PURE_BF16 = "adam_pure_bf16"


class Task(StrEnum):
    """What is trained."""

    PRETRAIN = "pretrain"
    SFT = "sft"
    LORA = "lora"


class LoraTargets(StrEnum):
    """Which linear layers carry adapters."""

    ATTENTION = "attention"
    ALL = "all"


ModelArg = Annotated[str, typer.Argument(metavar="MODEL", help="A name of `meshwright models`, or a config.json.")]
ClusterOpt = Annotated[str, typer.Option(metavar="NAME", help="A cluster of `meshwright hardware`, or a YAML file.")]
NodesOpt = Annotated[str | None, typer.Option(metavar="N", help="Hosts; 1..64 sizes the run over a range.")]
OneNodesOpt = Annotated[str | None, typer.Option(metavar="N", help="Hosts.")]
GpusOpt = Annotated[int | None, typer.Option(min=1, metavar="N", help="GPUs, instead of --nodes.")]
SeqLenOpt = Annotated[
    int | None, typer.Option(min=1, metavar="TOKENS", help="Tokens of a sequence; default: the model's, at most 8192.")
]
GlobalBatchOpt = Annotated[
    int | None,
    typer.Option(min=1, metavar="SEQUENCES", help="Sequences of one optimizer step; default: 4M tokens' worth."),
]
GradDtypeOpt = Annotated[
    GradDtype | None, typer.Option(help="Gradients that are kept and reduced; default: the framework's own.")
]
FrameworkOpt = Annotated[Framework, typer.Option(help="Framework that must be able to run the plan.")]
SoftwareOpt = Annotated[str | None, typer.Option(metavar="NAME", help="Framework release; default: the newest known.")]
PrecisionOpt = Annotated[Precision, typer.Option(help="Recipe of the linear layers.")]
OptimizerOpt = Annotated[Optimizer, typer.Option(help="Optimizer and width of its states.")]
TaskOpt = Annotated[Task, typer.Option(help="Kind of training.")]
LoraRankOpt = Annotated[int, typer.Option(min=0, metavar="R", help="Rank of the adapters with --task lora.")]
LoraTargetsOpt = Annotated[LoraTargets, typer.Option(help="Layers that carry adapters.")]
ObjectiveOpt = Annotated[Objective, typer.Option(help="What the ranking is by.")]
MaxMemoryOpt = Annotated[str | None, typer.Option(metavar="SIZE", help="Cap on a device's memory: 70GB, 64GiB or 90%.")]
FitConfidenceOpt = Annotated[
    float | None, typer.Option(min=0.0, max=1.0, metavar="P", help="Least probability of fitting in memory.")
]
PinOpt = Annotated[
    list[str] | None, typer.Option(metavar="NAME=VALUE,..", help="Keep only these values: tp=4,pp=2|4. Repeats.")
]
ExcludeOpt = Annotated[
    list[str] | None, typer.Option(metavar="NAME=VALUE,..", help="Leave out plans with all of these. Repeats.")
]
AllowOpt = Annotated[
    list[str] | None,
    typer.Option(metavar="WORD,..", help="Numerics that the search may vary: fp8,offload,quantized-comm. Repeats."),
]
TopOpt = Annotated[int, typer.Option(min=1, metavar="K", help="Plans to list.")]
RefineOpt = Annotated[Refine, typer.Option(help="Deal layers to stages anew: with a fixed effort, or all the way.")]
TimeLimitOpt = Annotated[
    float | None, typer.Option(min=0.0, metavar="SECONDS", help="Stop refining then; the plan is not reproducible.")
]
TokensOpt = Annotated[str | None, typer.Option(metavar="COUNT", help="Tokens of the whole run: 15T. Gives days.")]
PriceOpt = Annotated[float | None, typer.Option(min=0.0, metavar="DOLLARS", help="Price of a GPU hour. Gives dollars.")]
JsonOpt = Annotated[bool, typer.Option("--json", help="JSON on stdout and nothing else.")]
ForceOpt = Annotated[bool, typer.Option("--force", help="Overwrite files that exist.")]
OutOpt = Annotated[Path | None, typer.Option("-o", "--out", metavar="FILE", help="Write plan.json here.")]
ReportOpt = Annotated[Path | None, typer.Option(metavar="FILE", help="Write the timings of this run here, as JSON.")]
PlanFileArg = Annotated[Path, typer.Argument(metavar="PLAN.JSON", help="A file that `meshwright plan -o` wrote.")]
RankOpt = Annotated[int, typer.Option(min=1, metavar="R", help="Rank of the plan.")]
