"""Our own plain formats: a CSV for a chain of layers, a YAML for any graph; docs/layer_profiles.md describes both.

Times are milliseconds of one micro-batch of ``micro_batch_size`` samples, bytes are on one of the ``tp`` devices,
what a layer sends is bytes of one sample.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...costmodels.layer_profile import LayerEdge, LayerProfile, LayerRun, ProfiledLayer
from ...hardware_profiles.errors import InvalidProblemError, MissingProfileDataError
from ...hardware_profiles.yaml_reader import read_yaml
from . import base

FORMAT = "meshwright.layer-profile/v1"
AMOUNTS = ("time_ms", "parameter_bytes", "in_flight_bytes", "fixed_bytes")
OPTIONAL = ("micro_batch_size", "device", "variant", "forward_ms")
CSV_COLUMNS = ("layer", "tp", *AMOUNTS, *OPTIONAL, "sends_bytes")
SYNC = ("sync_in_bytes", "sync_out_bytes")


def read_csv(path: Path) -> LayerProfile:
    """Read one row per layer and way of running it; layers follow each other in the order of their first rows.

    Raises:
        InvalidProblemError, MissingProfileDataError: what is wrong or missing, with file, line and column.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(line for line in file if not line.startswith("#"))
            columns, rows = list(reader.fieldnames or ()), list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidProblemError(f"{path} cannot be read: {error}.") from None
    base.known_keys(dict.fromkeys(columns), CSV_COLUMNS, f"The header of {path}")
    for column in ("layer", "tp", *AMOUNTS):
        if column not in columns:
            raise MissingProfileDataError(f"The header of {path} lacks the column {column!r}.")
    runs: dict[str, list[LayerRun]] = {}
    sends: dict[str, float] = {}
    for number, row in enumerate(rows, start=1):
        where = f"row {number} of {path}"
        if None in row or None in row.values():
            raise InvalidProblemError(f"{where} has not as many fields as the header.")
        name = row["layer"].strip()
        given = {key: _figure(value, key, where) for key, value in row.items() if value.strip() and key != "layer"}
        sent = base.number(given.pop("sends_bytes", 0.0), f"'sends_bytes' of {where}")
        if sends.setdefault(name, sent) != sent:
            raise InvalidProblemError(f"'sends_bytes' of {where} is {sent:g}, but {sends[name]:g} in an earlier row.")
        runs.setdefault(name, []).append(_run(given, {}, where))
    names = list(runs)
    return LayerProfile(
        layers=tuple(ProfiledLayer(name, tuple(runs[name])) for name in names),
        edges=tuple(LayerEdge(i, i + 1, sends[name]) for i, name in enumerate(names[:-1])),
        source=str(path),
        kind="csv",
    )


def _figure(value: str, key: str, where: str) -> Any:
    if key in ("device", "variant"):
        return value.strip()
    try:
        figure = float(value)
    except ValueError:
        raise InvalidProblemError(f"{key!r} of {where} is {value!r}; it must be a number.") from None
    return int(figure) if key in ("tp", "micro_batch_size") and figure.is_integer() else figure


def read_file(path: Path) -> LayerProfile:
    """Read the YAML format.

    Raises:
        InvalidProblemError, MissingProfileDataError: what is wrong or missing, with file and key.
    """
    top = read_yaml(path)
    base.known_keys(top, ("format", "source", "layers", "edges"), str(path))
    if base.member(top, "format", str(path)) != FORMAT:
        raise InvalidProblemError(f"'format' of {path} is {top['format']!r}; this reader knows {FORMAT!r}.")
    items = base.sequence(base.member(top, "layers", str(path)), f"'layers' of {path}")
    named = [base.mapping(item, f"layer {i} of {path}") for i, item in enumerate(items)]
    names = [str(base.member(item, "name", f"layer {i} of {path}")) for i, item in enumerate(named)]
    if len(set(names)) < len(names):
        raise InvalidProblemError(f"{path} gives two layers the same name; names must differ.")
    place = {name: i for i, name in enumerate(names)}
    return LayerProfile(
        layers=tuple(_layer(item, name, place, path) for item, name in zip(named, names, strict=True)),
        edges=_edges(top, place, path),
        source=str(top.get("source", path)),
        kind="yaml",
    )


def _layer(item: Mapping[str, Any], name: str, place: Mapping[str, int], path: Path) -> ProfiledLayer:
    where = f"layer {name!r} of {path}"
    base.known_keys(item, ("name", "runs"), where)
    runs = []
    for i, given in enumerate(base.sequence(base.member(item, "runs", where), f"'runs' of {where}")):
        here = f"run {i} of {where}"
        fields = dict(base.mapping(given, here))
        base.known_keys(fields, ("tp", *AMOUNTS, *OPTIONAL, *SYNC), here)
        sync = {
            key: {
                _position(other, place, f"{key!r} of {here}"): base.number(volume, f"{key!r} {other!r} of {here}")
                for other, volume in base.mapping(fields.pop(key, {}), f"{key!r} of {here}").items()
            }
            for key in SYNC
        }
        runs.append(_run(fields, sync, here))
    return ProfiledLayer(name, tuple(runs))


def _edges(top: Mapping[str, Any], place: Mapping[str, int], path: Path) -> tuple[LayerEdge, ...]:
    if "edges" not in top:
        return tuple(LayerEdge(i, i + 1, 0.0) for i in range(len(place) - 1))
    found = []
    for i, item in enumerate(base.sequence(top["edges"], f"'edges' of {path}")):
        where = f"edge {i} of {path}"
        edge = base.mapping(item, where)
        base.known_keys(edge, ("from", "to", "bytes"), where)
        ends = [_position(base.member(edge, key, where), place, where) for key in ("from", "to")]
        found.append(LayerEdge(ends[0], ends[1], base.amount(edge, "bytes", where)))
    return tuple(found)


def _position(name: Any, place: Mapping[str, int], where: str) -> int:
    if name not in place:
        raise InvalidProblemError(f"{where} names layer {name!r}, which is not there.")
    return place[name]


def _run(given: Mapping[str, Any], sync: Mapping[str, Mapping[int, float]], where: str) -> LayerRun:
    forward_ms = base.amount(given, "forward_ms", where) if "forward_ms" in given else None
    return LayerRun(
        tp=base.whole(base.member(given, "tp", where), f"'tp' of {where}", 1),
        micro_batch_size=base.whole(given.get("micro_batch_size", 1), f"'micro_batch_size' of {where}", 1),
        device=str(given.get("device", "")),
        variant=str(given.get("variant", "plain")),
        time_s=base.amount(given, "time_ms", where) * 1e-3,
        forward_s=None if forward_ms is None else forward_ms * 1e-3,
        parameter_bytes=base.amount(given, "parameter_bytes", where),
        in_flight_bytes=base.amount(given, "in_flight_bytes", where),
        fixed_bytes=base.amount(given, "fixed_bytes", where),
        sync_in_bytes=dict(sync.get("sync_in_bytes", {})),
        sync_out_bytes=dict(sync.get("sync_out_bytes", {})),
    )
