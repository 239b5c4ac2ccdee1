"""The answer on a mixed cluster: pipelines whose stages may differ, ranked, with the best plans of single pools."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ...costmodels.parallel import ParallelConfig
from ...costmodels.stage_layout import StageLayout
from .problem import MixedProblem

KIND = "mixed-training"
#: Shapes of a plan: one pipeline across pools, whole pipelines in each pool, one pool alone.
PIPELINE, REPLICAS, ONE_POOL = "pipeline across pools", "replicas in each pool", "one pool alone"


@dataclass(frozen=True, slots=True, kw_only=True)
class MixedStage:
    """One stage of one kind of pipeline.

    Attributes:
        pool: where it runs; tp, cp: degrees inside it (it has ``tp * cp * dp`` GPUs); layers: transformer layers.
        recompute: mask as in ``ParallelConfig``.
        micro_batch_s: forward and backward of one micro-batch, its share of transfers included.
        peak_bytes: of one GPU; memory_share: of its capacity.
    """

    pool: str
    tp: int
    cp: int
    layers: int
    recompute: int
    micro_batch_s: float
    peak_bytes: float
    memory_share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipelines:
    """``dp`` equal pipelines and what each does in a step.

    Attributes:
        micro_batches: of one pipeline and step; vp: model chunks on each stage; stages: first to last.
        step_s: until its last micro-batch, without the end of the step.
    """

    dp: int
    micro_batch_size: int
    micro_batches: int
    vp: int
    stages: tuple[MixedStage, ...]
    step_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MixedPlan:
    """One ranked plan.

    Attributes:
        shape: ``PIPELINE``, ``REPLICAS`` or ``ONE_POOL``.
        groups: one entry for all pools (``PIPELINE``) or one for each (``REPLICAS``).
        ep: expert-parallel degree.
        metrics: ``step_s``, ``tokens_per_s``, ``gpus``, ``tokens_per_s_per_gpu``, ``mfu``, ``memory_share``.
        time_s: named parts that add up to the step.
        config: of a plan on one pool, which has features (ZeRO-3, partial recomputation) that mixed plans lack;
            stage_layout: its deal of pieces to stages where that is not the rule of ``config.layer_split``.
        proof: what is known of its distance from the optimum; reasons: why it stands where it does.
    """

    rank: int
    shape: str
    groups: tuple[Pipelines, ...]
    ep: int
    metrics: Mapping[str, float]
    time_s: Mapping[str, float]
    config: ParallelConfig | None = None
    stage_layout: StageLayout | None = None
    proof: str = ""
    reasons: tuple[str, ...] = ()

    @property
    def pools(self) -> tuple[str, ...]:
        """Pools that it uses, in the order of its pipelines."""
        return tuple(dict.fromkeys(stage.pool for group in self.groups for stage in group.stages))


@dataclass(frozen=True, slots=True, kw_only=True)
class MixedSearch:
    """How the ranking came about: candidates by shape, what removed them, what is proven, what was left out."""

    enumerated: int
    priced: int
    feasible: int
    optimality: str
    bound_s: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MixedPlanSet:
    """Ranked plans of one request.

    Attributes:
        plans: the best ``problem.top`` of all shapes; single: the best plan of each pool alone (fastest first).
        general: the best plan that a framework with a mesh for each pool could run, if it beats the first.
    """

    problem: MixedProblem
    plans: tuple[MixedPlan, ...]
    single: tuple[MixedPlan, ...]
    search: MixedSearch
    general: MixedPlan | None = None
    provenance: Mapping[str, str] = field(default_factory=dict)
