"""A cluster as plain data and back, without loss: what plan.json inlines, curves included."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from .errors import InvalidProblemError
from .types import Cluster, Curve, Fit, Gpu, Provenance, Tier
from .yaml_reader import Section

_GPU_NUMBERS = ("memory_bytes", "hbm_bytes_per_s", "host_bytes_per_s", "power_w")
_GPU_TEXTS = ("name", "vendor", "architecture", "notes")
_GPU_CURVES = ("gemm", "attention", "collectives")


def gpu_to_dict(gpu: Gpu) -> dict[str, Any]:
    """Return a GPU as JSON-ready data; ``gpu_from_dict`` gives back an equal GPU."""
    out: dict[str, Any] = {key: getattr(gpu, key) for key in (*_GPU_TEXTS, *_GPU_NUMBERS, "sm_count")}
    out["peak_flops"] = dict(gpu.peak_flops)
    for key in _GPU_CURVES:
        out[key] = {name: _curve_to_dict(curve) for name, curve in getattr(gpu, key).items()}
    out["memory_bound"] = _curve_to_dict(gpu.memory_bound)
    out["sources"] = dict(gpu.sources)
    return out


def gpu_from_dict(data: Mapping[str, Any], *, place: str = "gpu") -> Gpu:
    """Return the GPU of ``gpu_to_dict``.

    Raises:
        InvalidProblemError: a key is missing, unknown or of the wrong type.
    """
    section = Section(data, place)
    section.check_keys((*_GPU_TEXTS, *_GPU_NUMBERS, "sm_count", "peak_flops", *_GPU_CURVES, "memory_bound", "sources"))
    peaks = section.section("peak_flops")
    curves = {key: section.section(key) for key in _GPU_CURVES}
    return Gpu(
        **{key: section.text(key) for key in _GPU_TEXTS},  # type: ignore[arg-type]
        **{key: section.figure(key) for key in _GPU_NUMBERS},  # type: ignore[arg-type]
        sm_count=section.count("sm_count"),
        peak_flops={key: peaks.figure(key) for key in peaks.data},
        **{  # type: ignore[arg-type]
            key: {name: _curve_from_dict(inner.section(name)) for name in inner.data} for key, inner in curves.items()
        },
        memory_bound=_curve_from_dict(section.section("memory_bound")),
        sources=_texts(section.section("sources")),
    )


def cluster_to_dict(cluster: Cluster) -> dict[str, Any]:
    """Return a cluster as JSON-ready data; ``cluster_from_dict`` gives back an equal cluster."""
    return {
        "name": cluster.name,
        "gpu": gpu_to_dict(cluster.gpu),
        "nodes": cluster.nodes,
        "gpus_per_node": cluster.gpus_per_node,
        "tiers": [
            {
                "kind": tier.kind,
                "domain_gpus": tier.domain_gpus,
                "bytes_per_s": tier.bytes_per_s,
                "latency_s": tier.latency_s,
                "nvls": tier.nvls,
            }
            for tier in cluster.tiers
        ],
        "host_memory_bytes": cluster.host_memory_bytes,
        "max_nodes": cluster.max_nodes,
        "sources": dict(cluster.sources),
        "notes": cluster.notes,
    }


def cluster_from_dict(data: Mapping[str, Any], *, place: str = "cluster") -> Cluster:
    """Return the cluster of ``cluster_to_dict``.

    Raises:
        InvalidProblemError: a key is missing, unknown or of the wrong type.
    """
    section = Section(data, place)
    section.check_keys(
        ("name", "gpu", "nodes", "gpus_per_node", "tiers", "host_memory_bytes", "max_nodes", "sources", "notes")
    )
    tiers = []
    for tier in section.sections("tiers"):
        tier.check_keys(("kind", "domain_gpus", "bytes_per_s", "latency_s", "nvls"))
        tiers.append(
            Tier(
                kind=tier.text("kind"),
                domain_gpus=tier.count("domain_gpus"),
                bytes_per_s=tier.figure("bytes_per_s"),
                latency_s=tier.figure("latency_s", zero_allowed=True),
                nvls=tier.flag("nvls", False),
            )
        )
    if not tiers:
        raise InvalidProblemError(f"{place}: tiers is empty, expected at least one link tier.")
    return Cluster(
        name=section.text("name"),
        gpu=gpu_from_dict(section.section("gpu").data, place=f"{place}: gpu"),
        nodes=section.count("nodes"),
        gpus_per_node=section.count("gpus_per_node"),
        tiers=tuple(tiers),
        host_memory_bytes=section.figure("host_memory_bytes", zero_allowed=True),
        max_nodes=int(section.figure("max_nodes", zero_allowed=True)),
        sources=_texts(section.section("sources")),
        notes=section.text("notes"),
    )


def profile_sha256(cluster: Cluster) -> str:
    """Return the SHA-256 of everything that the cost model can see of a cluster, curves and sources included."""
    text = json.dumps(cluster_to_dict(cluster), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _curve_to_dict(curve: Curve) -> dict[str, Any]:
    fit = curve.fit
    return {
        "coefficients": dict(curve.coefficients),
        "provenance": curve.provenance.value,
        "fit": {
            "source": fit.source,
            "n_rows": fit.n_rows,
            "mape": fit.mape,
            "rows_sha256": fit.rows_sha256,
            "borrowed_from": fit.borrowed_from,
            "half_width": fit.half_width,
            "half_width_across": fit.half_width_across,
        },
    }


def _curve_from_dict(section: Section) -> Curve:
    section.check_keys(("coefficients", "provenance", "fit"))
    numbers, fit = section.section("coefficients"), section.section("fit")
    fit.check_keys(("source", "n_rows", "mape", "rows_sha256", "borrowed_from"), ("half_width", "half_width_across"))
    word = section.text("provenance")
    if word not in set(Provenance):
        raise section.error("provenance", f"is {word!r}, expected one of {', '.join(Provenance)}")
    return Curve(
        coefficients={key: numbers.number(key) for key in numbers.data},
        provenance=Provenance(word),
        fit=Fit(
            source=fit.text("source"),
            n_rows=int(fit.figure("n_rows", zero_allowed=True)),
            mape=fit.figure("mape", zero_allowed=True),
            rows_sha256=fit.text("rows_sha256"),
            borrowed_from=fit.text("borrowed_from"),
            half_width=fit.figure("half_width", 0.0, zero_allowed=True),
            half_width_across=fit.figure("half_width_across", 0.0, zero_allowed=True),
        ),
    )


def _texts(section: Section) -> dict[str, str]:
    return {key: section.text(key) for key in section.data}
