"""What a pipeline stage costs for every number of layers that it may hold: the arrays behind uneven pipelines.

One entry per row of configurations, kind of stage and number of layers. The figures are those of ``stage_time`` and
``memory``: a stage of k layers here costs what ``estimate`` gives for a pipeline whose stages all hold k.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..hardware_profiles.types import Cluster
from .candidates import CandidateTable
from .memory import StageParameters, stage_activations, stage_parameters, stage_states
from .model_spec import ModelSpec
from .parallel import CONFIG_FIELDS
from .parallelism.data import exposed_s
from .parallelism.pipeline import Stages, in_flight
from .software import Software
from .stage_time import stage_time
from .step_time import HeaviestParameters, end_of_step
from .workload import Workload

Floats = NDArray[np.float64]
#: Kinds of stage: the first and the last of a pipeline, one between them, and one that is the whole pipeline.
FIRST, MIDDLE, LAST, ONLY = 0, 1, 2, 3
KINDS = 4
#: Stages of the pipeline from which the first three kinds are read: with two middle stages none of them holds a
#: share of the dense layers that a sparse model begins with.
_PROBE_STAGES = 4


@dataclass(slots=True)
class MicroBatchTable:
    """Seconds and bytes of one micro-batch, shape (rows, ``KINDS``, layers + 1).

    Attributes:
        forward_s, backward_s: kernels of each way (the windows behind which traffic hides).
        whole_s: all of a micro-batch on the stage, exposed collectives and waiting for launches included.
        kept: activations of one micro-batch in flight; short: temporaries and logits; working: the temporaries alone.
    """

    forward_s: Floats
    backward_s: Floats
    whole_s: Floats
    kept: Floats
    short: Floats
    working: Floats


@dataclass(slots=True)
class StateTable:
    """Bytes and seconds that do not depend on the micro-batch, shape (rows, ``KINDS``, layers + 1).

    Attributes:
        base: model states, buckets, context and what their gradients lose to fragmentation; update: tensors of the
            optimizer's step.
        reduce_s, gather_s: gradient reduction and parameter gathering inside the pool, before any overlap.
        optimizer_s: the update.
        grad_bytes, weight_bytes: of one rank, before sharding (what a reduction across pools has to move).
    """

    base: Floats
    update: Floats
    reduce_s: Floats
    gather_s: Floats
    optimizer_s: Floats
    grad_bytes: Floats
    weight_bytes: Floats


def columns_of(table: CandidateTable, **changes: Any) -> SimpleNamespace:
    """The rows of a table as columns of shape (rows, 1), which broadcast against numbers of layers."""
    columns = {name: table.columns[name][:, None] for name in CONFIG_FIELDS}
    return SimpleNamespace(**{**columns, **changes})


def micro_batch_table(
    model: ModelSpec, workload: Workload, cluster: Cluster, software: Software, table: CandidateTable
) -> MicroBatchTable:
    """Time and activations of every row's stages; reads no field of ``table`` that concerns pipeline or data
    parallelism."""

    def cost(probe: ModelSpec, c: SimpleNamespace) -> tuple[Stages | tuple[Any, ...], ...]:
        time = stage_time(cluster, probe, workload, software, c)
        bytes_ = stage_activations(probe, workload, software, c)
        return (time.forward, time.backward, time.whole(), bytes_.per_micro_batch, bytes_.short, bytes_.working)

    arrays = _by_layers(model, table, cost, len(fields(MicroBatchTable)))
    return MicroBatchTable(*arrays)


def state_table(
    model: ModelSpec,
    workload: Workload,
    cluster: Cluster,
    software: Software,
    table: CandidateTable,
    spread: NDArray[np.int64] | None = None,
) -> StateTable:
    """Model states, their traffic and their update for every row's degrees and sharding.

    Args:
        spread: by how much further apart in rank order than ``estimate`` has them the data-parallel ranks of each row
            stand (the pipeline degree where pipelines fill neighbouring ranks).
    """
    lost = software.coefficient("gradient_slack")
    apart = np.ones(len(table), dtype=np.int64) if spread is None else spread

    def cost(probe: ModelSpec, c: SimpleNamespace) -> tuple[Stages | tuple[Any, ...], ...]:
        states = stage_states(probe, workload, software, c)
        groups = (c.tp > 1) + 1.0 * (c.cp > 1) + (c.pp > 1) + (c.dp > 1) + (c.ep > 1)
        fixed = software.coefficient("context_bytes") + software.coefficient("communicator_bytes") * groups
        base = tuple(
            total + lost * gradients + states.buckets + fixed
            for total, gradients in zip(states.total, states.gradients, strict=True)
        )
        params = stage_parameters(probe, c)
        ends = tuple(
            _end_of_step(cluster, workload, software, c, _only(params, kind), apart[:, None])
            for kind in ("first", "mid", "last")
        )
        update = tuple(0.0 * total + u for total, u in zip(states.total, states.update, strict=True))
        return (base, update, *zip(*ends, strict=True))

    return StateTable(*_by_layers(model, table, cost, len(fields(StateTable))))


def _by_layers(model: ModelSpec, table: CandidateTable, cost: Any, quantities: int) -> list[Floats]:
    """Read ``cost`` for pipelines whose stages all hold 0, 1 ... ``n_layers`` layers (no meaning at 0)."""
    n, most = len(table), model.n_layers
    out = [np.zeros((n, KINDS, most + 1)) for _ in range(quantities)]
    layers, shape = np.arange(most + 1)[None, :], (n, most + 1)
    dense_first = model.moe is not None and model.moe.dense_first and model.n_dense_layers > 0

    def read(kinds: tuple[int, ...], stages: int, dense: int) -> None:
        probe = _with_layers(model, stages * layers, stages * dense if dense_first else None)
        with np.errstate(invalid="ignore", divide="ignore"):
            found = cost(probe, columns_of(table, pp=np.array([[stages]])))
        for array, value in zip(out, found, strict=True):
            three = (value.first, value.mid, value.last) if isinstance(value, Stages) else value
            for kind in kinds:
                array[:, kind, :] = np.broadcast_to(three[0 if kind == ONLY else kind], shape)

    if dense_first:  # the dense layers stand on the first stage
        read((FIRST,), _PROBE_STAGES, model.n_dense_layers)
        read((MIDDLE, LAST), _PROBE_STAGES, 0)
    else:
        read((FIRST, MIDDLE, LAST), _PROBE_STAGES, 0)
    read((ONLY,), 1, model.n_dense_layers)
    for array in out:
        array[:, :, 0] = 0.0
    return out


def _with_layers(model: ModelSpec, layers: Any, dense: int | None) -> ModelSpec:
    """The model with an array of layer counts; ``dense`` of them without experts (None: the model's own share)."""
    if model.moe is None:
        return replace(model, n_layers=layers)
    share = model.n_moe_layers / model.n_layers
    sparse = layers * share if dense is None else np.maximum(layers - dense, 0)
    return replace(model, n_layers=layers, moe=replace(model.moe, n_moe_layers=sparse, dense_first=False))


def _only(params: StageParameters, kind: str) -> HeaviestParameters:
    """A stage whose own parameters are the heaviest that its end of a step waits for."""
    dense, expert = getattr(params.dense, kind), getattr(params.expert, kind)
    return HeaviestParameters(dense, expert, dense, expert, params.largest_layer)


def _end_of_step(
    cluster: Cluster, workload: Workload, software: Software, c: Any, params: HeaviestParameters, apart: Any
) -> tuple[Any, Any, Any, Any, Any]:
    """Reduction, gathering and update of one stage's parameters per rank, and their bytes."""
    end = end_of_step(cluster, workload, software, c, params, apart)
    trained = 0.0 if workload.task == "lora" else 1.0
    here = params.dense + params.expert
    return (
        trained * end.reduce_s,
        trained * end.gather_s,
        end.optimizer_s,
        trained * workload.grad_dtype_bytes * here,
        trained * (1.0 if workload.fp8_params else 2.0) * here,
    )


def exposed_traffic_s(software: Software, c: Any, reduce_s: Any, gather_s: Any, backward_s: Any, forward_s: Any) -> Any:
    """What of the data-parallel traffic of a step shows (ZeRO 0 and 1): reduction behind the last backward, gathering
    behind the first forward, and the compute that hidden traffic slows down."""
    share, slow = software.coefficient("dp_overlap"), software.coefficient("overlap_slowdown")
    shown_r = exposed_s(reduce_s, backward_s, share, c.overlap_grad_reduce == 1)
    shown_g = exposed_s(gather_s, forward_s, share, c.overlap_param_gather == 1)
    hidden = (reduce_s - shown_r) + (gather_s - shown_g)
    return shown_r + shown_g + slow * hidden


def held_micro_batches(software: Software, pp: Any, vp: Any, n_micro: Any, stage: Any) -> tuple[Any, Any]:
    """Micro-batches whose activations a stage holds under (interleaved) 1F1B, and its further sets of temporaries."""
    plain = np.zeros_like(np.asarray(pp))
    c = SimpleNamespace(pp=pp, vp=vp, schedule=plain, vocab_parallel=plain)
    live = in_flight(c, n_micro, stage)
    slots = software.coefficient("pipeline_slots")
    if slots:
        live = np.where(pp > stage + 1, slots * pp + 1.0, live)
    return live, software.coefficient("unshared_working") * (pp > stage + 1) * (n_micro > 1)


def peak_bytes(software: Software, base: Any, update: Any, kept: Any, short: Any, working: Any, live: Any) -> Any:
    """Peak of one device: states, and activations or the optimizer's step, whichever is larger.

    Args:
        live: what ``held_micro_batches`` gives.
    """
    in_flight_, sets = live
    slack = 1.0 + software.coefficient("allocator_slack")
    return base + np.maximum(slack * (in_flight_ * kept + short + sets * working), update)


def transfer_buffer_bytes(model: ModelSpec, workload: Workload, c: Any, pp: Any) -> Any:
    """Gathered input of a sequence-parallel block; two sends and two receives of the pipeline."""
    tokens = c.micro_batch_size * workload.seq_len / c.cp
    sent = tokens * model.hidden * workload.activation_bytes
    return sent * (c.sequence_parallel + 4.0 * (pp > 1) / c.tp)
