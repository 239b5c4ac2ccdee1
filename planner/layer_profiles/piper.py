"""Piper's workloads: a graph of layers with time, weights and two memory coefficients per tensor-parallel degree.

Format: msr-fiddle/piper at d7fc8cf (2021), ``README.md`` and ``inputs/*.json``. ``timePerSample`` covers forward and
backward of one micro-batch (Piper's sample) in seconds (``bert32a100.json``) or in another unit (``gnmt.json`` and
``resnet.json`` say none; their figures are those of milliseconds), which the caller then names. In the files
``syncTimeFw`` is keyed by the layers that feed this one, ``syncTimeBw`` by those that it feeds, whatever the README
calls them; both are bytes. ``memoryUsageA`` is kept for each micro-batch in flight, ``memoryUsageB`` once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...costmodels.layer_profile import LayerEdge, LayerProfile, LayerRun, ProfiledLayer, topological_order
from ...hardware_profiles.errors import InvalidProblemError
from . import base

TOP = ("maxDevices", "maxMemoryPerDevice", "bandwidth", "mbsInBatch", "maxBatchSize", "nodes", "edges")
STATED = {
    "maxDevices": "devices",
    "maxMemoryPerDevice": "memory_bytes",
    "bandwidth": "bandwidth_bytes_per_s",
    "mbsInBatch": "micro_batches",
    "maxBatchSize": "micro_batches",
}
RUN = ("id", "timePerSample", "parameterSize", "memoryUsageA", "memoryUsageB", "syncTimeFw", "syncTimeBw")
PLAIN = "vanilla"


def read(path: Path, *, seconds_per_unit: float = 1.0) -> LayerProfile:
    """Read a workload of Piper; layers come in a topological order.

    Raises:
        InvalidProblemError, MissingProfileDataError: what is wrong or missing, with file and key.
    """
    top = base.load_json(path)
    base.known_keys(top, TOP, str(path))
    nodes = base.sequence(base.member(top, "nodes", str(path)), f"'nodes' of {path}")
    numbered = [base.mapping(node, f"node {i} of {path}") for i, node in enumerate(nodes)]
    ids = [base.whole(base.member(n, "id", f"node {i} of {path}"), f"'id' of {path}") for i, n in enumerate(numbered)]
    position = {node_id: i for i, node_id in enumerate(ids)}
    if len(position) < len(ids):
        raise InvalidProblemError(f"{path} gives two nodes the same id; ids must differ.")
    edges = _edges(path, top, position)
    order = topological_order(len(ids), edges)
    place = {old: new for new, old in enumerate(order)} if len(order) == len(ids) else {i: i for i in range(len(ids))}
    moved = {node_id: place[i] for node_id, i in position.items()}
    neighbours = _neighbours(edges, place)
    layers = {
        place[i]: _layer(f"node {ids[i]} of {path}", node, moved, neighbours, place[i], seconds_per_unit)
        for i, node in enumerate(numbered)
    }
    return LayerProfile(
        layers=tuple(layers[i] for i in range(len(ids))),
        edges=tuple(replace(e, source=place[e.source], target=place[e.target]) for e in edges),
        source=str(path),
        kind="piper",
        assumptions=() if seconds_per_unit == 1 else (f"times of the file are in units of {seconds_per_unit:g} s",),
        stated={STATED[key]: base.amount(top, key, str(path)) for key in STATED if key in top},
    )


def _edges(path: Path, top: Mapping[str, Any], position: Mapping[int, int]) -> tuple[LayerEdge, ...]:
    found = []
    for i, item in enumerate(base.sequence(base.member(top, "edges", str(path)), f"'edges' of {path}")):
        where = f"edge {i} of {path}"
        edge = base.mapping(item, where)
        base.known_keys(edge, ("sourceId", "destId", "communicationCost"), where)
        ends = []
        for key in ("sourceId", "destId"):
            node_id = base.whole(base.member(edge, key, where), f"{key!r} of {where}")
            if node_id not in position:
                raise InvalidProblemError(f"{key!r} of {where} is {node_id}, but no node has that id.")
            ends.append(position[node_id])
        found.append(LayerEdge(ends[0], ends[1], base.amount(edge, "communicationCost", where)))
    return tuple(found)


def _neighbours(edges: tuple[LayerEdge, ...], place: Mapping[int, int]) -> Mapping[str, set[tuple[int, int]]]:
    pairs = [(place[e.source], place[e.target]) for e in edges]
    return {"syncTimeFw": {(b, a) for a, b in pairs}, "syncTimeBw": {(a, b) for a, b in pairs}}


def _layer(
    where: str,
    node: Mapping[str, Any],
    moved: Mapping[int, int],
    neighbours: Mapping[str, set[tuple[int, int]]],
    own: int,
    unit_s: float,
) -> ProfiledLayer:
    base.known_keys(node, ("id", "name", "TMPCs"), where)
    runs = []
    for degree, items in base.mapping(base.member(node, "TMPCs", where), f"'TMPCs' of {where}").items():
        tp = base.whole(degree, f"a key of 'TMPCs' of {where}", 1)
        for j, item in enumerate(base.sequence(items, f"'TMPCs' {degree} of {where}")):
            here = f"'TMPCs' {degree}, entry {j}, of {where}"
            run = base.mapping(item, here)
            base.known_keys(run, RUN, here)
            sync: dict[str, dict[int, float]] = {}
            for key in ("syncTimeFw", "syncTimeBw"):
                sync[key] = {}
                for other, volume in base.mapping(base.member(run, key, here), f"{key!r} of {here}").items():
                    target = moved.get(base.whole(other, f"a key of {key!r} of {here}"))
                    if target is None or (own, target) not in neighbours[key]:
                        raise InvalidProblemError(f"{key!r} of {here} names node {other}, to which no such edge leads.")
                    sync[key][target] = base.number(volume, f"{key!r} {other} of {here}")
            name = str(base.member(run, "id", here))
            runs.append(
                LayerRun(
                    tp=tp,
                    variant="plain" if name == PLAIN else name,
                    time_s=base.amount(run, "timePerSample", here) * unit_s,
                    parameter_bytes=base.amount(run, "parameterSize", here),
                    in_flight_bytes=base.amount(run, "memoryUsageA", here),
                    fixed_bytes=base.amount(run, "memoryUsageB", here),
                    sync_in_bytes=sync["syncTimeFw"],
                    sync_out_bytes=sync["syncTimeBw"],
                )
            )
    return ProfiledLayer(str(node.get("name", node["id"])), tuple(runs))
