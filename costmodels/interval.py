"""How far predictions may be off: relative spreads by regime, and the probability that a peak fits a device."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..hardware_profiles.types import Cluster, Provenance
from .model_spec import ModelSpec
from .residuals import shipped_residuals
from .software import MEMORY_COEFFICIENTS, Software
from .workload import Workload

#: Half-width of a two-sided 90% interval in standard deviations of a normal.
Z90 = 1.645
#: Parts of the log-spread of peak memory: relative, bytes that hardly depend on the model, sparse models, and eras
#: of which no peak was measured.
_MEMORY_RELATIVE = 0.05
_MEMORY_FIXED_BYTES = 2e9
_MEMORY_SPARSE = 0.08
_MEMORY_UNMEASURED = 0.05


def time_sigma(
    cluster: Cluster, model: ModelSpec, workload: Workload, software: Software, gpus: Any, waiting_share: Any = 0.0
) -> Any:
    """Standard deviation of log(measured / predicted) for step time, with nothing assumed about the run.

    From the residuals of left-out runs (``residuals.py``): what the software's era brings within a node and across
    nodes, widened for sparse models, devices without measured GEMMs, scales beyond 64 GPUs and steps that wait
    ``waiting_share`` of their time for hosts. An era that was never calibrated takes the error of runs whose whole
    source was left out.
    """
    found = shipped_residuals()
    era = era_half_width(software, np.asarray(gpus) > cluster.gpus_per_node)
    sparse, borrowed = float(model.moe is not None), float(is_borrowed(cluster, workload))
    return found.half_width(era, sparse, borrowed, gpus, waiting_share) / Z90


def era_half_width(software: Software, across: Any) -> Any:
    """What an era brings to the 90% interval of log(step time), within a node or ``across`` nodes; never calibrated:
    the error of runs whose whole source was left out."""
    fit = software.fit
    if fit is None or fit.half_width <= 0:
        return shipped_residuals().unfitted
    return np.where(across, fit.half_width_across or fit.half_width, fit.half_width)[()]


def is_borrowed(cluster: Cluster, workload: Workload) -> bool:
    """The device's GEMM curve for this precision comes from another device or from its datasheet."""
    gemm = cluster.gpu.gemm
    curve = next((gemm[kind] for kind in (workload.gemm_type, "bf16", "fp16") if kind in gemm), None)
    return curve is None or curve.provenance is Provenance.DATASHEET


def memory_sigma(cluster: Cluster, model: ModelSpec, software: Software) -> float:
    """Standard deviation of log(measured / predicted) for peak memory: independent parts, joined in quadrature.

    A relative part (tensors that the ledger counts wrongly), one in bytes (context, communicators and workspaces,
    which weigh more on small devices), and further ones for sparse models (routing, whose imbalance is an input) and
    for framework eras without a measured peak. Set from the residuals of measured runs, so that 90% intervals hold
    about 90% of the rows with known counting; how often they do stands in docs/memory.md.
    """
    fixed = _MEMORY_FIXED_BYTES / cluster.gpu.memory_bytes
    sparse = _MEMORY_SPARSE if model.moe is not None else 0.0
    known = any(name in MEMORY_COEFFICIENTS for name in software.coefficients)
    era = 0.0 if known else _MEMORY_UNMEASURED
    return float(np.sqrt(_MEMORY_RELATIVE**2 + fixed**2 + sparse**2 + era**2))


def fit_probability(peak_bytes: Any, capacity_bytes: float, sigma: Any) -> Any:
    """P(peak <= capacity) for a log-normal peak."""
    z = np.log(capacity_bytes / np.maximum(peak_bytes, 1.0)) / sigma
    return 0.5 * (1.0 + _erf(z / np.sqrt(2.0)))


def _erf(x: Any) -> Any:
    """Error function by Abramowitz and Stegun 7.1.26 (absolute error below 1.5e-7); numpy has none."""
    t = 1.0 / (1.0 + 0.3275911 * np.abs(x))
    poly = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    return np.sign(x) * (1.0 - poly * np.exp(-x * x))
