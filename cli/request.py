"""From the words of a command line to a ``PlanningProblem``; loading and checking are the library's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..costmodels.load_model import load_model
from ..costmodels.load_software import default_software, load_era, on_gpu
from ..costmodels.model_spec import ModelSpec
from ..costmodels.parallel import ParallelConfig
from ..costmodels.software import Software
from ..costmodels.workload import Workload
from ..hardware_profiles.errors import InvalidProblemError
from ..hardware_profiles.load import load_cluster
from ..hardware_profiles.load_mixed import load_mixed
from ..hardware_profiles.names import is_yaml_path
from ..hardware_profiles.types import Gpu
from ..planner.launch_reader import ReadLaunch
from ..planner.mixed.problem import MixedProblem
from ..planner.problem import PlanningProblem
from ..planner.space import natural_split
from .output import note
from .parse import parse_count, parse_memory, parse_range, parse_words

#: What a pre-training step takes where nothing is said: sequences of 8,192 tokens, four million tokens a step.
DEFAULT_SEQ_LEN = 8192
DEFAULT_TOKENS_PER_STEP = 1 << 22


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What ``plan`` and ``estimate`` have in common, as typed by the user."""

    model: str
    cluster: str
    seq_len: int | None = None
    global_batch: int | None = None
    grad_dtype: str | None = None
    nodes: str | None = None
    gpus: int | None = None
    framework: str = "megatron-lm"
    software: str | None = None
    precision: str = "bf16"
    optimizer: str = "adam_fp32"
    task: str = "pretrain"
    lora_rank: int = 0
    lora_targets: str = "attention"
    max_memory: str | None = None
    fit_confidence: float | None = None
    tokens: str | None = None
    price: float | None = None
    objective: str = "throughput"
    allow: Sequence[str] = ()
    top: int = 10
    refine: str = "default"
    time_limit: float | None = None
    pins: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    excludes: tuple[Mapping[str, int], ...] = ()


def node_range(request: Request) -> tuple[int, int] | None:
    """Return the range of ``--nodes``, ``None`` where ``--gpus`` or the cluster's own file gives the size."""
    if request.nodes is not None and request.gpus is not None:
        raise InvalidProblemError("--nodes and --gpus both size the cluster; give one of them.")
    if request.nodes is None:
        own_file = is_yaml_path(request.cluster)  # a user's file states its own number of nodes
        if request.gpus is None and not own_file:
            raise InvalidProblemError("the size of the cluster is missing; give --nodes (hosts) or --gpus.")
        return None
    return parse_range(request.nodes, "--nodes")


def build_problem(request: Request, *, nodes: int | None = None) -> PlanningProblem:
    """Load what the request names and put the problem together.

    Args:
        nodes: hosts of one point of a range; default the only number in ``--nodes``.
    """
    if nodes is None:
        span = node_range(request)
        if span is not None and span[0] != span[1]:
            raise InvalidProblemError(f"--nodes: '{request.nodes}' is a range; only `meshwright plan` sizes a run.")
        nodes = span[0] if span else None
    _check_task(request)
    model = load_model(request.model)
    cluster = load_cluster(request.cluster, nodes=nodes, gpus=request.gpus)
    gpu = cluster.gpu
    software = _software(request.framework, request.software, gpu)
    workload = _workload(request, model, software)
    optional: dict[str, Any] = {"max_memory_bytes": _memory(request.max_memory, gpu)}
    if request.fit_confidence is not None:
        optional["fit_confidence"] = request.fit_confidence
    if request.tokens is not None:
        optional["tokens"] = parse_count(request.tokens, "--tokens")
    if request.price is not None:
        if not request.price > 0.0:
            raise InvalidProblemError("--price: must be above zero dollars for a GPU hour.")
        optional["price_per_gpu_hour"] = request.price
    return PlanningProblem(
        model=model,
        cluster=cluster,
        workload=workload,
        software=software,
        framework=request.framework,
        objective=request.objective,
        pins=request.pins,
        excludes=request.excludes,
        allow=parse_words(request.allow),
        top=request.top,
        refine=request.refine,
        **optional,
    )


def build_mixed_problem(request: Request) -> MixedProblem:
    """Load what a request on a cluster file with ``pools`` names, and refuse what is not planned there."""
    refused = {
        "--nodes": request.nodes is not None,
        "--gpus": request.gpus is not None,
        "--exclude": bool(request.excludes),
        "--allow": bool(request.allow),
        "--objective": request.objective != "throughput",
        "--price": request.price is not None,
        "--tokens": request.tokens is not None,
        "--refine": request.refine != "default",
        "--time-limit": request.time_limit is not None,
    }
    whys = dict.fromkeys(("--nodes", "--gpus"), "the file states the size of each pool") | dict.fromkeys(
        ("--refine", "--time-limit"), "the search across pools deals layers exactly, with a fixed effort; leave it out"
    )
    for flag in (flag for flag, given in refused.items() if given):
        why = whys.get(flag, "mixed plans lack it")
        raise InvalidProblemError(f"{flag} does not go with a cluster of pools ({request.cluster}): {why}.")
    _check_task(request)
    model, cluster = load_model(request.model), load_mixed(request.cluster)
    softwares = tuple(_software(request.framework, request.software, pool.gpu) for pool in cluster.pools)
    optional: dict[str, Any] = {}
    if request.max_memory is not None:
        if request.max_memory.strip().endswith("%"):
            raise InvalidProblemError("--max-memory: pools differ in memory; give a size such as 70GB, not a share.")
        most = max(pool.gpu.memory_bytes for pool in cluster.pools)
        optional["max_memory_bytes"] = parse_memory(request.max_memory, "--max-memory", device_bytes=most)
    if request.fit_confidence is not None:
        optional["fit_confidence"] = request.fit_confidence
    return MixedProblem(
        model=model,
        cluster=cluster,
        # numerics do not follow the freedom of `any`: gradients are those of Megatron-LM, on which all of these build
        workload=_workload(replace(request, framework="megatron-lm"), model, softwares[0]),
        software=softwares,
        framework=request.framework,
        pins=request.pins,
        top=request.top,
        **optional,
    )


def _workload(request: Request, model: ModelSpec, software: Software) -> Workload:
    seq_len, global_batch = _sizes(request, model)
    return Workload(
        seq_len=seq_len,
        global_batch=global_batch,
        task=request.task,
        precision=request.precision,
        optimizer=request.optimizer,
        grad_dtype_bytes=_gradient_bytes(request, software),
        lora_rank=request.lora_rank,
        lora_targets=request.lora_targets,
    )


def _sizes(request: Request, model: ModelSpec) -> tuple[int, int]:
    """Sequence length and batch, assumed where not given; what was assumed is said on stderr."""
    seq_len = request.seq_len or min(model.max_seq_len or DEFAULT_SEQ_LEN, DEFAULT_SEQ_LEN)
    global_batch = request.global_batch or max(DEFAULT_TOKENS_PER_STEP // seq_len, 1)
    assumed = []
    if request.seq_len is None:
        assumed.append(f"--seq-len {seq_len}")
    if request.global_batch is None:
        assumed.append(f"--global-batch {global_batch}")
    if assumed:
        note(f"assumed: {' '.join(assumed)}")
    return seq_len, global_batch


def _gradient_bytes(request: Request, software: Software) -> float:
    """Width of gradients: as asked, else the framework's own default.

    Megatron-LM accumulates bf16 (and FP8) gradients in fp32 unless ``--grad-reduce-in-bf16`` is given; the
    published runs of an era may have asked for 16 bits, which a user's plan must not take over unasked.
    """
    if request.grad_dtype is not None:
        return {"fp32": 4.0, "bf16": 2.0}[request.grad_dtype]
    if request.framework == "megatron-lm" and request.precision != "fp16":
        return 4.0
    return load_era(software.name).grad_dtype_bytes.get(request.precision, 4.0)


def problem_of_launch(
    launch: ReadLaunch,
    cluster: str,
    *,
    nodes: int | None,
    gpus: int | None,
    software: str | None,
    max_memory: str | None,
) -> tuple[PlanningProblem, ParallelConfig]:
    """The problem that an existing Megatron-LM launch solves, and how it solves it."""
    if nodes is None and gpus is None:
        if launch.n_gpus is None:
            raise InvalidProblemError("the script leaves the number of GPUs to the machine; give --nodes or --gpus.")
        gpus = launch.n_gpus
    place = load_cluster(cluster, nodes=nodes, gpus=gpus)
    if launch.n_gpus is None:
        launch = launch.with_n_gpus(place.n_gpus)
    elif launch.n_gpus != place.n_gpus:
        raise InvalidProblemError(
            f"the script runs on {launch.n_gpus} GPUs, but {place.name} has {place.n_gpus} here; "
            "give the --nodes or --gpus of the script."
        )
    problem = PlanningProblem(
        model=launch.model,
        cluster=place,
        workload=launch.workload,
        software=_software("megatron-lm", software, place.gpu),
        framework="megatron-lm",
        max_memory_bytes=_memory(max_memory, place.gpu),
    )
    return problem, launch.config


def _memory(text: str | None, gpu: Gpu) -> float:
    return 0.0 if text is None else parse_memory(text, "--max-memory", device_bytes=gpu.memory_bytes)


def _software(framework: str, name: str | None, gpu: Gpu) -> Software:
    if name is None:
        return default_software(framework, gpu)
    software = on_gpu(load_era(name), gpu)
    same = {software.framework}
    if software.framework in ("torchtitan", "pytorch"):  # both run PyTorch's own FSDP2 and tensor parallelism
        same |= {"torchtitan", "pytorch"}
    if framework != "any" and framework not in same:
        raise InvalidProblemError(
            f"--software {name} is a release of {software.framework}, not of the framework {framework}; "
            "name the same framework in both."
        )
    return software


def _check_task(request: Request) -> None:
    if request.task == "lora" and request.lora_rank < 1:
        raise InvalidProblemError("--task lora needs --lora-rank, at least 1.")
    if request.task != "lora" and request.lora_rank:
        raise InvalidProblemError("--lora-rank goes with --task lora only.")
    if request.objective == "cost" and request.price is None:
        raise InvalidProblemError("--objective cost needs --price, dollars for a GPU hour.")


def config_on_cluster(values: Mapping[str, int], problem: PlanningProblem) -> ParallelConfig:
    """Complete the named fields: the release's defaults, then the data-parallel degree that fills the cluster."""
    fields = {**problem.software.defaults, **values}
    for name in ("sequence_parallel", "tp_overlap"):  # defaults of the release that only tensor parallelism can follow
        if name not in values and fields.get("tp", 1) == 1:
            fields[name] = 0
    if "dp" not in fields:
        inner = fields.get("tp", 1) * fields.get("cp", 1) * fields.get("pp", 1)
        if problem.cluster.n_gpus % inner:
            raise InvalidProblemError(
                f"tp x cp x pp = {inner} does not divide the {problem.cluster.n_gpus} GPUs of {problem.cluster.name}; "
                "change a degree, --nodes or --gpus."
            )
        fields["dp"] = problem.cluster.n_gpus // inner
    if "layer_split" not in values:
        fields["layer_split"] = natural_split(problem.model.n_layers, fields.get("pp", 1), fields.get("vp", 1))
    return ParallelConfig(**fields)
