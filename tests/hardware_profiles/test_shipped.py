"""Every shipped file loads, states its sources and holds figures of the right size."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from meshwright.hardware_profiles import yaml_reader
from meshwright.hardware_profiles.load import (
    LINK_KINDS,
    list_clusters,
    list_gpus,
    load_cluster,
    load_gpu,
    resolve_gpu,
)
from meshwright.hardware_profiles.names import CLUSTER_DIR, GPU_DIR, ROOT

ARCHITECTURES = {"volta", "ampere", "ada", "hopper", "blackwell", "cdna2", "cdna3"}


def bare_figures(data: Any, path: str = "") -> list[str]:
    """Paths of numbers that stand without a source (counts that define a layout apart)."""
    layout = ("gpus_per_node", "nodes", "domain_gpus")
    if isinstance(data, dict):
        if set(data) == {"value", "source"}:
            return [] if len(data["source"]) >= 6 else [path]
        return [p for k, v in data.items() if k not in layout for p in bare_figures(v, f"{path}.{k}")]
    if isinstance(data, list):
        return [p for i, v in enumerate(data) for p in bare_figures(v, f"{path}[{i}]")]
    return [path] if isinstance(data, (int, float)) and not isinstance(data, bool) else []


def test_the_promised_hardware_is_there() -> None:
    assert len(list_gpus()) >= 28
    assert {"dgx-h100", "gb200-nvl72", "frontier", "jean-zay-v100-32", "aws-p5", "gcp-a3"} <= set(list_clusters())


@pytest.mark.parametrize("name", list_gpus())
def test_gpu(name: str, curves_dir: Path) -> None:
    gpu = load_gpu(name, curves_dir=curves_dir)
    assert gpu.name == name
    assert gpu.architecture in ARCHITECTURES
    assert gpu.vendor in {"nvidia", "amd"}
    label_gb = float(name.rsplit("-", 1)[1].removesuffix("gb"))
    assert 0.93 < gpu.memory_bytes / 2**30 / label_gb < 1.01  # label GB are near GiB, never above
    peaks = gpu.peak_flops
    assert peaks["fp32"] < peaks["fp16"] <= 2500e12
    if "bf16" in peaks:
        assert peaks["bf16"] == peaks["fp16"]
        assert 1.9 < peaks["fp16"] / peaks.get("tf32", peaks["fp16"] / 2) < 2.1
    if "fp8" in peaks:
        assert 1.9 < peaks["fp8"] / peaks["bf16"] < 2.1
    if "fp4" in peaks:
        assert gpu.architecture == "blackwell"
        assert 1.9 < peaks["fp4"] / peaks["fp8"] < 3.1  # B300 and GB300 give up fp64 for fp4
    balance = peaks["fp16"] / gpu.hbm_bytes_per_s
    assert 30 < balance < 450
    assert 0.1e11 < gpu.host_bytes_per_s < 3e11
    assert {"memory_gib", "hbm_gbytes_per_s", "peak_tflops.fp16", "sm_count", "power_w"} <= set(gpu.sources)


def test_volta_has_no_bf16_and_ampere_no_fp8(curves_dir: Path) -> None:
    assert set(load_gpu("v100-sxm2-32gb", curves_dir=curves_dir).peak_flops) == {"fp16", "fp32"}
    assert "fp8" not in load_gpu("a100-sxm-80gb", curves_dir=curves_dir).peak_flops


def test_known_figures(curves_dir: Path) -> None:
    h100 = load_gpu("h100-sxm-80gb", curves_dir=curves_dir)
    assert h100.memory_bytes == pytest.approx(81559 * 2**20, rel=1e-5)
    assert h100.peak("bf16") == pytest.approx(989.4e12)
    assert load_gpu("mi250x", curves_dir=curves_dir).peak("bf16") == pytest.approx(191.5e12)


@pytest.mark.parametrize("name", list_gpus())
def test_every_gpu_figure_has_a_source(name: str) -> None:
    assert bare_figures(yaml_reader.read_yaml(GPU_DIR / f"{name}.yaml")) == []


@pytest.mark.parametrize("name", list_clusters())
def test_every_cluster_figure_has_a_source(name: str) -> None:
    assert bare_figures(yaml_reader.read_yaml(CLUSTER_DIR / f"{name}.yaml")) == []


@pytest.mark.parametrize("name", list_clusters())
def test_cluster(name: str, curves_dir: Path) -> None:
    cluster = load_cluster(name, curves_dir=curves_dir)
    assert cluster.name == name
    assert cluster.n_gpus == cluster.nodes * cluster.gpus_per_node
    big = load_cluster(name, nodes=cluster.max_nodes, curves_dir=curves_dir)
    assert big.tiers[-1].domain_gpus == big.n_gpus
    assert [t.domain_gpus for t in big.tiers] == sorted({t.domain_gpus for t in big.tiers})
    assert all(t.kind in LINK_KINDS for t in big.tiers)
    assert all(inner.bytes_per_s > outer.bytes_per_s for inner, outer in zip(big.tiers, big.tiers[1:], strict=False))
    assert big.tiers[-1].kind not in {"nvlink", "xgmi", "pcie"}
    assert 100e9 < cluster.host_memory_bytes < 4e12


def test_nvl72_joins_eighteen_trays(curves_dir: Path) -> None:
    rack = load_cluster("gb200-nvl72", curves_dir=curves_dir)
    assert (rack.nodes, rack.gpus_per_node, rack.tiers[0].domain_gpus) == (18, 4, 72)
    assert load_cluster("gb200-nvl72", nodes=2, curves_dir=curves_dir).tiers[0].domain_gpus == 8


def test_every_alias_leads_to_a_shipped_gpu() -> None:
    aliases = yaml_reader.read_yaml(ROOT / "aliases.yaml")
    targets = {gpu for kinds in aliases["kinds"].values() for gpu in kinds.values()}
    targets |= {entry["gpu"] for entry in aliases["assumed"].values()}
    assert targets == set(list_gpus())
    for family, kinds in aliases["kinds"].items():
        for memory, gpu in kinds.items():
            assert resolve_gpu(family, memory) == gpu


def test_loading_one_cluster_is_fast(curves_dir: Path) -> None:
    seconds = []
    for _ in range(5):
        yaml_reader._read_yaml.cache_clear()
        start = time.perf_counter()
        load_cluster("dgx-b200", curves_dir=curves_dir)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.02
