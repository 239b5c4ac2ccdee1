"""A request to plan on a mixed cluster, and the plain request that it contains for each pool alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ...costmodels.interval import fit_probability, memory_sigma
from ...costmodels.model_spec import ModelSpec
from ...costmodels.software import Software
from ...costmodels.workload import Workload
from ...hardware_profiles.errors import InvalidProblemError, MissingProfileDataError
from ...hardware_profiles.mixed import MixedCluster
from ..problem import PlanningProblem

#: Frameworks that a mixed cluster is planned for. ``any`` lets tp and recomputation differ between pools, which
#: frameworks with a mesh for each kind of device can run.
FRAMEWORKS = ("megatron-lm", "any")
#: Fields that may be pinned.
PINNABLE = ("tp", "cp", "ep", "pp", "vp", "dp", "micro_batch_size", "recompute")


@dataclass(frozen=True, slots=True, kw_only=True)
class MixedProblem:
    """A validated request; fields as in ``PlanningProblem``.

    Attributes:
        software: one for each pool, the same release on each GPU.

    Raises:
        InvalidProblemError: what one pool alone would refuse, GPUs of different vendors, or something that is not
            planned on mixed clusters.
    """

    model: ModelSpec
    cluster: MixedCluster
    workload: Workload
    software: tuple[Software, ...]
    framework: str = "megatron-lm"
    pins: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    max_memory_bytes: float = 0.0
    fit_confidence: float = 0.95
    top: int = 10

    def __post_init__(self) -> None:
        if self.framework not in FRAMEWORKS:
            raise InvalidProblemError(
                f"Mixed clusters are planned for the frameworks {' and '.join(FRAMEWORKS)}, not for {self.framework}."
            )
        if self.workload.task == "lora":
            raise InvalidProblemError("LoRA is not planned on mixed clusters; plan it on one pool alone.")
        for name in self.pins:
            if name not in PINNABLE:
                raise InvalidProblemError(
                    f"{name} cannot be pinned on a mixed cluster; what can is {', '.join(PINNABLE)}."
                )
        vendors = {pool.name: pool.gpu.vendor for pool in self.cluster.pools}
        if len(set(vendors.values())) > 1:
            said = ", ".join(f"{name} ({vendor})" for name, vendor in vendors.items())
            raise InvalidProblemError(
                f"The pools {said} of {self.cluster.name} cannot share a communicator: NCCL and RCCL do not talk to "
                "each other; plan the pools of one vendor in a file of their own."
            )
        for i in range(len(self.cluster.pools)):
            try:
                self.alone(i)
            except MissingProfileDataError as error:
                raise InvalidProblemError(f"Pool {self.cluster.names[i]}: {error}") from None

    def alone(self, i: int, nodes: int | None = None) -> PlanningProblem:
        """The same request on one pool, or on some of its nodes."""
        from ..infeasible import resized

        pool = self.cluster.pools[i]
        return PlanningProblem(
            model=self.model,
            cluster=pool if nodes is None else resized(pool, nodes),
            workload=self.workload,
            software=self.software[i],
            framework=self.framework,
            pins=self.pins,
            max_memory_bytes=self.max_memory_bytes,
            fit_confidence=self.fit_confidence,
            top=1,
        )

    def memory_limit_bytes(self, i: int) -> float:
        """Largest peak that a plan may have on a GPU of a pool: within the cap, and likely enough to fit."""
        pool = self.cluster.pools[i]
        sigma = memory_sigma(pool, self.model, self.software[i])
        low, high = 0.0, 2.0 * pool.gpu.memory_bytes
        for _ in range(60):
            middle = (low + high) / 2
            fits = fit_probability(middle, pool.gpu.memory_bytes, sigma) >= self.fit_confidence
            low, high = (middle, high) if fits else (low, middle)
        cap = self.max_memory_bytes
        return min(low, cap, pool.gpu.memory_bytes) if cap > 0 else min(low, pool.gpu.memory_bytes)

    @property
    def general(self) -> MixedProblem:
        """The same request without what one framework cannot express."""
        return replace(self, framework="any")
