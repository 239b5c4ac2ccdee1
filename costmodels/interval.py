"""How far predictions may be off: relative spreads by regime, and the probability that a peak fits a device."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..hardware_profiles.types import Cluster, Provenance
from .model_spec import ModelSpec
from .software import Software
from .workload import Workload

#: Log-spread of step time when neither device nor software was measured.
_UNMEASURED = 0.20


def time_sigma(cluster: Cluster, model: ModelSpec, workload: Workload, software: Software, gpus: Any) -> Any:
    """Standard deviation of log(measured / predicted) for step time.

    The software's out-of-group error where it was calibrated (mean absolute error times 1.25, the ratio of a
    normal's standard deviation to its mean deviation), widened for devices without measured kernels, sparse
    models and scales beyond those calibrated.
    """
    base = 1.25 * software.fit.mape if software.fit is not None and software.fit.mape > 0 else _UNMEASURED
    curve = cluster.gpu.gemm.get(workload.gemm_type)
    device = 0.0 if curve is not None and curve.provenance is not Provenance.DATASHEET else 0.12
    sparse = 0.10 if model.moe is not None else 0.0
    scale = 0.01 * np.log2(np.maximum(gpus, 8) / 8.0)
    return np.sqrt(base**2 + device**2 + sparse**2 + scale**2)


def memory_sigma(cluster: Cluster, model: ModelSpec, software: Software) -> float:
    """Standard deviation of log(measured / predicted) for peak memory."""
    return 0.08 if model.moe is None else 0.11


def fit_probability(peak_bytes: Any, capacity_bytes: float, sigma: Any) -> Any:
    """P(peak <= capacity) for a log-normal peak."""
    z = np.log(capacity_bytes / np.maximum(peak_bytes, 1.0)) / sigma
    return 0.5 * (1.0 + _erf(z / np.sqrt(2.0)))


def _erf(x: Any) -> Any:
    """Error function by Abramowitz and Stegun 7.1.26 (absolute error below 1.5e-7); numpy has none."""
    t = 1.0 / (1.0 + 0.3275911 * np.abs(x))
    poly = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    return np.sign(x) * (1.0 - poly * np.exp(-x * x))
