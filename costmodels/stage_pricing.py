"""Price of an explicit layout of pieces on pipeline stages: every stage by itself, and the whole step.

``training.estimate`` tells three kinds of stage apart; here each stage holds exactly what the layout says. Formulas
are shared: waiting for launches (``stage_time``), step (``step_time``), ledger (``memory``), states (``states``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..hardware_profiles.types import Cluster
from .estimate import Estimate, MemoryBreakdown
from .flops import recompute_flops
from .layer_costs import FULL, PARTIAL, Floats, LayerCosts, Piece, layer_costs
from .memory import ledger, micro_batches_held, more_working_sets
from .model_spec import ModelSpec
from .parallel import ParallelConfig, Recompute, Schedule
from .schedules.chunk_waiting import waiting_share
from .software import Software
from .stage_layout import StageLayout
from .stage_time import BusiestStage, host_wait_s
from .states import bucket_bytes, gathered_parameters, update_bytes
from .step_time import HeaviestParameters, step_time
from .training import summary
from .workload import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class StageCosts:
    """What every pipeline stage does and holds; arrays have one entry per stage.

    Attributes:
        forward_s ... ep_s: seconds of one micro-batch over all chunks of a stage, by part of ``TimeBreakdown``.
        dense_params, expert_params: of one rank before ZeRO; in_flight: micro-batches whose activations it holds.
        memory: ledger at each stage's own peak.
    """

    forward_s: Floats
    backward_s: Floats
    recompute_s: Floats
    host_s: Floats
    tp_s: Floats
    cp_s: Floats
    ep_s: Floats
    dense_params: Floats
    expert_params: Floats
    in_flight: Floats
    memory: MemoryBreakdown

    @property
    def whole_s(self) -> Floats:
        """One micro-batch, both ways."""
        total: Floats = (
            self.forward_s + self.backward_s + self.recompute_s + self.host_s + self.tp_s + self.cp_s + self.ep_s
        )
        return total

    @property
    def peak_bytes(self) -> Floats:
        """Peak memory."""
        total: Floats = np.asarray(self.memory.total, dtype=float)
        return total


def price_stages(
    model: ModelSpec,
    workload: Workload,
    cluster: Cluster,
    software: Software,
    config: ParallelConfig,
    layout: StageLayout,
    costs: LayerCosts | None = None,
) -> tuple[StageCosts, Estimate]:
    """Price one layout under one configuration.

    ``config.layer_split`` and ``recompute_layers`` are ignored: the layout says both. For ``even_layout`` the estimate
    is that of ``training.estimate`` wherever three kinds of stage describe a pipeline exactly. They do not where middle
    stages differ (``estimate`` sums their mean), where multi-token prediction stands on a stage without layers and a
    part of the layers recomputes (its share here is the model's, there none), where dense and sparse or full and
    windowed layers share a stage that recomputes a part of them (it takes the same share of both kinds; here the first
    layers of a chunk recompute), and where windowed or sparse layers do not fall on stages in equal numbers.

    With ``vp`` above 1 activations in flight count by a stage's mean chunk, and unequal chunks keep stages waiting
    (``schedules.chunk_waiting``), as in ``estimate``.

    Args:
        costs: of the same model and configuration, if known already.

    Returns:
        Every stage, and the estimate of the step with the memory of the fullest stage.

    Raises:
        InvalidProblemError: the layout is of another model or another pipeline.
    """
    layout.check_model(model)
    layout.check_config(config)
    costs = layer_costs(model, workload, cluster, software, config) if costs is None else costs
    n_micro = max(workload.global_batch / (config.micro_batch_size * config.dp), 1.0)
    deal = _Deal(costs, layout)
    stages = _stages(model, workload, software, config, n_micro, deal)
    whole = stages.whole_s
    at = int(np.argmax(whole))
    pace = BusiestStage(
        forward=stages.forward_s[at],
        backward=stages.backward_s[at],
        recompute=stages.recompute_s[at],
        host=stages.host_s[at],
        tp=stages.tp_s[at],
        cp=stages.cp_s[at],
        ep=stages.ep_s[at],
        whole=whole[at],
        pipeline=whole.sum(),
    )
    total = stages.dense_params + stages.expert_params
    most = int(np.argmax(total))
    heaviest = HeaviestParameters(
        stages.dense_params[most],
        stages.expert_params[most],
        stages.dense_params.max(),
        stages.expert_params.max(),
        costs.largest_layer_params,
    )
    plain = config.schedule == Schedule.ONE_F_ONE_B
    waiting = waiting_share(tuple(tuple(chunk.layers for chunk in row) for row in layout.chunks)) if plain else 0.0
    time = step_time(cluster, model, workload, software, config, n_micro, pace, lambda _: heaviest, waiting)
    peak = stages.peak_bytes
    fullest = int(np.flatnonzero(peak >= peak.max() * (1.0 - 1e-12))[0])
    parts = {name: np.broadcast_to(value, peak.shape)[fullest] for name, value in stages.memory.items()}
    cached = np.broadcast_to(stages.memory.cached_bytes, peak.shape)[fullest]
    memory = MemoryBreakdown(**parts, cached_bytes=cached)
    again = _recompute_flops(model, workload, config, layout)
    return stages, summary(model, workload, cluster, software, config, time, memory, fullest, again)


def recompute_shares(costs: LayerCosts, layout: StageLayout) -> Floats:
    """Share of whole-layer recompute of each piece, shape ``(n,)``: 0 or 1 by the layout's flags, for multi-token
    prediction that of its stage's layers (of the model's on a stage without any)."""
    stage = np.asarray(layout.chunk_of_piece) % layout.pp
    flags = np.zeros(costs.n)
    flags[costs.layer] = layout.recompute
    layers = np.bincount(stage, weights=costs.layer, minlength=layout.pp)
    redone = np.bincount(stage, weights=flags, minlength=layout.pp)
    share = np.where(layers > 0, redone / np.maximum(layers, 1), flags.sum() / costs.layer.sum())
    shares: Floats = np.where(costs.kind == Piece.MTP, share[stage], flags)
    return shares


class _Deal:
    """Pieces dealt to stages: sums per stage of what a piece costs."""

    __slots__ = ("costs", "mode", "pp", "stage")

    def __init__(self, costs: LayerCosts, layout: StageLayout) -> None:
        self.costs, self.pp = costs, layout.pp
        self.stage: NDArray[np.int64] = np.asarray(layout.chunk_of_piece, dtype=np.int64) % layout.pp
        self.mode = recompute_shares(costs, layout)

    def add(self, column: Any) -> Floats:
        """Sum per stage of a column."""
        weights = np.asarray(column, dtype=np.float64)
        return np.asarray(np.bincount(self.stage, weights=weights, minlength=self.pp), dtype=np.float64)

    def add_modes(self, columns: Floats) -> Floats:
        """Sum per stage of an ``(n, 2)`` array, each piece in its mode of recompute."""
        return self.add((1.0 - self.mode) * columns[:, PARTIAL] + self.mode * columns[:, FULL])

    def count(self, mask: Any) -> Floats:
        """Pieces per stage for which ``mask`` holds."""
        return self.add(mask)


def _stages(
    model: ModelSpec, workload: Workload, software: Software, config: ParallelConfig, n_micro: float, deal: _Deal
) -> StageCosts:
    costs = deal.costs
    forward, backward = deal.add(costs.forward_s), deal.add(costs.backward_s)
    recompute, tp = deal.add_modes(costs.recompute_s), deal.add_modes(costs.tp_s)
    cp, ep = deal.add_modes(costs.cp_s), deal.add_modes(costs.ep_s)
    host = host_wait_s(
        software,
        deal.add(costs.host_forward_s),
        deal.add(costs.host_backward_s) + deal.add_modes(costs.recompute_host_s),
        forward + deal.add(costs.comm_forward_s),
        forward + backward + recompute + tp + cp + ep,
        deal.add(costs.launches),
    )
    stage = np.arange(config.pp)
    held: Floats = micro_batches_held(software, config, n_micro, stage) + np.zeros(config.pp)
    return StageCosts(
        forward_s=forward,
        backward_s=backward,
        recompute_s=recompute,
        host_s=host + np.zeros(config.pp),
        tp_s=tp,
        cp_s=cp,
        ep_s=ep,
        dense_params=deal.add(costs.dense_params),
        expert_params=deal.add(costs.expert_params),
        in_flight=held,
        memory=_ledgers(model, workload, software, config, n_micro, deal, held),
    )


def _ledgers(
    model: ModelSpec,
    workload: Workload,
    software: Software,
    config: ParallelConfig,
    n_micro: float,
    deal: _Deal,
    held: Floats,
) -> MemoryBreakdown:
    """Every stage's ledger at its peak."""
    costs, stage = deal.costs, np.arange(config.pp)
    sent = software.coefficient("pipeline_outputs") * costs.boundary_bytes * (stage < config.pp - 1)
    kept = deal.add_modes(costs.kept_bytes) + sent
    working = _working(deal)
    logits = deal.add(costs.logits_bytes)
    sets = 1.0 + more_working_sets(software, config, n_micro, stage)
    dense, expert = deal.add(costs.dense_params), deal.add(costs.expert_params)
    update = update_bytes(workload, software, config, dense, expert, costs.largest_tensor_params)
    return ledger(
        model,
        workload,
        software,
        config,
        states=(deal.add(costs.weight_bytes), deal.add(costs.gradient_bytes), deal.add(costs.optimizer_bytes)),
        gathered=gathered_parameters(workload, software, config, dense + expert, costs.largest_layer_params),
        in_use=(held * kept + sets * working + logits, sets * working, logits),
        update=update,
        buckets=bucket_bytes(software, config),
    )


def _working(deal: _Deal) -> Floats:
    """Temporaries of a stage's widest layer, and the layer itself where one recomputes."""
    costs = deal.costs
    sparse, dense = deal.count(costs.kind == Piece.SPARSE) > 0, deal.count(costs.kind == Piece.DENSE) > 0
    block = deal.count(costs.kind == Piece.MTP) > 0

    def of(column: Floats, kind: Piece) -> float:
        mine = column[costs.kind == kind]
        return float(mine[0]) if len(mine) else 0.0

    # a dense layer, or a multi-token-prediction block without layers
    plain = Piece.DENSE if (costs.kind == Piece.DENSE).any() else Piece.MTP
    thin = np.where(dense | block, of(costs.temporary_bytes, plain), 0.0)
    temporary = np.where(sparse, of(costs.temporary_bytes, Piece.SPARSE), thin)
    dense_whole = of(costs.whole_bytes, plain)
    both = np.maximum(of(costs.whole_bytes, Piece.SPARSE), np.where(dense, dense_whole, 0.0))
    whole = np.where(sparse, both, dense_whole)
    redone = deal.add(deal.mode) > 0
    total: Floats = temporary + np.where(redone, whole, 0.0)
    return total


def _recompute_flops(model: ModelSpec, workload: Workload, config: ParallelConfig, layout: StageLayout) -> Any:
    """FLOPs that recompute adds to one sequence: whole layers by their share, else the configuration's modules."""
    share = sum(layout.recompute) / model.n_layers
    modules = int(config.recompute) & ~int(Recompute.FULL)
    whole = recompute_flops(model, workload.seq_len, 1.0, recompute=int(Recompute.FULL), layer_share=share)
    return whole + (1.0 - share) * recompute_flops(model, workload.seq_len, 1.0, recompute=modules)
