"""Collective curves: one node from nccl-tests tables, the network from published efficiencies and logs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from meshwright.costmodels.collectives import collective_time_s, p2p_time_s
from meshwright.hardware_profiles.types import Cluster, Gpu, Tier

from .common import (
    DEVICES,
    Array,
    Coefficients,
    Rows,
    bare_gpu,
    borrow,
    curve,
    entry,
    left_out_error,
    read,
    report,
    solve,
    text_rows,
)

#: Table name -> (link kind, one direction bytes/s per GPU, in-switch reduction), from the GPU profiles.
LINKS = {
    "a100_sxm": ("nvlink", 300e9, False),
    "h100_sxm": ("nvlink", 450e9, True),
    "h200_sxm": ("nvlink", 450e9, True),
    "b200_sxm": ("nvlink", 900e9, True),
    "b300_sxm": ("nvlink", 900e9, True),
    "gb200": ("nvlink", 900e9, True),
    "gb300": ("nvlink", 900e9, True),
    "l40s": ("pcie", 32e9, False),
    "rtx_pro_6000_server": ("pcie", 63e9, False),
}
OPERATIONS = {
    "all_reduce": "all_reduce",
    "all_gather": "all_gather",
    "reduce_scatter": "reduce_scatter",
    "alltoall": "all_to_all",
}
BOUNDS = {
    "start_s": (0.0, 5e-6, 3e-5),
    "hop_s": (0.0, 1e-6, 5e-6),
    "efficiency": (0.1, 0.8, 1.0),
    "half_bytes": (0.0, 2e6, 1e8),
    "peers_half": (0.0, 0.2, 3.0),
}
# The upper bound on the rate comes from H200 runs at 8 GiB (stas00/ml-engineering@744d01e1): the fitted tables stop at
# 512 MiB, where half_bytes and the rate trade off, and a free fit gave 1.3, 8% too fast at 8 GiB.
NVLS_BOUNDS = {
    "nvls_efficiency": (0.7, 1.1, 1.2),
    "nvls_start_s": (5e-6, 1.8e-5, 4e-5),
    "nvls_half_bytes": (0.0, 4e6, 1e8),
}
# Per-hop times of NVLink inside a ring or tree that leaves the node: ring with the Simple protocol, tree with LL;
# NVIDIA/nccl src/graph/tuning.cc, table hwLat (3.4 and 0.6 us). They cannot be told apart in the tables.
INSIDE = {"hop_inside_s": 3.4e-6}
INSIDE_TREE = {"tree_start_s": 0.0, "tree_hop_s": 0.6e-6, "tree_efficiency": 1.0, "tree_half_bytes": 0.0}
NCCL_SOURCE = "NVIDIA/aiconfigurator@095f58a5 (Apache-2.0) {}/comm/nccl, 2 to 8 GPUs, 512 B to 512 MiB"
SIMAI_SOURCE = "aliyun/SimAI@cef83f9d (Apache-2.0) inputs/ratio: share of the NIC rate on 8-GPU 400 Gb/s nodes"
ECHO_SOURCE = "NetX-lab/Echo@15f0d12c nccl-test-log: latency and tree of 2 to 16 A100 nodes; ring as all_gather"


def one_node(gpu: Gpu, kind: str, rate: float, nvls: bool, op: str, p: Mapping[str, float]) -> Cluster:
    device = replace(gpu, collectives={f"{kind}/{op}": curve(p)})
    tier = Tier(kind=kind, domain_gpus=8, bytes_per_s=rate, latency_s=0.0, nvls=nvls)
    return Cluster(name="fit", gpu=device, nodes=1, gpus_per_node=8, tiers=(tier,))


def fit_node(data: Path, table: str, like: Mapping[str, Any] | None = None) -> dict[str, dict[str, Any]]:
    """The four collectives of one device inside a node.

    ``like``: curves of a device with the same links and more GPUs measured; in-switch reduction is taken from it
    where unmeasured, and so is the growth with the group where only 2 and 4 GPUs were timed (72 share a domain).
    """
    kind, rate, nvls = LINKS[table]
    gpu = bare_gpu(DEVICES[table])
    frame = read(data, "hardware/nccl_intranode_aiconfigurator.csv")
    frame = frame[frame.system == table]
    found: dict[str, dict[str, Any]] = {}
    for raw, op in OPERATIONS.items():
        f = frame[frame.collective == raw]
        size, n = f.size_bytes.to_numpy(float), f.n_gpus.to_numpy(np.int64)
        measured_nvls = nvls and op == "all_reduce" and int(n.max()) > 4
        bounds: dict[str, tuple[float, float, float]] = dict(BOUNDS)
        if measured_nvls:
            bounds |= NVLS_BOUNDS
        if kind == "pcie":
            bounds["crowding"] = (0.0, 0.5, 10.0)
        if like and int(n.max()) <= 4:
            known = like[f"{kind}/{op}"]["coefficients"]["peers_half"]
            bounds["peers_half"] = (known, known, known)
        extra = {**INSIDE, **(INSIDE_TREE if op == "all_reduce" else {})}
        if op == "all_reduce" and not measured_nvls and like:
            extra |= {key: like["nvlink/all_reduce"]["coefficients"][key] for key in NVLS_BOUNDS}
        rows = _rows(f, size, n, _node_predictor(gpu, kind, rate, measured_nvls, op, size, n, extra))
        error = left_out_error(rows, bounds)
        report(f"{kind}/{op} {DEVICES[table]}", rows, error)
        mape = np.abs(error[size >= 2**20]).mean()
        source = NCCL_SOURCE.format(table) + "; mape from 1 MiB"
        found[f"{kind}/{op}"] = entry({**solve(rows, bounds), **extra}, source, rows=rows, mape=mape)
    return found


def _node_predictor(
    gpu: Gpu, kind: str, rate: float, nvls: bool, op: str, size: Array, n: Any, extra: Mapping[str, float]
) -> Any:
    def predict(p: Coefficients) -> Array:
        return np.asarray(collective_time_s(one_node(gpu, kind, rate, nvls, op, {**extra, **p}), op, size, n), float)

    return predict


def _rows(f: Any, size: Array, n: Any, predict: Any) -> Rows:
    return Rows(
        predict=predict,
        seconds=f.time_us.to_numpy(float) * 1e-6,
        weight=np.where(size >= 2**20, 1.0, np.where(size >= 2**16, 0.5, 0.15)),
        group=np.log2(size).round(),
        lines=text_rows(f, ["n_gpus", "size_bytes", "time_us"]),
        classes={
            "<64K": size < 2**16,
            "64K-1M": (size >= 2**16) & (size < 2**20),
            "1-16M": (size >= 2**20) & (size < 2**24),
            "16-128M": (size >= 2**24) & (size < 2**27),
            ">=128M": size >= 2**27,
        },
    )


def fit_v100_node(data: Path) -> dict[str, Any]:
    """All-reduce of a DGX-1 (hybrid cube mesh: no switch, so few GPUs see few links), 2, 4 and 8 GPUs."""
    import pandas as pd

    folder = data / "hardware/vtrain_allreduce_lut/v100"
    frames = []
    for n in (2, 4, 8):
        f = pd.read_csv(folder / f"AR_GPU{n}_1M_1024M_LUT", usecols=[0, 3], names=["size_bytes", "time_ns"], header=0)
        f = f[f.size_bytes.isin([2**i for i in range(20, 31)])]
        frames.append(f.assign(n_gpus=n, time_us=f.time_ns / 1e3))
    f = pd.concat(frames)
    size, n_gpus = f.size_bytes.to_numpy(float), f.n_gpus.to_numpy(np.int64)
    bounds = {k: b for k, b in BOUNDS.items() if k != "peers_half"} | {"mesh": (0.0, 0.7, 1.5)}
    bounds["hop_s"] = (0.0, 1e-6, 1e-5)
    bounds["efficiency"] = (0.1, 0.8, 0.92)  # what switched NVLink reaches; the mesh form would take 1.0
    gpu, extra = bare_gpu("v100-sxm2-32gb"), {**INSIDE, **INSIDE_TREE}
    rows = _rows(f, size, n_gpus, _node_predictor(gpu, "nvlink", 150e9, False, "all_reduce", size, n_gpus, extra))
    error = left_out_error(rows, bounds)
    report("nvlink/all_reduce v100 (DGX-1)", rows, error)
    source = "VIA-Research/vTrain (MIT) all-reduce tables, V100 DGX-1, 1 MiB to 1 GiB"
    return entry({**solve(rows, bounds), **extra}, source, rows=rows, mape=np.abs(error).mean())


def fit_p2p(data: Path) -> dict[str, dict[str, Any]]:
    """Send and receive: NVLink of A100 (vidur), H100 and H200 (apex_plus), and one NIC of an H100 node (vidur)."""
    vidur = read(data, "kernels/vidur_network.csv")
    vidur = vidur[vidur.collective == "send_recv"]
    vidur = vidur.assign(time_us=vidur.latency_ms * 1e3, size_bytes=vidur["bytes"])
    apex = read(data, "hardware/collectives_apex_plus.csv")
    apex = apex[(apex.collective == "sendrecv") & (apex.size_kb >= 1)]
    apex = apex.assign(size_bytes=apex.size_kb * 1024)
    cases = {
        "a100-sxm-80gb": ("nvlink", 300e9, vidur[(vidur.node == "a100_dgx") & (vidur.devices_per_node == 2)], "vidur"),
        "h100-sxm-80gb": ("nvlink", 450e9, apex[apex.device == "H100-SXM-80GB"], "apex"),
        "h200-sxm-141gb": ("nvlink", 450e9, apex[apex.device == "H200-SXM-141GB"], "apex"),
        "any": ("infiniband", 50e9, vidur[(vidur.node == "h100_dgx") & (vidur.devices_per_node == 1)], "vidur"),
    }
    sources = {
        "vidur": "microsoft/vidur@7d47513 (MIT) send_recv",
        "apex": "microsoft/apex_plus@87690965 (MIT) sendrecv",
    }
    bounds = {k: BOUNDS[k] for k in ("start_s", "efficiency", "half_bytes")}
    found = {}
    for name, (kind, rate, f, origin) in cases.items():
        gpu = bare_gpu(name if name != "any" else "h100-sxm-80gb")
        size = f.size_bytes.to_numpy(float)

        def predict(p: Coefficients, gpu: Gpu = gpu, kind: str = kind, rate: float = rate, size: Array = size) -> Array:
            return np.asarray(p2p_time_s(one_node(gpu, kind, rate, False, "p2p", p), size, 1), float)

        f = f.assign(n_gpus=2)
        rows = _rows(f, size, f.n_gpus, predict)
        error = left_out_error(rows, bounds)
        report(f"{kind}/p2p {name}", rows, error)
        note = "; NIC taken as 50 GB/s" if kind == "infiniband" else ""
        source = sources[origin] + note + "; mape from 1 MiB"
        mape = np.abs(error[size >= 2**20]).mean()
        found[name] = {f"{kind}/p2p": entry(solve(rows, bounds), source, rows=rows, mape=mape)}
    return found


def fit_network(data: Path, h100_node: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Curves of the network tier, measured on 2 to 128 nodes of 8 GPUs with one 400 Gb/s NIC each."""
    frame = read(data, "hardware/collective_efficiency_simai.csv")
    frame = frame[frame.scope.str.contains("Node") & ~frame.scope.str.contains("1 Node")]
    found = {}
    for op, label in (("all_gather", "all_gather/reduce_scatter over NIC"), ("all_to_all", "alltoall")):
        f = frame[frame.collective == label].copy()
        f["nodes"] = f.scope.str.extract(r"^(\d+)Node").astype(int)
        f["n_gpus"] = 8 * f.nodes
        size, n = f.size_bytes.to_numpy(float), f.n_gpus.to_numpy(np.int64)
        ports = 8.0 if op == "all_gather" else 1.0
        leaving = (n - 1.0) / n if op == "all_gather" else (n - 8.0) / n
        f["time_us"] = size * leaving / (f.efficiency.to_numpy(float) * ports * 50e9) * 1e6
        bounds = {k: BOUNDS[k] for k in ("start_s", "efficiency", "half_bytes")} | {"hop_s": (0.0, 1e-5, 3e-5)}
        rows = _rows(f, size, n, _network_predictor(h100_node, op, size, n))
        error = left_out_error(rows, bounds)
        report(f"infiniband/{op}", rows, error)
        mape = np.abs(error).mean()
        found[f"infiniband/{op}"] = entry(solve(rows, bounds), SIMAI_SOURCE, rows=rows, mape=mape)
    gather = found["infiniband/all_gather"]
    found["infiniband/reduce_scatter"] = {**gather, "fit": {**gather["fit"], "borrowed_from": "all_gather"}}
    found["infiniband/all_reduce"] = _fit_network_all_reduce(data, gather["coefficients"])
    return found


def _network_predictor(node: Mapping[str, Any], op: str, size: Array, n: Any) -> Any:
    gpu = bare_gpu("h100-sxm-80gb")
    inner = {name: curve(e["coefficients"]) for name, e in node.items()}

    def predict(p: Coefficients) -> Array:
        device = replace(gpu, collectives={**inner, f"infiniband/{op}": curve(p)})
        tiers = (
            Tier(kind="nvlink", domain_gpus=8, bytes_per_s=450e9, latency_s=0.0),
            Tier(kind="infiniband", domain_gpus=1024, bytes_per_s=50e9, latency_s=0.0),
        )
        cluster = Cluster(name="fit", gpu=device, nodes=128, gpus_per_node=8, tiers=tiers)
        return np.asarray(collective_time_s(cluster, op, size, n), float)

    return predict


def _fit_network_all_reduce(data: Path, ring: Mapping[str, float]) -> dict[str, Any]:
    """Tree latency from A100 logs; that fabric's own rate (about 0.63 of its NICs) is fitted apart and not kept."""
    f = read(data, "hardware/allreduce_busbw_published.csv")
    f = f[f.source.str.contains("Echo") & (f.nodes > 1) & (f.size_bytes >= 4096)].rename(columns={"gpus": "n_gpus"})
    size, n = f.size_bytes.to_numpy(float), f.n_gpus.to_numpy(np.int64)
    gpu = bare_gpu("a100-sxm-80gb")
    node = {"start_s": 8e-6, "hop_s": 9e-7, "efficiency": 0.85, "half_bytes": 6.7e6, **INSIDE, **INSIDE_TREE}

    def predict(p: Coefficients) -> Array:
        outer = {**ring, **{k: v for k, v in p.items() if k != "fabric"}, "efficiency": p["fabric"]}
        device = replace(gpu, collectives={f"nvlink/{op}": curve(node) for op in OPERATIONS.values()})
        shared = dict(device.collectives) | {f"infiniband/{op}": curve(outer) for op in OPERATIONS.values()}
        tiers = (
            Tier(kind="nvlink", domain_gpus=8, bytes_per_s=300e9, latency_s=0.0),
            Tier(kind="infiniband", domain_gpus=128, bytes_per_s=25e9, latency_s=0.0),
        )
        cluster = Cluster(name="fit", gpu=replace(device, collectives=shared), nodes=16, gpus_per_node=8, tiers=tiers)
        return np.asarray(collective_time_s(cluster, "all_reduce", size, n), float)

    bounds = {
        "tree_start_s": (0.0, 2e-5, 1e-4),
        "tree_hop_s": (1e-6, 8e-6, 3e-5),
        "tree_half_bytes": (0.0, 1e7, 1e9),
        "tree_efficiency": (0.7, 0.9, 1.0),
        "fabric": (0.4, 0.65, 1.0),
    }
    rows = _rows(f, size, n, predict)
    error = left_out_error(rows, bounds)
    report("infiniband/all_reduce", rows, error)
    found = solve(rows, bounds)
    print(f"  rate of that fabric: {found.pop('fabric'):.2f} of its NICs")
    mape = np.abs(error[size >= 2**20]).mean()
    return entry({**ring, **found}, ECHO_SOURCE + "; mape from 1 MiB", rows=rows, mape=mape)


def like_all_reduce(all_reduce: Mapping[str, Any], lender: str) -> dict[str, dict[str, Any]]:
    """Other operations of a link on which only all-reduce was measured: same ring, rate and latency."""
    ops = ("all_gather", "reduce_scatter", "all_to_all", "p2p")
    return {op: borrow(all_reduce, lender, "only all_reduce was measured") for op in ops}
