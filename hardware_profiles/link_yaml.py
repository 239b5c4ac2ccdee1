"""Links written down by tier: racks, pods, one bandwidth for each level, and nodes that run below it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from .errors import InvalidProblemError, did_you_mean
from .link_matrix import LinkMatrix
from .yaml_reader import Section, read_yaml

_UNITS = {"gbit_per_s": 1e9 / 8, "gbytes_per_s": 1e9}
_LEVELS = ("rack", "pod", "cluster")
_RANGE = re.compile(r"^([^\[\]]*)\[(\d+)-(\d+)\]([^\[\]]*)$")
_MOST_NODES = 20_000


def links_from_yaml(path: Path) -> LinkMatrix:
    """Read the ``links`` section of a cluster file, or a file that holds nothing else.

    Keys of ``links``: ``racks`` (rack -> list of nodes, ``n[001-008]`` for a range), ``pods`` (pod -> list of racks,
    optional), ``gbit_per_s`` or ``gbytes_per_s`` with ``rack``, ``pod`` and ``cluster`` (within a rack, between racks
    of a pod, beyond), ``degraded`` (node -> factor; a link runs at the slower end's factor), ``per`` (``gpu``, the
    default, or ``node``), ``measured`` (false), ``gpu_order`` (node -> its GPUs in the order of local ranks).

    Raises:
        InvalidProblemError: a key, node, rack or figure is wrong; the sentence names it.
    """
    whole = Section(read_yaml(path), path.name)
    if "links" not in whole.data:
        raise InvalidProblemError(f"{path.name}: has no section links; see docs/placement.md for its keys.")
    return _links(whole.section("links"))


def _links(section: Section) -> LinkMatrix:
    section.check_keys(("racks",), ("pods", "gbit_per_s", "gbytes_per_s", "degraded", "gpu_order", "per", "measured"))
    nodes, racks = _racks(section.section("racks"))
    pods = _pods(section, racks)
    units = [u for u in _UNITS if u in section.data]
    if len(units) != 1:
        raise section.error("gbit_per_s", "or gbytes_per_s is needed, exactly one of them")
    rates = section.section(units[0])
    several_racks, several_pods = len(set(racks)) > 1, bool(pods) and len(set(pods)) > 1
    needed = ["rack", *(["pod"] if pods and several_racks else []), *(["cluster"] if several_pods else [])]
    if several_racks and not pods:
        needed = ["rack", "cluster"]
    rates.check_keys(needed, _LEVELS)
    rate = {level: rates.figure(level) * _UNITS[units[0]] for level in rates.data}
    same_rack = np.equal.outer(np.array(racks), np.array(racks))
    same_pod = np.equal.outer(np.array(pods), np.array(pods)) if pods else same_rack
    outer = np.where(same_pod, rate.get("pod", np.nan), rate.get("cluster", np.nan))
    matrix = np.where(same_rack, rate["rack"], outer)
    degraded = _degraded(section, nodes)
    factor = np.array([degraded.get(n, 1.0) for n in nodes])
    return LinkMatrix(
        nodes=nodes,
        bytes_per_s=matrix * np.minimum.outer(factor, factor),
        per=section.text("per", "gpu"),
        racks=racks,
        pods=pods,
        degraded=degraded,
        gpu_order=_gpu_order(section, nodes),
        measured=section.flag("measured", False),
        source=section.place,
    )


def _racks(section: Section) -> tuple[tuple[str, ...], tuple[str, ...]]:
    nodes: list[str] = []
    racks: list[str] = []
    for rack in section.data:
        names = _names(section, rack)
        for name in names:
            nodes.append(name)
            racks.append(str(rack))
        if len(nodes) > _MOST_NODES:
            raise section.error(str(rack), f"brings the nodes to more than {_MOST_NODES}")
    return tuple(nodes), tuple(racks)


def _names(section: Section, key: Any) -> list[str]:
    value = section.data[key]
    entries = [value] if isinstance(value, str) else value
    if not isinstance(entries, list) or not entries or not all(isinstance(e, str) for e in entries):
        raise section.error(str(key), "must list names, as in [n1, n2] or n[001-008]")
    out: list[str] = []
    for entry in entries:
        span = _RANGE.match(entry)
        if span is None:
            out.append(entry)
            continue
        before, first, last, after = span.groups()
        if int(last) < int(first) or int(last) - int(first) >= _MOST_NODES:
            raise section.error(str(key), f"holds the range {entry}, which runs backwards or is too long")
        out += [f"{before}{i:0{len(first)}d}{after}" for i in range(int(first), int(last) + 1)]
    return out


def _pods(section: Section, racks: tuple[str, ...]) -> tuple[str, ...]:
    if "pods" not in section.data:
        return ()
    inner = section.section("pods")
    pod_of: dict[str, str] = {}
    for pod in inner.data:
        for rack in _names(inner, pod):
            if rack not in racks:
                raise inner.error(str(pod), f"names rack {rack}, which has no nodes.{did_you_mean(rack, set(racks))}")
            if rack in pod_of:
                raise inner.error(str(pod), f"names rack {rack}, which is in pod {pod_of[rack]} already")
            pod_of[rack] = str(pod)
    without = [r for r in racks if r not in pod_of]
    if without:
        raise section.error("pods", f"leaves rack {without[0]} out")
    return tuple(pod_of[r] for r in racks)


def _degraded(section: Section, nodes: tuple[str, ...]) -> dict[str, float]:
    if "degraded" not in section.data:
        return {}
    inner = section.section("degraded")
    out: dict[str, float] = {}
    for name in inner.data:
        if name not in nodes:
            raise InvalidProblemError(
                f"{inner.place}: {inner.path}{name} is no node of the racks.{did_you_mean(str(name), nodes)}"
            )
        out[name] = inner.figure(name)
        if out[name] > 1:
            raise inner.error(name, f"is {out[name]:g}, expected a factor of at most 1")
    return out


def _gpu_order(section: Section, nodes: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    if "gpu_order" not in section.data:
        return {}
    inner = section.section("gpu_order")
    out: dict[str, tuple[int, ...]] = {}
    for name, gpus in inner.data.items():
        if name not in nodes:
            raise InvalidProblemError(
                f"{inner.place}: {inner.path}{name} is no node of the racks.{did_you_mean(str(name), nodes)}"
            )
        if not isinstance(gpus, list) or sorted(map(str, gpus)) != sorted(map(str, range(len(gpus)))):
            raise inner.error(str(name), "must list every GPU of the node once, as in [4, 5, 6, 7, 0, 1, 2, 3]")
        out[str(name)] = tuple(int(i) for i in gpus)
    return out
