"""Devices and clusters for tests of the operator formulae, with round coefficients (not the shipped curves)."""

from __future__ import annotations

from collections.abc import Mapping

from meshwright.hardware_profiles.types import Cluster, Curve, Fit, Gpu, Provenance, Tier


def curve(**coefficients: float) -> Curve:
    return Curve(coefficients=coefficients, provenance=Provenance.FITTED, fit=Fit(source="test"))


GEMM = curve(
    efficiency=0.9, k_prologue=300.0, rate_128x128=0.9, rate_64x64=0.55, tail=0.7, k_split=4000.0, throttle=0.1,
    throttle_after_s=3e-4, hbm_efficiency=0.85, floor_s=3e-6, grouped_rate=0.85,
)  # fmt: skip
FLASH = curve(
    efficiency_fwd=0.65, efficiency_bwd=0.55, key_prologue_fwd=150.0, key_prologue_bwd=200.0, head_power_fwd=0.3,
    head_power_bwd=0.3, head_power_above=0.0, tail=0.7, floor_s=8e-6,
)  # fmt: skip
UNFUSED = curve(gemm_efficiency_fwd=0.5, gemm_efficiency_bwd=0.6, score_bytes_fwd=9.0, score_bytes_bwd=11.0)
RING = {"start_s": 8e-6, "hop_s": 1.2e-6, "hop_inside_s": 3.4e-6, "efficiency": 0.8, "half_bytes": 2e6}
TREE = {"tree_start_s": 8e-6, "tree_hop_s": 3e-6, "tree_efficiency": 0.8, "tree_half_bytes": 4e6}
NET = {"start_s": 15e-6, "hop_s": 14e-6, "efficiency": 0.9, "half_bytes": 1e6}
NET_TREE = {"tree_start_s": 20e-6, "tree_hop_s": 9e-6, "tree_efficiency": 0.8, "tree_half_bytes": 4e6}
NVLS = {"nvls_efficiency": 1.1, "nvls_start_s": 18e-6, "nvls_half_bytes": 4e6}
_OPS = ("all_gather", "reduce_scatter", "all_to_all", "p2p")


def collectives() -> Mapping[str, Curve]:
    found = {f"nvlink/{op}": curve(**RING, peers_half=0.2) for op in _OPS}
    found["nvlink/all_reduce"] = curve(**RING, **TREE, **NVLS, peers_half=0.2)
    found |= {f"infiniband/{op}": curve(**NET) for op in _OPS}
    found["infiniband/all_reduce"] = curve(**NET, **NET_TREE)
    return found


def gpu(**changes: object) -> Gpu:
    values: dict[str, object] = {
        "name": "test-gpu", "vendor": "test", "architecture": "hopper",
        "peak_flops": {"bf16": 989e12, "fp16": 989e12, "fp8": 1979e12}, "memory_bytes": 80e9,
        "hbm_bytes_per_s": 3.35e12, "host_bytes_per_s": 55e9, "sm_count": 132, "power_w": 700.0,
        "gemm": {"bf16": GEMM, "fp8": GEMM},
        "attention": {"flash2": FLASH, "flash3": FLASH, "unfused": UNFUSED},
        "memory_bound": curve(efficiency=0.9, floor_s=2.5e-6), "collectives": collectives(),
    }  # fmt: skip
    return Gpu(**(values | changes))  # type: ignore[arg-type]


def cluster(nodes: int = 16, *, nvls: bool = False, device: Gpu | None = None) -> Cluster:
    tiers = (
        Tier(kind="nvlink", domain_gpus=8, bytes_per_s=450e9, latency_s=0.0, nvls=nvls),
        Tier(kind="infiniband", domain_gpus=8 * nodes, bytes_per_s=50e9, latency_s=0.0),
    )
    return Cluster(name="test", gpu=device or gpu(), nodes=nodes, gpus_per_node=8, tiers=tiers)
