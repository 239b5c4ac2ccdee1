"""What a free text on a run's network means: bytes per second and GPU between nodes.

Published tables describe the network in words (``8x200Gb/s HDR IB per node``). The rules below are tried in
order; a text that says nothing usable leaves the rate to the GPU profile's usual adapter, as an assumption.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

GBIT_PER_S = 1e9 / 8.0
#: Gb/s of one InfiniBand port by its generation.
_IB_GBITS = {"edr": 100.0, "hdr": 200.0, "ndr": 400.0, "nd": 400.0, "xdr": 800.0}


@dataclass(frozen=True, slots=True)
class Network:
    """Scale-out network of a run.

    Attributes:
        kind: as in ``hardware_profiles.types.Tier``; bytes_per_s_per_gpu: one direction, ``None`` where the
            text gives no rate.
        scale_up_gpus: GPUs of one NVLink domain where the text names it (``NVL72``), 0 otherwise.
    """

    kind: str
    bytes_per_s_per_gpu: float | None
    scale_up_gpus: int = 0


def _kind(text: str) -> str:
    table = (
        (r"omni-?path", "omnipath"),
        (r"slingshot|frontier", "slingshot"),
        (r"roce|rdma", "roce"),
        (r"infiniband|\bib\b|connectx|[ehnx]dr\b", "infiniband"),
        (r"ethernet", "ethernet"),
    )
    return next((kind for pattern, kind in table if re.search(pattern, text)), "infiniband")


def _compute_part(text: str) -> str:
    """The part behind ``Compute:``, without storage and management ports; the last part of ``a | b`` texts."""
    found = re.search(r"compute:\s*([^,;]*)", text)
    return found.group(1) if found else text.rsplit("|", 1)[-1]


def _gbits_per_node(text: str) -> float | None:
    """Gb/s of one node, summed over its ports, if the text says it."""
    ports = re.search(r"(\d+)\s*x\s*([^|;,]*)", _compute_part(text))
    if ports and "nvlink" not in ports.group(2):
        count, rest = int(ports.group(1)), ports.group(2)
        rate = re.search(r"(\d+)\s*g(?:b|bps|bit)", rest)
        if rate:
            return count * float(rate.group(1))
        if re.search(r"omni-?path", rest):
            return count * 100.0
        generation = re.search(r"\b(edr|hdr|ndr|nd|xdr)\b", rest)
        if generation:
            return count * _IB_GBITS[generation.group(1)]
    per_node = re.search(r"(\d+)\s*gb(?:ps|/s)?\s*(?:per|/)\s*node", text)
    return float(per_node.group(1)) if per_node else None


def parse_network(text: str, gpus_per_node: int) -> Network:
    """Read an interconnect text.

    Rules, in order: ``400Gb/s ... per GPU``; ``8x200Gb/s`` ports of a node (EDR, HDR, NDR and Omni-Path have known
    rates; storage and management ports do not count); ``800 Gb/s per node``; Jean Zay and Frontier by name;
    otherwise unknown. A bare port rate (``IB 200Gb/s``) does not say how many ports there are: unknown too.
    """
    low = text.lower()
    kind = _kind(low)
    domain = int(found.group(1)) if (found := re.search(r"nvl(\d+)", low)) else 0
    per_gpu = re.search(r"(\d+)\s*gb/s[^|;]*per gpu", low)
    if per_gpu:
        return Network(kind, float(per_gpu.group(1)) * GBIT_PER_S, domain)
    node = _gbits_per_node(low)
    if node is None and re.search(r"jean zay", low):
        node = 400.0  # four Omni-Path 100 Gb/s ports in a node of the V100 and A100 partitions
    if node is None and "frontier" in low:
        node = 800.0  # four Slingshot 200 Gb/s ports in a node of eight GCDs
    if node is not None:
        return Network(kind, node * GBIT_PER_S / gpus_per_node, domain)
    return Network(kind, None, domain)
