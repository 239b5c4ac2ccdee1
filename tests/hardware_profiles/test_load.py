"""Sizes, errors, users' files and building a cluster from a row."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from meshwright.hardware_profiles.errors import InvalidProblemError, MissingProfileDataError
from meshwright.hardware_profiles.load import cluster_from_gpu, load_cluster, load_gpu

GOOD = """
name: mine
gpu: h100-sxm-80gb
gpus_per_node: 8
max_nodes: 16
tiers:
  - {kind: nvlink, domain_gpus: 8, gbytes_per_s_per_gpu: 450, nvls: true}
  - {kind: roce, gbytes_per_s_per_gpu: 25, latency_us: 3}
"""


@pytest.fixture
def write(tmp_path: Path):  # type: ignore[no-untyped-def]
    def _write(text: str, name: str = "mine.yaml") -> str:
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return _write


def test_users_file(write, curves_dir: Path) -> None:  # type: ignore[no-untyped-def]
    cluster = load_cluster(write(GOOD), nodes=4, curves_dir=curves_dir)
    assert (cluster.name, cluster.n_gpus, cluster.max_nodes, cluster.host_memory_bytes) == ("mine", 32, 16, 0.0)
    inner, outer = cluster.tiers
    assert inner.nvls and inner.domain_gpus == 8 and inner.bytes_per_s == 450e9
    assert outer.domain_gpus == 32 and outer.latency_s == pytest.approx(3e-6) and not outer.nvls


def test_sizes(curves_dir: Path) -> None:
    assert load_cluster("dgx-h100", gpus=64, curves_dir=curves_dir).nodes == 8
    assert load_cluster("DGX_H100", nodes=8, gpus=64, curves_dir=curves_dir).n_gpus == 64
    partial = load_cluster("dgx-h100", gpus=4, curves_dir=curves_dir)
    assert (partial.nodes, partial.gpus_per_node, partial.tiers[0].domain_gpus) == (1, 4, 4)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ({"nodes": 0}, "--nodes 0"),
        ({"nodes": -3}, "--nodes -3"),
        ({"nodes": 9999}, "at most 4096 nodes"),
        ({"gpus": 0}, "--gpus 0"),
        ({"gpus": 20}, "give 16 or 24"),
        ({"nodes": 2, "gpus": 8}, "disagree"),
    ],
)
def test_impossible_sizes(size: dict[str, int], message: str, curves_dir: Path) -> None:
    with pytest.raises(InvalidProblemError, match=message):
        load_cluster("dgx-h100", curves_dir=curves_dir, **size)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("gpus_per_node:", "gpu_per_node:", r"mine.yaml: unknown key gpu_per_node. Did you mean gpus_per_node"),
        ("latency_us:", "latency:", r"unknown key tiers\[1\].latency. Did you mean latency_us"),
        ("gpus_per_node: 8\n", "", "key gpus_per_node is missing"),
        ("gpus_per_node: 8", "gpus_per_node: 8.5", "gpus_per_node is 8.5, expected a whole number"),
        ("gpus_per_node: 8", "gpus_per_node: true", "is the flag true, expected a number"),
        ("gpus_per_node: 8", "gpus_per_node: eight", "is the text 'eight', expected a number"),
        ("gpus_per_node: 8", "gpus_per_node: 8\ngpus_per_node: 4", "line 5 .*stands there twice"),
        ("gbytes_per_s_per_gpu: 25", "gbytes_per_s_per_gpu: -25", "is -25, expected more than zero"),
        ("gbytes_per_s_per_gpu: 25", "gbytes_per_s_per_gpu: 0", "expected more than zero"),
        ("gbytes_per_s_per_gpu: 25", "gbytes_per_s_per_gpu: .nan", "expected a finite number"),
        ("gbytes_per_s_per_gpu: 25", "gbytes_per_s_per_gpu: 1" + 400 * "0", "expected a finite number"),
        ("gbytes_per_s_per_gpu: 25", "gbytes_per_s_per_gpu: 1e2", "write 1.0e"),
        ("gbytes_per_s_per_gpu: 25", "gbytes_per_s_per_gpu: {value: 25}", "gbytes_per_s_per_gpu.source is missing"),
        ("latency_us: 3", "latency_us: -1", "expected zero or more"),
        ("kind: roce", "kind: infinband", "did you mean infiniband"),
        ("kind: roce", "kind: pigeon", "it is one of nvlink"),
        ("kind: roce,", "kind: roce, nvls: true,", "only nvlink has it"),
        ("nvls: true", "nvls: 1", "expected true or false"),
        ("domain_gpus: 8, ", "", "only the last tier may leave it out"),
        ("domain_gpus: 8", "domain_gpus: 6", "neither a part nor a multiple of 8"),
        ("kind: roce,", "kind: roce, domain_gpus: 8,", "expected more than the 8 before it"),
        ("kind: roce,", "kind: roce, domain_gpus: 16,", "reaches 16 of 32 GPUs"),
        ("gpu: h100-sxm-80gb", "gpu: h100-sxn-80gb", "mine.yaml: gpu: Unknown GPU .*h100-sxm-80gb"),
        ("gpu: h100-sxm-80gb", "gpu: A100", "mine.yaml: gpu: GPU 'A100' is ambiguous"),
        ("gpu: h100-sxm-80gb", "gpu: [1]", "neither a GPU's name nor a mapping"),
        ("name: mine", "name: mine\n1: 2", "unknown key 1"),
        ("name: mine", "name: mine\n? [a]\n: b", "is not valid YAML in line 3"),
        ("name: mine", "name: 2024-99-99", "holds a value that YAML cannot read"),
        ("name: mine", "name: [mine", "is not valid YAML in line"),
    ],
)
def test_schema_errors(old: str, new: str, message: str, write, curves_dir: Path) -> None:  # type: ignore[no-untyped-def]
    assert old in GOOD
    with pytest.raises(InvalidProblemError, match=message) as caught:
        load_cluster(write(GOOD.replace(old, new, 1)), nodes=4, curves_dir=curves_dir)
    assert "\n" not in str(caught.value)


def test_unreadable_files(write, tmp_path: Path, curves_dir: Path) -> None:  # type: ignore[no-untyped-def]
    for path, message in [
        (str(tmp_path / "none.yaml"), "no such file"),
        (str(tmp_path / "folder.yml"), "cannot be read"),
        (write("- a\n- b\n", "list.yaml"), "holds a list, expected a mapping"),
        (write("", "empty.yaml"), "holds nothing"),
        (write("a: " + 100_000 * "[", "deep.yaml"), "nested too deeply"),
        (write(100_000 * "- ", "dashes.yaml"), "nested too deeply"),
    ]:
        (tmp_path / "folder.yml").mkdir(exist_ok=True)
        with pytest.raises(InvalidProblemError, match=message):
            load_cluster(path, curves_dir=curves_dir)
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00\x80\x81")
    with pytest.raises(InvalidProblemError, match=r"binary\.yaml"):
        load_cluster(str(binary), curves_dir=curves_dir)


def test_unknown_cluster_names_the_nearest(curves_dir: Path) -> None:
    with pytest.raises(InvalidProblemError, match="Did you mean dgx-h100"):
        load_cluster("dgx-h10", curves_dir=curves_dir)


def test_inline_gpu(write, curves_dir: Path) -> None:  # type: ignore[no-untyped-def]
    data = yaml.safe_load(GOOD)
    data["gpu"] = {
        "name": "x900", "vendor": "nvidia", "architecture": "hopper", "memory_gib": 100, "hbm_gbytes_per_s": 5000,
        "host_gbytes_per_s": 60, "peak_tflops": {"bf16": {"value": 1200, "source": "my sheet"}, "fp8": 2400},
        "sm_count": 150, "power_w": 800,
    }  # fmt: skip
    gpu = load_cluster(write(yaml.safe_dump(data)), curves_dir=curves_dir).gpu
    assert gpu.peak("bf16") == 1200e12 and gpu.memory_bytes == 100 * 2**30
    assert gpu.sources == {"peak_tflops.bf16": "my sheet"}
    assert gpu.gemm["fp8"]["peak_fraction"] == 0.6 and gpu.gemm["bf16"]["peak_fraction"] == 0.5
    data["gpu"]["sm_cuont"] = data["gpu"].pop("sm_count")
    with pytest.raises(InvalidProblemError, match=r"unknown key gpu\.sm_cuont. Did you mean sm_count"):
        load_cluster(write(yaml.safe_dump(data)), curves_dir=curves_dir)


def test_efficiency_override(write, curves_dir: Path) -> None:  # type: ignore[no-untyped-def]
    text = GOOD + "efficiency:\n  gemm: {bf16: {peak_fraction: 0.7}}\n  memory_bound: {floor_s: 1.0e-6}\n"
    gpu = load_cluster(write(text), curves_dir=curves_dir).gpu
    assert gpu.gemm["bf16"].coefficients == {"peak_fraction": 0.7, "floor_s": 2e-6}
    assert gpu.memory_bound["floor_s"] == 1e-6
    assert "changed by mine.yaml: peak_fraction" in gpu.gemm["bf16"].fit.source
    assert load_gpu("h100-sxm-80gb", curves_dir=curves_dir).gemm["bf16"]["peak_fraction"] == 0.8
    with pytest.raises(InvalidProblemError, match=r"efficiency\.gemm\.bf16\.peak_frac\. Did you mean peak_fraction"):
        load_cluster(write(text.replace("peak_fraction", "peak_frac")), curves_dir=curves_dir)


def test_cluster_from_gpu(curves_dir: Path) -> None:
    row = cluster_from_gpu(
        "A100-80GB", n_gpus=64, scale_out_bytes_per_s_per_gpu=6.25e9, scale_out_kind="omnipath", curves_dir=curves_dir
    )
    assert (row.nodes, row.gpus_per_node, row.n_gpus) == (8, 8, 64)
    assert [(t.kind, t.domain_gpus, t.bytes_per_s) for t in row.tiers] == [
        ("nvlink", 8, 300e9),
        ("omnipath", 64, 6.25e9),
    ]
    usual = cluster_from_gpu("h100-sxm-80gb", n_gpus=16, curves_dir=curves_dir)
    assert usual.tiers[-1].bytes_per_s == 50e9 and usual.tiers[0].nvls


def test_cluster_from_gpu_keeps_board_links_inside_the_host(curves_dir: Path) -> None:
    quad = cluster_from_gpu("V100-32GB", n_gpus=64, gpus_per_node=4, curves_dir=curves_dir)
    assert [t.domain_gpus for t in quad.tiers] == [4, 64]
    gcds = cluster_from_gpu("mi250x", n_gpus=16, scale_out_kind="slingshot", curves_dir=curves_dir)
    assert [t.domain_gpus for t in gcds.tiers] == [2, 8, 16]
    rack = cluster_from_gpu("gb200", n_gpus=144, curves_dir=curves_dir)
    assert (rack.gpus_per_node, [t.domain_gpus for t in rack.tiers]) == (4, [72, 144])
    few = cluster_from_gpu("h100-sxm-80gb", n_gpus=3, curves_dir=curves_dir)
    assert (few.nodes, few.gpus_per_node, few.tiers[0].domain_gpus) == (1, 3, 3)


def test_cluster_from_gpu_words_of_the_row_win(curves_dir: Path) -> None:
    row = cluster_from_gpu(
        "h100-nvl", n_gpus=4, gpus_per_node=4, scale_up_kind="pcie", scale_up_bytes_per_s_per_gpu=50e9,
        curves_dir=curves_dir,
    )  # fmt: skip
    assert [(t.kind, t.domain_gpus) for t in row.tiers] == [("pcie", 4), ("infiniband", 4)]
    assert row.tiers[0].bytes_per_s == 50e9
    with pytest.raises(InvalidProblemError, match="no link kind"):
        cluster_from_gpu("h100-nvl", n_gpus=4, scale_out_kind="carrier pigeon", curves_dir=curves_dir)
    with pytest.raises(InvalidProblemError, match="does not fill"):
        cluster_from_gpu("h100-nvl", n_gpus=12, curves_dir=curves_dir)


def test_missing_curves_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(MissingProfileDataError, match=r"curves/l4-24gb\.yaml"):
        load_gpu("l4", curves_dir=tmp_path)


def test_only_the_named_files_are_read(monkeypatch: pytest.MonkeyPatch, curves_dir: Path) -> None:
    opened: list[str] = []
    real = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda self: opened.append(self.name) or real(self))
    from meshwright.hardware_profiles import yaml_reader

    yaml_reader._read_yaml.cache_clear()
    load_cluster("aws-p5", curves_dir=curves_dir)
    expected = {"aws-p5.yaml", "aliases.yaml", "h100-sxm-80gb.yaml", "defaults.yaml"}
    assert set(opened) == expected
