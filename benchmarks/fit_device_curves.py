"""Fit the efficiency curves of all GPUs on measured kernel tables and write ``hardware_profiles/curves/*.yaml``.

    python benchmarks/fit_device_curves.py --data ../shared/data

Prints, per curve, the error on rows left out by shape group (MAPE and bias). Runs in about a minute.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import yaml
from curve_fits import attention, collectives, gemm
from curve_fits.common import DEVICES, bare_gpu, borrow, entry

from meshwright.hardware_profiles.curve_file import CURVES_DIR

A100, H100, H200, B200, L40S = (DEVICES[k] for k in ("a100_sxm", "h100_sxm", "h200_sxm", "b200_sxm", "l40s"))
MAMF = "stas00/ml-engineering@744d01e1 (CC BY-SA 4.0) best matmul found: {}"
#: Best TFLOP/s in bf16 by device, and whose curve a device without a table takes, scaled by the ratio of the two.
BEST_MATMUL = {
    A100: 271.2,
    H100: 794.5,
    B200: 1745.0,
    "a100-pcie-80gb": 252.9,
    "b300-sxm-288gb": 1769.0,
    "gb200-186gb": 1822.0,
    "mi300x-192gb": 668.4,
    "mi325x-256gb": 784.9,
}
SCALED = {
    "a100-pcie-80gb": A100,
    "b300-sxm-288gb": B200,
    "gb200-186gb": B200,
    "mi300x-192gb": H100,
    "mi325x-256gb": H100,
}
HEADER = "# Written by benchmarks/fit_device_curves.py; do not edit. Formulae: costmodels/compute.py, collectives.py.\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    shared = os.environ.get("MESHWRIGHT_DATA", str(Path(__file__).resolve().parents[2] / "shared" / "data"))
    parser.add_argument("--data", type=Path, default=Path(shared), help="folder with kernels/ and hardware/")
    parser.add_argument("--out", type=Path, default=CURVES_DIR)
    arguments = parser.parse_args()
    files = fit_all(arguments.data)
    files["defaults"] = defaults(files)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        if name.startswith("_"):
            continue
        text = HEADER + yaml.safe_dump(content, sort_keys=True, width=150, allow_unicode=True)
        (arguments.out / f"{name}.yaml").write_text(text)
    print(f"wrote {len([n for n in files if n[0] != '_'])} files")


def fit_all(data: Path) -> dict[str, dict[str, Any]]:
    """Own curves of every measured GPU; shared ones under names that begin with an underscore."""
    files: dict[str, dict[str, Any]] = {}
    for table in ("a100_sxm", "h100_sxm", "h200_sxm", "b200_sxm"):
        found = {kind: gemm.fit_gemm(data, table, kind) for kind in gemm.TYPES}
        own = {kind: e for kind, e in found.items() if e is not None}
        rate = gemm.fit_grouped_rate(data, table, own["bf16"])
        if rate is None:  # no grouped kernel of this kind was timed on the A100: the H100's rate comes below
            rate = 1.0
        for e in own.values():
            e["coefficients"]["grouped_rate"] = float(f"{rate:.4g}")
        files[DEVICES[table]] = {"gemm": own}
        if table in ("a100_sxm", "h100_sxm"):
            gemm.check_vidur(data, table, own["bf16"])
            files[DEVICES[table]]["memory_bound"] = gemm.fit_memory(data, table)
    v100_gemm, v100_memory = gemm.fit_v100(data)
    v100_gemm["coefficients"]["grouped_rate"] = 1.0
    files["v100-sxm2-32gb"] = {"gemm": {"fp16": v100_gemm}, "memory_bound": v100_memory}
    files["v100-sxm2-32gb"]["attention"] = {"unfused": attention.fit_unfused(data, v100_memory)}
    for name, kernels in attention.all_kernels(data).items():
        files[name]["attention"] = kernels
    files[L40S] = {"gemm": {"bf16": gemm.fit_l40s(files[A100]["gemm"]["bf16"])}}
    lent = files[A100]["gemm"]["bf16"]
    files["rtx-4090-24gb"] = {"gemm": {"bf16": borrow(lent, A100, "assumed: not power limited as the L40S is")}}
    _add_collectives(data, files)
    for name, lender in SCALED.items():
        files.setdefault(name, {})["gemm"] = scaled_gemm(name, files[lender]["gemm"], lender)
    return files


def _add_collectives(data: Path, files: dict[str, dict[str, Any]]) -> None:
    h100 = collectives.fit_node(data, "h100_sxm")
    b200 = collectives.fit_node(data, "b200_sxm")
    fits = {"h100_sxm": h100, "b200_sxm": b200}
    for table in collectives.LINKS:
        if table not in fits:
            like = b200 if table.startswith(("b", "gb")) else h100
            fits[table] = collectives.fit_node(data, table, like)
    for table, found in fits.items():
        files.setdefault(DEVICES[table], {})["collectives"] = found
    p2p = collectives.fit_p2p(data)
    for name in (A100, H100, H200):
        files[name]["collectives"] |= p2p[name]
    for table in ("b200_sxm", "b300_sxm", "gb200", "gb300"):
        files[DEVICES[table]]["collectives"]["nvlink/p2p"] = borrow(p2p[H200]["nvlink/p2p"], H200)
    for table in ("l40s", "rtx_pro_6000_server"):
        pair = fits[table]["pcie/all_to_all"]
        keep = {k: pair["coefficients"][k] for k in ("start_s", "efficiency", "half_bytes")}
        files[DEVICES[table]]["collectives"]["pcie/p2p"] = {**pair, "coefficients": keep}
    v100 = collectives.fit_v100_node(data)
    rest = collectives.like_all_reduce(v100, "v100 all_reduce")
    files["v100-sxm2-32gb"]["collectives"] = {"nvlink/all_reduce": v100} | {f"nvlink/{k}": e for k, e in rest.items()}
    files["_network"] = collectives.fit_network(data, h100) | p2p["any"]


def scaled_gemm(name: str, lent: dict[str, Any], lender: str) -> dict[str, Any]:
    """Another device's curve, its efficiency scaled by the ratio of the best shares of peak that were published."""
    gpu = bare_gpu(name)
    share = BEST_MATMUL[name] * 1e12 / gpu.peak("bf16")
    factor = share / (BEST_MATMUL[lender] * 1e12 / bare_gpu(lender).peak("bf16"))
    print(f"gemm {name}: {factor:.3f} of the efficiency of {lender}")
    note = "efficiency scaled by " + MAMF.format(f"{BEST_MATMUL[name]} TFLOP/s")
    return {
        kind: borrow(e, lender, note, {"efficiency": min(1.0, e["coefficients"]["efficiency"] * factor)})
        for kind, e in lent.items()
        if kind in gpu.peak_flops
    }


def defaults(files: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What a GPU without measurements borrows, by architecture and then for any."""
    h100, a100, b200, v100 = files[H100], files[A100], files[B200], files["v100-sxm2-32gb"]
    unfused = v100["attention"]["unfused"]
    mesh = xgmi(files)
    cdna3 = files["mi300x-192gb"]["gemm"]
    note = "assumed: 0.72 of the peak at best, no table of this device"
    cdna2 = {"bf16": borrow(h100["gemm"]["bf16"], H100, note, {"efficiency": 0.76, "throttle": 0.05})}
    return {
        "hopper": {k: _lend(h100[k], H100) for k in ("gemm", "attention", "collectives")}
        | {"memory_bound": borrow(h100["memory_bound"], H100)},
        "ampere": {k: _lend(a100[k], A100) for k in ("gemm", "attention", "collectives")}
        | {"memory_bound": borrow(a100["memory_bound"], A100)},
        "volta": {k: _lend(v100[k], "v100-sxm2-32gb") for k in ("gemm", "attention", "collectives")}
        | {"memory_bound": borrow(v100["memory_bound"], "v100-sxm2-32gb")},
        "ada": {
            "gemm": _lend(files[L40S]["gemm"], L40S) | {"fp8": borrow(files[L40S]["gemm"]["bf16"], L40S, "as bf16")},
            "attention": _lend(a100["attention"], A100),
        },
        "blackwell": {
            "gemm": _lend(b200["gemm"], B200),
            "attention": _lend(b200["attention"], B200) | {"flash2": _hopper_rate(files)},
            "collectives": _lend(b200["collectives"], B200),
        },
        "cdna2": {"gemm": cdna2, "attention": {"flash2": _amd_attention(files, 0.30, 0.20)}, "collectives": mesh},
        "cdna3": {
            "gemm": _lend(cdna3, "mi300x-192gb"),
            "attention": {"flash2": _amd_attention(files, 0.38, 0.28)},
            "collectives": mesh,
        },
        "any": {
            "gemm": _lend(h100["gemm"], H100),
            "attention": {"unfused": borrow(unfused, "v100-sxm2-32gb")},
            "memory_bound": borrow(h100["memory_bound"], H100),
            "collectives": _lend(h100["collectives"], H100)
            | _lend(files[DEVICES["rtx_pro_6000_server"]]["collectives"], DEVICES["rtx_pro_6000_server"])
            | files["_network"],
        },
    }


def _lend(curves: dict[str, Any], lender: str) -> dict[str, Any]:
    """Curves for devices of the lender's architecture; GEMM curves say what power the lender has per peak FLOP/s."""
    gpu = bare_gpu(lender)
    power = {
        kind: {"lender_watts_per_tflop": gpu.power_w / (gpu.peak(kind) * 1e-12)}
        for kind in curves
        if kind in gemm.TYPES
    }
    return {key: borrow(e, lender, changes=power.get(key)) for key, e in curves.items()}


def _hopper_rate(files: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """FlashAttention-2 on Blackwell: its Ampere-style matrix instructions are assumed as fast as on Hopper."""
    lent = files[H100]["attention"]["flash2"]
    share = bare_gpu(H100).peak("bf16") / bare_gpu(B200).peak("bf16")
    changes = {k: lent["coefficients"][k] * share for k in ("efficiency_fwd", "efficiency_bwd")}
    return borrow(lent, H100, "assumed the same TFLOP/s as on H100", changes)


def _amd_attention(files: dict[str, dict[str, Any]], forward: float, backward: float) -> dict[str, Any]:
    lent = files[A100]["attention"]["flash2"]
    changes = {"efficiency_fwd": forward, "efficiency_bwd": backward}
    return borrow(lent, A100, f"rates assumed ({forward} and {backward} of peak), no table of this device", changes)


def xgmi(files: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Full mesh of point-to-point links: two GPUs see one of them; rate chosen between two published figures."""
    source = (
        "stas00/ml-engineering@744d01e1 (CC BY-SA 4.0) network/README.md: MI300X all-reduce of 4 GiB, 312.9 GB/s with "
        "8 GPUs and 47.7 with 2; latencies of the A100"
    )
    out = {}
    for op, e in files[A100]["collectives"].items():
        numbers = {k: v for k, v in e["coefficients"].items() if not k.startswith(("peers", "nvls"))}
        numbers |= {"efficiency": 0.745, "mesh": 1.0}
        kind, name = op.split("/")
        if kind == "nvlink":
            out[f"xgmi/{name}"] = entry(numbers, source, provenance="datasheet", borrowed_from=A100)
    return out


if __name__ == "__main__":
    main()
