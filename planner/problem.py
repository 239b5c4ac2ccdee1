"""One planning request: what is trained, on what, with what software, and what the answer must respect."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Integral

from ..costmodels.model_spec import ModelSpec
from ..costmodels.parallel import CONFIG_FIELDS
from ..costmodels.rules import check_framework
from ..costmodels.software import Software
from ..costmodels.workload import GEMM_TYPE, OPTIMIZER_BYTES, Workload
from ..hardware_profiles.errors import InvalidProblemError, did_you_mean
from ..hardware_profiles.types import Cluster

OBJECTIVES = ("throughput", "memory", "cost")
#: How far the exact kernels take the ranked plans: not at all, within a fixed amount of work, to completion.
REFINE = ("off", "default", "full")
#: Numerics that ``allow`` may release to the search.
ALLOWABLE = ("fp8", "mxfp8", "nvfp4", "offload", "quantized-comm")
#: Fields that count something and so start at one; the others start at zero.
_FROM_ONE = frozenset({"tp", "cp", "ep", "etp", "pp", "vp", "dp", "micro_batch_size"})


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanningProblem:
    """A validated request.

    Attributes:
        framework: ``megatron-lm``, ``torchtitan``, ``deepspeed``, ``pytorch`` or ``any``.
        objective: ``throughput``, ``memory`` or ``cost``.
        pins: allowed values by ``ParallelConfig`` field; excludes: conjunctions of field values to leave out.
        max_memory_bytes: cap below the device's capacity (0: the device's own).
        fit_confidence: least probability of fitting that a listed plan must have.
        allow: numerics that the search may vary (``fp8``, ``mxfp8``, ``nvfp4``, ``offload``,
            ``quantized-comm``); empty by default.
        refine: how far exact kernels take the ranked plans (``off``, ``default``: a fixed amount of work, ``full``).
        price_per_gpu_hour: dollars, 0 if unknown; tokens: length of the whole run, 0 if unknown.

    Raises:
        InvalidProblemError: a value is out of range, a name is unknown, or two requests contradict.
        MissingProfileDataError: the GPU has no matrix unit for the precision.
    """

    model: ModelSpec
    cluster: Cluster
    workload: Workload
    software: Software
    framework: str = "megatron-lm"
    objective: str = "throughput"
    pins: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    excludes: tuple[Mapping[str, int], ...] = ()
    max_memory_bytes: float = 0.0
    fit_confidence: float = 0.95
    allow: tuple[str, ...] = ()
    top: int = 10
    refine: str = "default"
    price_per_gpu_hour: float = 0.0
    tokens: float = 0.0

    def __post_init__(self) -> None:
        check_framework(self.framework)
        _choice("Objective", self.objective, OBJECTIVES)
        _choice("--refine", self.refine, REFINE)
        for name in self.allow:
            _choice("--allow", name, ALLOWABLE)
        _check_workload(self.workload)
        _check_ranges(self)
        for name, values in self.pins.items():
            _field("pin", name)
            if not values:
                raise InvalidProblemError(f"The pin of {name} lists no value; give at least one, as in {name}=2.")
            for value in values:
                _value("pin", name, value)
        for conjunction in self.excludes:
            if not conjunction:
                raise InvalidProblemError("An exclude names no field; give at least one, as in pp=8.")
            for name, value in conjunction.items():
                _field("exclude", name)
                _value("exclude", name, value)
        self.cluster.gpu.peak(self.workload.gemm_type)

    @property
    def memory_limit_bytes(self) -> float:
        """What a plan may use of one device: the cap if given, else the capacity."""
        capacity = self.cluster.gpu.memory_bytes
        return min(self.max_memory_bytes, capacity) if self.max_memory_bytes > 0 else capacity

    @property
    def precisions(self) -> tuple[str, ...]:
        """The workload's precision, and those that ``allow`` adds and the GPU has."""
        extra = [a for a in ALLOWABLE if a in self.allow and a in GEMM_TYPE and a != self.workload.precision]
        return (self.workload.precision, *(a for a in extra if GEMM_TYPE[a] in self.cluster.gpu.peak_flops))


def _choice(what: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InvalidProblemError(
            f"{what} {value!r} is unknown; choose one of {', '.join(known)}.{did_you_mean(str(value), known)}"
        )


def _field(what: str, name: str) -> None:
    if name not in CONFIG_FIELDS:
        raise InvalidProblemError(
            f"Unknown field {name!r} in {what}; the fields are {', '.join(CONFIG_FIELDS)}."
            f"{did_you_mean(name, CONFIG_FIELDS)}"
        )


def _value(what: str, name: str, value: object) -> None:
    least = 1 if name in _FROM_ONE else 0
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < least:
        raise InvalidProblemError(f"The {what} {name}={value} is not a whole number of at least {least}.")


def _positive_int(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < 1:
        raise InvalidProblemError(f"{name} is {value}; it must be a whole number of at least 1.")


def _check_workload(workload: Workload) -> None:
    _positive_int("The sequence length", workload.seq_len)
    _positive_int("The global batch (sequences per step)", workload.global_batch)
    _choice("Precision", workload.precision, tuple(GEMM_TYPE))
    _choice("Optimizer", workload.optimizer, tuple(OPTIMIZER_BYTES))
    _choice("Task", workload.task, ("pretrain", "sft", "lora"))
    if workload.task == "lora":
        _positive_int("The LoRA rank", workload.lora_rank)
    if workload.token_drop < 0 or workload.balance < 1.0:
        raise InvalidProblemError(
            f"token_drop={workload.token_drop} must not be negative and balance={workload.balance} must be at least 1."
        )


def _check_ranges(p: PlanningProblem) -> None:
    _positive_int("The number of nodes", p.cluster.nodes)
    _positive_int("The number of plans to list (top)", p.top)
    if not 0.0 < p.fit_confidence < 1.0:
        raise InvalidProblemError(f"fit_confidence is {p.fit_confidence}; it must lie between 0 and 1.")
    for name, value in (
        ("The memory cap", p.max_memory_bytes),
        ("The price per GPU hour", p.price_per_gpu_hour),
        ("The number of tokens", p.tokens),
    ):
        if not 0.0 <= value < float("inf"):
            raise InvalidProblemError(f"{name} is {value}; it must be a number of at least 0.")
