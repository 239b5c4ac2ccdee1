"""Metis' profiles: one JSON file per device type, tensor-parallel degree and batch size.

Format: SamsungLabs/Metis at 4b24046 (2024), ``README.md`` ("Profile Data Structure"), ``data_loader.py`` and
``profile_data_samples/DeviceType.A100_tp1_bs1.json``. ``layer_compute_total_ms`` is forward and backward of one
micro-batch; ``layer_memory_total_mb`` everything that a layer holds with one micro-batch in flight;
``parameters_per_layer_bytes`` is the same in the files of every degree, hence undivided. README and samples disagree on
``total_memory`` / ``total_memory_mb`` and on ``activation_parameters_bytes``; both are taken.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...costmodels.layer_profile import LayerEdge, LayerProfile, LayerRun, ProfiledLayer
from ...hardware_profiles.errors import InvalidProblemError, MissingProfileDataError
from . import base

NAME = re.compile(r"DeviceType\.(?P<device>\w+?)_tp(?P<tp>\d+)_bs(?P<bs>\d+)\.json")
TIMES = (
    "total_time_ms",
    "forward_backward_time_ms",
    "batch_generator_time_ms",
    "layernorm_grads_all_reduce_time_ms",
    "embedding_grads_all_reduce_time_ms",
    "optimizer_time_ms",
)


@dataclass(frozen=True, slots=True)
class _File:
    device: str
    tp: int
    batch: int
    times_ms: list[float]
    memory_mib: list[float]
    parameters: list[float]
    activations: list[float]


def read(folder: Path) -> LayerProfile:
    """Read the folder of a model's profiles; the layers form a chain.

    Raises:
        InvalidProblemError, MissingProfileDataError: what is wrong or missing, with file and key.
    """
    if not folder.is_dir():
        raise InvalidProblemError(f"{folder} is not a folder; Metis keeps one JSON file per degree and batch in one.")
    files = []
    for path in sorted(folder.glob("*.json")):
        name = NAME.fullmatch(path.name)
        if name is None:
            raise InvalidProblemError(f"{path} is not named DeviceType.NAME_tpN_bsN.json; move it out of the folder.")
        files.append(_file(path, name["device"], int(name["tp"]), int(name["bs"])))
    if not files:
        raise MissingProfileDataError(f"{folder} holds no DeviceType.NAME_tpN_bsN.json.")
    count = len(files[0].times_ms)
    for found in files:
        if len(found.times_ms) != count:
            raise InvalidProblemError(
                f"{folder}: the file of tp {found.tp}, bs {found.batch} has {len(found.times_ms)} layers,"
                f" that of tp {files[0].tp}, bs {files[0].batch} has {count}; they must be one model's."
            )
    assumptions = [
        "weights are divided by the tensor-parallel degree",
        "memory is split into a fixed part and one per sample by a least-squares line over the batch sizes;"
        " with one batch size all of it counts as fixed, for one micro-batch in flight",
    ]
    if not any(found.activations for found in files):
        assumptions.append("no traffic between layers: the files give no activation sizes")
    split = {(f.device, f.tp): _split(files, f.device, f.tp) for f in files}
    return LayerProfile(
        layers=tuple(
            ProfiledLayer(f"layer {i}", tuple(_run(f, i, split[f.device, f.tp][i]) for f in files))
            for i in range(count)
        ),
        edges=tuple(LayerEdge(i, i + 1, _sent(files, i)) for i in range(count - 1)),
        source=str(folder),
        kind="metis",
        assumptions=tuple(assumptions),
    )


def _file(path: Path, device: str, tp: int, batch: int) -> _File:
    top = base.load_json(path)
    base.known_keys(top, ("model", "execution_time", "execution_memory"), str(path))
    model = base.mapping(base.member(top, "model", str(path)), f"'model' of {path}")
    base.known_keys(model, ("model_name", "num_layers", "parameters"), f"'model' of {path}")
    weights = base.mapping(base.member(model, "parameters", f"'model' of {path}"), f"'parameters' of {path}")
    keys = ("total_parameters_bytes", "parameters_per_layer_bytes", "activation_parameters_bytes")
    base.known_keys(weights, keys, f"'parameters' of {path}")
    times = base.mapping(base.member(top, "execution_time", str(path)), f"'execution_time' of {path}")
    base.known_keys(times, (*TIMES, "layer_compute_total_ms"), f"'execution_time' of {path}")
    memory = base.mapping(base.member(top, "execution_memory", str(path)), f"'execution_memory' of {path}")
    base.known_keys(
        memory, ("total_memory", "total_memory_mb", "layer_memory_total_mb"), f"'execution_memory' of {path}"
    )
    count = base.whole(base.member(model, "num_layers", f"'model' of {path}"), f"'num_layers' of {path}", 1)
    found = _File(
        device,
        tp,
        batch,
        _numbers(times, "layer_compute_total_ms", path, count),
        _numbers(memory, "layer_memory_total_mb", path, count),
        _numbers(weights, "parameters_per_layer_bytes", path, count),
        _numbers(weights, "activation_parameters_bytes", path, count)
        if "activation_parameters_bytes" in weights
        else [],
    )
    total = base.amount(weights, "total_parameters_bytes", str(path))
    if abs(total - sum(found.parameters)) > 1e-3 * total:
        raise InvalidProblemError(
            f"'parameters_per_layer_bytes' of {path} add up to {sum(found.parameters):g},"
            f" but 'total_parameters_bytes' is {total:g}."
        )
    return found


def _numbers(found: Mapping[str, object], key: str, path: Path, count: int) -> list[float]:
    items = base.sequence(base.member(found, key, str(path)), f"{key!r} of {path}")
    if len(items) != count:
        raise InvalidProblemError(f"{key!r} of {path} has {len(items)} entries for {count} layers.")
    return [base.number(item, f"entry {i} of {key!r} of {path}") for i, item in enumerate(items)]


def _split(files: Sequence[_File], device: str, tp: int) -> list[float]:
    """MiB per sample of each layer, not below 0; 0 where one batch size was measured."""
    mine = [f for f in files if (f.device, f.tp) == (device, tp)]
    if len(mine) < 2:
        return [0.0] * len(mine[0].memory_mib)
    slopes = np.polyfit([float(f.batch) for f in mine], np.array([f.memory_mib for f in mine]), 1)[0]
    return [max(float(slope), 0.0) for slope in slopes]


def _run(found: _File, layer: int, mib_per_sample: float) -> LayerRun:
    kept_mib = min(mib_per_sample * found.batch, found.memory_mib[layer])
    return LayerRun(
        tp=found.tp,
        micro_batch_size=found.batch,
        device=found.device,
        time_s=found.times_ms[layer] * 1e-3,
        parameter_bytes=found.parameters[layer] / found.tp,
        in_flight_bytes=kept_mib * base.MIB,
        fixed_bytes=(found.memory_mib[layer] - kept_mib) * base.MIB,
    )


def _sent(files: Sequence[_File], layer: int) -> float:
    """Activation bytes after a layer for one sample, from the file with the smallest batch that gives them."""
    giving = [f for f in files if f.activations]
    if not giving:
        return 0.0
    smallest = min(giving, key=lambda f: (f.batch, f.tp, f.device))
    return smallest.activations[layer] / smallest.batch
