"""What a device and a cluster are: frozen values in SI units, each figure with its source.

Nothing here knows of models or plans. The numbers come from ``gpus/*.yaml`` and ``clusters/*.yaml``
through ``load.py``; fitted curves stand beside the datasheet figures and say what they were fitted on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from .errors import MissingProfileDataError

GIB = float(2**30)
GB = 1e9


class Provenance(StrEnum):
    """Where a number comes from; it decides how wide its interval is."""

    MEASURED = "measured"
    FITTED = "fitted"
    DATASHEET = "datasheet"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """How a curve was fitted.

    Attributes:
        source: name of the measured table (repository and file), or the datasheet.
        n_rows: rows that the fit saw (0 for a curve borrowed from another device).
        mape: mean absolute relative error on rows left out by shape group (fraction).
        rows_sha256: hash of the sorted rows that the fit saw, empty if none.
        borrowed_from: name of the device whose shape of curve is used here, empty if own.
        half_width: of the 90% interval of log(measured / predicted) on rows left out (0: not stated);
            half_width_across: of runs over more than one node.
    """

    source: str
    n_rows: int = 0
    mape: float = 0.0
    rows_sha256: str = ""
    borrowed_from: str = ""
    half_width: float = 0.0
    half_width_across: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Named coefficients of one formula in ``costmodels.compute`` or ``costmodels.collectives``."""

    coefficients: Mapping[str, float]
    provenance: Provenance
    fit: Fit

    def __getitem__(self, name: str) -> float:
        return self.coefficients[name]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One accelerator as the framework sees it (an MI250X GCD is one).

    Attributes:
        peak_flops: dense peak by GEMM type: ``fp32``, ``tf32``, ``fp16``, ``bf16``, ``fp8``, ``fp4``.
        memory_bytes: capacity that the driver reports, not the label on the box.
        hbm_bytes_per_s: peak memory bandwidth.
        host_bytes_per_s: one direction of the host link (PCIe or C2C).
        sm_count: streaming multiprocessors or compute units that run matrix tiles.
        gemm: efficiency curve by GEMM type; ``attention``: by kernel (``flash2`` ...);
        memory_bound: coefficients of element-wise kernels;
        collectives: by link kind and operation, e.g. ``nvlink/all_reduce``.
    """

    name: str
    vendor: str
    architecture: str
    peak_flops: Mapping[str, float]
    memory_bytes: float
    hbm_bytes_per_s: float
    host_bytes_per_s: float
    sm_count: int
    power_w: float
    gemm: Mapping[str, Curve]
    attention: Mapping[str, Curve]
    memory_bound: Curve
    collectives: Mapping[str, Curve]
    sources: Mapping[str, str] = field(default_factory=dict)
    notes: str = ""

    def peak(self, gemm_type: str) -> float:
        """Dense peak in FLOP/s for a GEMM type.

        Raises:
            MissingProfileDataError: the device has no such unit.
        """
        try:
            return self.peak_flops[gemm_type]
        except KeyError:
            has = ", ".join(self.peak_flops)
            raise MissingProfileDataError(
                f"{self.name} has no {gemm_type} matrix peak (it has {has}); choose another --precision or GPU."
            ) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """One level of the network, from the fastest (inside a node) outwards.

    Attributes:
        kind: ``nvlink``, ``xgmi``, ``pcie``, ``infiniband``, ``roce``, ``ethernet``, ``slingshot``, ``omnipath``.
        domain_gpus: GPUs that reach each other at this level (the last tier holds the whole cluster).
        bytes_per_s: one direction, per GPU, when every GPU of the domain sends at once.
        latency_s: start-up of one hop beyond what the collective curve holds.
        nvls: in-switch reduction for all-reduce is available.
    """

    kind: str
    domain_gpus: int
    bytes_per_s: float
    latency_s: float
    nvls: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Equal nodes joined by tiers of links.

    Attributes:
        nodes: hosts; gpus_per_node: GPUs in one host (4 in a GB200 tray).
        tiers: fastest first; the last one's ``domain_gpus`` is at least ``nodes * gpus_per_node``.
        host_memory_bytes: DRAM of one host (0 if unknown).
    """

    name: str
    gpu: Gpu
    nodes: int
    gpus_per_node: int
    tiers: tuple[Tier, ...]
    host_memory_bytes: float = 0.0
    max_nodes: int = 0
    sources: Mapping[str, str] = field(default_factory=dict)
    notes: str = ""

    @property
    def n_gpus(self) -> int:
        """GPUs of the whole cluster."""
        return self.nodes * self.gpus_per_node
