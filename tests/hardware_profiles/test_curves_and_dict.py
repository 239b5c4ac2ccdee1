"""Curves are merged and borrowed in order; plain data round-trips exactly."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from meshwright.hardware_profiles.errors import InvalidProblemError, MissingProfileDataError
from meshwright.hardware_profiles.load import (
    cluster_from_dict,
    cluster_to_dict,
    gpu_from_dict,
    gpu_to_dict,
    list_clusters,
    load_cluster,
    load_gpu,
    profile_sha256,
)
from meshwright.hardware_profiles.types import Provenance


def test_own_curves_come_first_then_architecture_then_any(curves_dir: Path) -> None:
    gpu = load_gpu("h100-sxm-80gb", curves_dir=curves_dir)
    own, lent, last = gpu.gemm["bf16"], gpu.gemm["fp8"], gpu.gemm["fp16"]
    assert [c["peak_fraction"] for c in (own, lent, last)] == [0.8, 0.6, 0.5]
    assert (own.provenance, own.fit.n_rows, own.fit.borrowed_from) == (Provenance.FITTED, 12, "")
    assert (lent.provenance, lent.fit.n_rows, lent.fit.rows_sha256) == (Provenance.DATASHEET, 0, "")
    assert (lent.fit.borrowed_from, last.fit.borrowed_from) == ("hopper", "any")
    assert lent.fit.mape == 0.05
    assert gpu.memory_bound["peak_fraction"] == 0.5


def test_no_gemm_curve_is_borrowed_for_a_type_that_the_device_lacks(curves_dir: Path) -> None:
    assert set(load_gpu("v100-sxm2-16gb", curves_dir=curves_dir).gemm) == {"fp16"}


def test_a_missing_section_is_named(curves_dir: Path) -> None:
    defaults = curves_dir / "defaults.yaml"
    text = defaults.read_text().replace("  attention:", "  atention:")
    (curves_dir / "defaults.yaml").write_text(text)
    with pytest.raises(InvalidProblemError, match=r"any\.atention. Did you mean attention"):
        load_gpu("a100-sxm-80gb", curves_dir=curves_dir)
    defaults.write_text("".join(line for line in text.splitlines(keepends=True) if "atention" not in line))
    with pytest.raises(MissingProfileDataError, match=r"No attention curve .*defaults\.yaml"):
        load_gpu("a100-sxm-80gb", curves_dir=curves_dir)


def test_bad_provenance_and_coefficient(curves_dir: Path) -> None:
    own = curves_dir / "h100-sxm-80gb.yaml"
    good = own.read_text()
    own.write_text(good.replace("provenance: fitted", "provenance: guessed"))
    with pytest.raises(InvalidProblemError, match=r"gemm\.bf16\.provenance is 'guessed'"):
        load_gpu("h100-sxm-80gb", curves_dir=curves_dir)
    own.write_text(good.replace("peak_fraction: 0.8", "peak_fraction: high"))
    with pytest.raises(InvalidProblemError, match=r"coefficients\.peak_fraction is the text 'high'"):
        load_gpu("h100-sxm-80gb", curves_dir=curves_dir)


@pytest.mark.parametrize("name", list_clusters())
def test_round_trip(name: str, curves_dir: Path) -> None:
    cluster = load_cluster(name, curves_dir=curves_dir)
    again = cluster_from_dict(json.loads(json.dumps(cluster_to_dict(cluster))))
    assert again == cluster
    assert cluster_to_dict(again) == cluster_to_dict(cluster)
    assert profile_sha256(again) == profile_sha256(cluster)


def test_round_trip_covers_every_field(curves_dir: Path) -> None:
    cluster = load_cluster("dgx-h100", curves_dir=curves_dir)
    data = cluster_to_dict(cluster)
    assert set(data) == {f.name for f in dataclasses.fields(cluster)}
    assert set(data["gpu"]) == {f.name for f in dataclasses.fields(cluster.gpu)}
    assert set(data["tiers"][0]) == {f.name for f in dataclasses.fields(cluster.tiers[0])}
    curve = cluster.gpu.gemm["bf16"]
    assert set(data["gpu"]["gemm"]["bf16"]) == {f.name for f in dataclasses.fields(curve)}
    assert set(data["gpu"]["gemm"]["bf16"]["fit"]) == {f.name for f in dataclasses.fields(curve.fit)}
    assert gpu_from_dict(gpu_to_dict(cluster.gpu)) == cluster.gpu


def test_hash_sees_a_changed_coefficient(curves_dir: Path) -> None:
    cluster = load_cluster("dgx-h100", curves_dir=curves_dir)
    data = cluster_to_dict(cluster)
    data["gpu"]["gemm"]["bf16"]["coefficients"]["peak_fraction"] += 1e-9
    assert profile_sha256(cluster_from_dict(data)) != profile_sha256(cluster)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("nodes",), 0, "cluster: nodes is 0, expected more than zero"),
        (("nodes",), "two", "expected a number"),
        (("tiers",), [], "tiers is empty"),
        (("gpu", "sm_count"), None, "gpu: sm_count is nothing"),
        (("gpu", "gemm"), 3, "gemm is 3, expected a mapping"),
        (("gpu", "memory_bound", "provenance"), "x", "memory_bound.provenance is 'x'"),
        (("extra",), 1, "unknown key extra"),
    ],
)
def test_garbled_data(path: tuple[str, ...], value: object, message: str, curves_dir: Path) -> None:
    data = cluster_to_dict(load_cluster("dgx-h100", curves_dir=curves_dir))
    inner = data
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    with pytest.raises(InvalidProblemError, match=message):
        cluster_from_dict(data)
