"""Galvatron's profiles: a computation file and a memory file of one model with layers of one type.

Format: PKU-DAIR/Hetu-Galvatron, main cea12ff (2026) and dev_opt 28ce6a3 (2025), ``models/*/configs/``. Computation:
``layertype_0_bszB_seqS`` is the forward of one layer in ms per sample at batch B on one device,
``layertype_other_...`` that of embedding and head together; ``layernum[N]_...`` are the raw runs behind them. Memory
(MiB): ``layertype_0[_sp]`` holds ``parameter_size`` (fp32) and activations per sample by tensor-parallel degree
(``checkpoint``: recomputed), ``other_memory_pp_on_first[_sp]`` and ``..._last`` states and activations of embedding
and head; ``_sp`` is with sequence parallelism; other keys are raw runs. The depth of the model stands in neither file.

Galvatron's own rules, which this reader follows and names: states are four times the weights; backward is
twice the forward; at degree t the time is the line fitted over the batch, at batch / t; embedding and head take half of
``other`` each. It prices the collectives of tensor parallelism apart, so they are not in these times.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...costmodels.layer_profile import LayerEdge, LayerProfile, LayerRun, ProfiledLayer
from ...hardware_profiles.errors import InvalidProblemError, MissingProfileDataError
from . import base

RAW_TIME = re.compile(r"layernum\[\d+\]_bsz\d+(_seq\d+)?")
TIME = re.compile(r"layertype_(?P<type>\d+|other)(_(?P<index>\d+))?_bsz(?P<bsz>\d+)(_seq(?P<seq>\d+))?")
UNBATCHED = re.compile(r"layertype_\d+")
RAW_MEMORY = re.compile(r"\d+_\d+_\d+(_c|_vtp)?(_sp)?")
LAYER_MEMORY = ("layertype_0", "layertype_0_sp")
OTHER_MEMORY = ("other_memory_pp_off", "other_memory_pp_on_first", "other_memory_pp_on_last")
STATES_PER_WEIGHT = 4
Times = dict[int, float]


def read(
    computation: Path,
    memory: Path,
    *,
    layers: int,
    seq: int | None = None,
    sequence_parallel: bool = True,
    backward_factor: float = 2.0,
) -> LayerProfile:
    """Read a model of ``layers`` equal layers between an embedding and a head.

    Args:
        seq: sequence length, needed where a file holds several; backward_factor: backward over forward.

    Raises:
        InvalidProblemError, MissingProfileDataError: what is wrong or missing, with file and key.
    """
    if layers < 1:
        raise InvalidProblemError(f"A model of {layers} layers cannot be planned; give the depth of the model.")
    per_layer, other = _times(computation, seq)
    found = base.load_json(memory)
    for key in found:
        plain = key.removesuffix("_sp")
        if not (RAW_MEMORY.fullmatch(key) or plain in (LAYER_MEMORY[0], *OTHER_MEMORY)):
            raise InvalidProblemError(
                f"{memory} has the unknown key {key!r}; this reader takes models of layer type 0."
            )
    tail = "_sp" if sequence_parallel else ""
    layer = _at_seq(memory, found, "layertype_0" + tail, seq)
    base.known_keys(layer, ("parameter_size", "tp_activation_per_bsz_dict"), f"'layertype_0{tail}' of {memory}")
    body = ProfiledLayer("layer", _layer_runs(memory, layer, per_layer, backward_factor, sequence_parallel))
    ends = []
    for name, key in (("embedding", OTHER_MEMORY[1] + tail), ("head", OTHER_MEMORY[2] + tail)):
        ends.append(
            ProfiledLayer(name, _end_runs(memory, key, _at_seq(memory, found, key, seq), other, backward_factor))
        )
    return LayerProfile(
        layers=(ends[0], *(ProfiledLayer(f"layer {i}", body.runs) for i in range(layers)), ends[1]),
        edges=tuple(LayerEdge(i, i + 1, 0.0) for i in range(layers + 1)),
        source=f"{computation} with {memory}",
        kind="galvatron",
        assumptions=(
            f"backward is {backward_factor:g} times the forward",
            f"states are {STATES_PER_WEIGHT} times the fp32 weights",
            "time at tensor-parallel degree t is the line over the batch sizes at batch / t, without collectives",
            "embedding and head take half of the profiled 'other' time each",
            "no traffic between layers: the files give none",
        ),
    )


def _times(path: Path, seq: int | None) -> tuple[Times, Times]:
    """Forward seconds of a whole batch by batch size: one layer, and embedding with head."""
    found = base.load_json(path)
    tables: dict[str, Times] = {"0": {}, "other": {}}
    seqs = {m["seq"] for m in map(TIME.fullmatch, found) if m and m["seq"]}
    if len(seqs) > 1 and str(seq) not in seqs:
        raise InvalidProblemError(f"{path} holds the sequence lengths {', '.join(sorted(seqs, key=int))}; choose one.")
    for key, value in found.items():
        name = TIME.fullmatch(key)
        if name is None:
            if not (RAW_TIME.fullmatch(key) or UNBATCHED.fullmatch(key)):
                raise InvalidProblemError(f"{path} has the unknown key {key!r}.")
            continue
        if name["seq"] and seq is not None and int(name["seq"]) != seq:
            continue
        if name["type"] not in tables:
            raise InvalidProblemError(f"{path} holds {key!r}, but this reader takes models of layer type 0 only.")
        batch = int(name["bsz"])
        tables[name["type"]][batch] = base.number(value, f"{key!r} of {path}") * batch * 1e-3
    for kind, table in tables.items():
        if not table:
            wanted = "layertype_0_bszB" if kind == "0" else "layertype_other_bszB"
            of_seq = f" for sequence length {seq}" if seq is not None else ""
            raise MissingProfileDataError(f"{path} lacks {wanted!r}{of_seq}; profile the model at one batch at least.")
    return tables["0"], tables["other"]


def _at_seq(path: Path, found: Mapping[str, Any], key: str, seq: int | None) -> Mapping[str, Any]:
    """The object at ``key``, one level deeper where it is kept by sequence length."""
    item = base.mapping(base.member(found, key, str(path)), f"{key!r} of {path}")
    lengths = [k for k in item if k.isdigit()]
    if not lengths:
        return item
    if seq is None and len(lengths) > 1:
        raise InvalidProblemError(f"{key!r} of {path} holds the sequence lengths {', '.join(lengths)}; choose one.")
    chosen = lengths[0] if seq is None else str(seq)
    return base.mapping(base.member(item, chosen, f"{key!r} of {path}"), f"{key!r} {chosen} of {path}")


def _by_degree(value: Any, where: str) -> dict[str, float]:
    """MiB by tensor-parallel degree; a plain number is that of degree 1 (older files)."""
    if isinstance(value, int | float):
        return {"1": base.number(value, where)}
    return {k: base.number(v, f"{k!r} of {where}") for k, v in base.mapping(value, where).items()}


def _at_degree(times: Times, batch: int, tp: int) -> float:
    if tp == 1 or len(times) == 1:
        return times[batch] / tp
    slope, start = np.polyfit(list(times), list(times.values()), 1)
    return float(max(slope * batch / tp + start, 0.0))


def _layer_runs(
    path: Path, layer: Mapping[str, Any], times: Times, backward: float, sequence_parallel: bool
) -> tuple[LayerRun, ...]:
    weights = base.amount(layer, "parameter_size", str(path)) * base.MIB
    where = f"'tp_activation_per_bsz_dict' of {path}"
    kept = _by_degree(base.member(layer, "tp_activation_per_bsz_dict", str(path)), where)
    recomputed = kept.pop("checkpoint", None)
    runs = []
    for degree, mib in kept.items():
        tp = base.whole(degree, f"a key of {where}", 1)
        for batch in sorted(times):
            forward_s = _at_degree(times, batch, tp)
            variants = [("plain", mib, 1 + backward)]
            if recomputed is not None:
                variants.append(("recompute", recomputed / (tp if sequence_parallel else 1), 2 + backward))
            for variant, per_sample, passes in variants:
                runs.append(
                    LayerRun(
                        tp=tp,
                        micro_batch_size=batch,
                        variant=variant,
                        time_s=forward_s * passes,
                        forward_s=forward_s,
                        parameter_bytes=weights / tp,
                        in_flight_bytes=per_sample * batch * base.MIB,
                        fixed_bytes=STATES_PER_WEIGHT * weights / tp,
                        measured=tp == 1,
                    )
                )
    return tuple(runs)


def _end_runs(path: Path, key: str, item: Mapping[str, Any], times: Times, backward: float) -> tuple[LayerRun, ...]:
    where = f"{key!r} of {path}"
    base.known_keys(item, ("model_states", "activation"), where)
    states = _by_degree(base.member(item, "model_states", where), f"'model_states' of {where}")
    kept = _by_degree(base.member(item, "activation", where), f"'activation' of {where}")
    runs = []
    for degree in states:
        tp = base.whole(degree, f"a key of 'model_states' of {where}", 1)
        activation_mib = base.amount(kept, degree, f"'activation' of {where}")
        for batch in sorted(times):
            forward_s = _at_degree(times, batch, tp) / 2
            runs.append(
                LayerRun(
                    tp=tp,
                    micro_batch_size=batch,
                    time_s=forward_s * (1 + backward),
                    forward_s=forward_s,
                    parameter_bytes=states[degree] * base.MIB / STATES_PER_WEIGHT,
                    in_flight_bytes=activation_mib * batch * base.MIB,
                    fixed_bytes=states[degree] * base.MIB,
                    measured=False,
                )
            )
    return tuple(runs)
