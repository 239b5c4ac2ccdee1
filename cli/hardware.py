"""``meshwright hardware``: list the GPUs and clusters that ship, or describe one."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from . import options as o
from .output import print_json


def hardware(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="A GPU, a cluster, or a YAML file.")] = None,
    as_json: o.JsonOpt = False,
) -> None:
    """List the GPUs and clusters that ship, or describe one with the source of each figure."""
    if name is not None:
        _describe(name, as_json)
        return
    from ..hardware_profiles.load import list_clusters, list_gpus, load_cluster, load_gpu

    gpus = [load_gpu(n) for n in list_gpus()]
    clusters = [load_cluster(n) for n in list_clusters()]
    if as_json:
        print_json({"gpus": [_gpu_facts(g) for g in gpus], "clusters": [_cluster_facts(c) for c in clusters]})
        return
    from .table import render

    header = ["gpu", "vendor", "memory GB", "HBM TB/s", "TFLOP/s 16-bit", "fp8", "fp4", "gemm curve"]
    print(render(header, [_gpu_cells(g) for g in gpus], left=(0, 1, 7)))
    print()
    header = ["cluster", "gpu", "GPUs", "nodes", "GB/s of a GPU each way"]
    print(render(header, [_cluster_cells(c) for c in clusters], left=(0, 1, 4)))


def _describe(name: str, as_json: bool) -> None:
    from dataclasses import asdict

    from ..hardware_profiles.load import list_clusters, load_cluster, load_gpu
    from ..hardware_profiles.load_mixed import is_mixed_file, load_mixed
    from ..hardware_profiles.names import is_yaml_path

    if is_mixed_file(name):
        mixed = load_mixed(name)
        if not as_json:
            print(_pools_text(mixed))
            return
        facts = asdict(mixed)
    else:
        is_cluster = name in list_clusters() or is_yaml_path(name)
        facts = asdict(load_cluster(name)) if is_cluster else asdict(load_gpu(name))
    if as_json:
        print_json(facts)
        return
    _print_tree(facts, 0)


def _pools_text(mixed: Any) -> str:
    """Pools and the links between them, as two tables."""
    from .table import render

    header = ["pool", "gpu", "GPUs", "nodes", "speed", "GB/s of a GPU each way"]
    rows = []
    for pool, speed in zip(mixed.pools, mixed.speeds, strict=True):
        links = ", ".join(f"{t.kind} ({t.domain_gpus}) {t.bytes_per_s / 1e9:.3g}" for t in pool.tiers)
        rows.append([pool.name, pool.gpu.name, str(pool.n_gpus), str(pool.nodes), f"{speed:g}", links])
    between = [
        [
            " - ".join(link.pools),
            link.kind,
            f"{link.bytes_per_s / 1e9:.3g}",
            f"{link.total_bytes_per_s / 1e9:.3g}" if link.total_bytes_per_s else "-",
            f"{link.latency_s * 1e6:.3g}",
        ]
        for link in mixed.between
    ]
    names = ["between", "kind", "GB/s of a GPU", "GB/s in all", "latency us"]
    return "\n\n".join((render(header, rows, left=(0, 1, 5)), render(names, between, left=(0, 1))))


def _print_tree(value: dict[str, Any], depth: int) -> None:
    for key, inner in value.items():
        pad = "  " * depth
        if isinstance(inner, dict) and inner:
            print(f"{pad}{key}:")
            _print_tree(inner, depth + 1)
        elif isinstance(inner, (list, tuple)) and inner and isinstance(inner[0], dict):
            print(f"{pad}{key}:")
            for item in inner:
                print(f"{pad}  - {', '.join(f'{k}={v}' for k, v in item.items())}")
        elif inner not in ("", {}, ()):
            print(f"{pad}{key}: {f'{inner:.6g}' if isinstance(inner, float) else inner}")


def _gpu_facts(gpu: Any) -> dict[str, Any]:
    return {
        "name": gpu.name,
        "vendor": gpu.vendor,
        "architecture": gpu.architecture,
        "memory_bytes": gpu.memory_bytes,
        "hbm_bytes_per_s": gpu.hbm_bytes_per_s,
        "peak_flops": dict(gpu.peak_flops),
        "gemm_provenance": {k: str(c.provenance) for k, c in gpu.gemm.items()},
    }


def _gpu_cells(gpu: Any) -> list[str]:
    peak = {k: f"{v / 1e12:,.0f}" for k, v in gpu.peak_flops.items()}
    return [
        gpu.name,
        gpu.vendor,
        f"{gpu.memory_bytes / 1e9:.1f}",
        f"{gpu.hbm_bytes_per_s / 1e12:.2f}",
        peak.get("bf16", peak.get("fp16", "-")),
        peak.get("fp8", "-"),
        peak.get("fp4", "-"),
        ", ".join(sorted({str(c.provenance) for c in gpu.gemm.values()})),
    ]


def _cluster_facts(cluster: Any) -> dict[str, Any]:
    return {
        "name": cluster.name,
        "gpu": cluster.gpu.name,
        "gpus_per_node": cluster.gpus_per_node,
        "max_nodes": cluster.max_nodes,
        "tiers": [{"kind": t.kind, "domain_gpus": t.domain_gpus, "bytes_per_s": t.bytes_per_s} for t in cluster.tiers],
    }


def _cluster_cells(cluster: Any) -> list[str]:
    inner = [f"{t.kind} ({t.domain_gpus}) {t.bytes_per_s / 1e9:.3g}" for t in cluster.tiers[:-1]]
    outer = [f"{t.kind} {t.bytes_per_s / 1e9:.3g}" for t in cluster.tiers[-1:]]
    return [
        cluster.name,
        cluster.gpu.name,
        str(cluster.gpus_per_node),
        f"<={cluster.max_nodes}" if cluster.max_nodes else "-",
        ", ".join(inner + outer),
    ]
