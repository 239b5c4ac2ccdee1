"""Loading of a cluster file with ``pools``: each a shipped cluster or one written in place, and what joins them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from .curve_file import CURVES_DIR
from .errors import InvalidProblemError, did_you_mean
from .load import LINK_KINDS, cluster_of_section, load_cluster
from .mixed import Link, MixedCluster
from .names import is_yaml_path
from .types import GB, Cluster, Gpu
from .yaml_reader import Section, read_yaml

_POOL_KEYS = ("name", "nodes")
_IN_PLACE = ("gpu", "gpus_per_node", "tiers")
_OPTIONAL = ("max_nodes", "host_memory_gib", "efficiency", "notes")
_LINK_KEYS = ("kind", "gbytes_per_s_per_gpu")
_LINK_OPTIONAL = ("pools", "gbytes_per_s_total", "latency_us")


def is_mixed_file(name_or_path: str) -> bool:
    """Whether a cluster is a YAML file that has ``pools`` (a file that cannot be read is not)."""
    path = Path(name_or_path)
    if not (is_yaml_path(name_or_path) and path.is_file()):
        return False
    return "pools" in read_yaml(path)


def load_mixed(path: str | Path, *, curves_dir: Path = CURVES_DIR) -> MixedCluster:
    """Return the mixed cluster of a YAML file.

    A pool has a ``name``, ``nodes``, and either ``cluster`` (a shipped one, whose size it overrides) or ``gpu``,
    ``gpus_per_node`` and ``tiers`` as in a plain cluster file; ``speed`` (0 to 1) derates a degraded node: peaks and
    memory bandwidth of its GPU are multiplied by it. ``between`` is one link for all pairs, or a list of links with
    the ``pools`` that they join, where one without ``pools`` stands for all pairs not listed.

    Raises:
        InvalidProblemError: a broken file, an unknown name, or a pair of pools without a link.
        MissingProfileDataError: no curve file has a section that a GPU needs.
    """
    path = Path(path)
    section = Section(read_yaml(path), path.name)
    section.check_keys(("name", "pools", "between"), ("notes",))
    pools, speeds = [], []
    for pool in section.sections("pools"):
        pools.append(_pool(pool, curves_dir))
        speeds.append(_speed(pool))
    if not pools:
        raise section.error("pools", "is empty, give at least two")
    derated = tuple(_derated(pool, speed) for pool, speed in zip(pools, speeds, strict=True))
    return MixedCluster(
        name=section.text("name"),
        pools=derated,
        between=_links(section, [pool.name for pool in pools]),
        speeds=tuple(speeds),
        sources=section.sources,
        notes=section.text("notes", ""),
    )


def _pool(section: Section, curves_dir: Path) -> Cluster:
    if "cluster" in section.data:
        section.check_keys((*_POOL_KEYS, "cluster"), ("speed",))
        try:
            found = load_cluster(section.text("cluster"), nodes=section.count("nodes"), curves_dir=curves_dir)
        except InvalidProblemError as error:
            raise InvalidProblemError(f"{section.place}: {section.path}cluster: {error}") from None
        return replace(found, name=section.text("name"))
    section.check_keys((*_POOL_KEYS, *_IN_PLACE), (*_OPTIONAL, "speed"))
    return cluster_of_section(section, None, None, curves_dir)


def _speed(section: Section) -> float:
    speed = section.figure("speed", 1.0)
    if speed > 1.0:
        raise section.error("speed", f"is {speed:g}, expected a share of the usual rate, at most 1")
    return speed


def _derated(pool: Cluster, speed: float) -> Cluster:
    if speed == 1.0:
        return pool
    gpu: Gpu = pool.gpu
    slow = replace(
        gpu,
        peak_flops={kind: peak * speed for kind, peak in gpu.peak_flops.items()},
        hbm_bytes_per_s=gpu.hbm_bytes_per_s * speed,
    )
    return replace(pool, gpu=slow)


def _links(section: Section, names: Sequence[str]) -> tuple[Link, ...]:
    raw = section.data["between"]
    rows = [section.section("between")] if isinstance(raw, dict) else section.sections("between")
    given: dict[frozenset[str], dict[str, Any]] = {}
    default: dict[str, Any] | None = None
    for row in rows:
        row.check_keys(_LINK_KEYS, _LINK_OPTIONAL)
        figures = _figures(row)
        if "pools" not in row.data:
            if default is not None:
                raise row.error("pools", "is missing on a second link; only one can stand for all other pairs")
            default = figures
            continue
        pair = frozenset(_pair(row, names))
        if pair in given:
            raise row.error("pools", "names a pair that another link joins already")
        given[pair] = figures
    out = []
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            found = given.get(frozenset((a, b)), default)
            if found is not None:  # MixedCluster names the pairs that are missing
                out.append(Link(pools=(a, b), **found))
    return tuple(out)


def _figures(row: Section) -> dict[str, Any]:
    kind = row.text("kind")
    if kind not in LINK_KINDS:
        near = did_you_mean(kind, LINK_KINDS) or f" It is one of {', '.join(LINK_KINDS)}."
        raise InvalidProblemError(f"{row.place}: {row.path}kind is {kind!r}, which is no link kind.{near}")
    return {
        "kind": kind,
        "bytes_per_s": row.figure("gbytes_per_s_per_gpu") * GB,
        "total_bytes_per_s": row.figure("gbytes_per_s_total", 0.0) * GB,
        "latency_s": row.figure("latency_us", 0.0, zero_allowed=True) * 1e-6,
    }


def _pair(row: Section, names: Sequence[str]) -> tuple[str, str]:
    value = row.data["pools"]
    if not isinstance(value, list) or len(value) != 2 or not all(isinstance(v, str) for v in value):
        raise row.error("pools", "does not name two pools, as in [a, b]")
    for name in value:
        if name not in names:
            raise row.error("pools", f"names {name!r}, which is no pool; the pools are {', '.join(names)}")
    if value[0] == value[1]:
        raise row.error("pools", f"joins {value[0]!r} with itself")
    return value[0], value[1]
