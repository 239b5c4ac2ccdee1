"""Step time of some measured rows as a function of software coefficients, and the robust cost of a fit to them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...costmodels.software import COEFFICIENTS
from ...hardware_profiles.errors import MissingDependencyError
from .evidence import CalibrationData, Floats, Mask

#: errors of log(step time) beyond this count linearly.
ROBUST_SCALE = 0.05
_STEP = 0.02


@dataclass(slots=True)
class Prior:
    """Where coefficients lie before any row is seen.

    Attributes:
        u: mean, as shares of the bounds; rows: a quarter of its bounds away from the mean, a coefficient costs as
            much as this many rows off by ``ROBUST_SCALE``.
    """

    u: Floats
    rows: float


@dataclass(slots=True)
class Linear:
    """log(step seconds) of some rows around ``u`` (coefficients as shares of their bounds)."""

    u: Floats
    log_step: Floats
    jacobian: Floats


class RowModel:
    """Rows of one or more eras as a function of shared coefficients ``u`` in [0, 1] (shares of their bounds)."""

    def __init__(self, data: CalibrationData, rows: Mask, names: Sequence[str]) -> None:
        self.data, self.rows, self.names = data, rows & data.usable, tuple(names)
        bounds = np.array([COEFFICIENTS[name][:3] for name in self.names]).reshape(-1, 3)
        self.low, self.span = bounds[:, 1], bounds[:, 2] - bounds[:, 1]
        self.default = (bounds[:, 0] - self.low) / self.span
        self.log_measured = np.log(data.measured_step_s[self.rows])

    def coefficients(self, u: Floats) -> dict[str, float]:
        """Named values, six significant digits, inside their bounds."""
        values = self.low + self.span * np.clip(u, 0.0, 1.0)
        return {name: float(f"{v:.6g}") if v > 1e-9 else 0.0 for name, v in zip(self.names, values, strict=True)}

    def shares(self, values: Mapping[str, float]) -> Floats:
        """``u`` of named values; names that are absent take the default."""
        given = np.array([values.get(name, COEFFICIENTS[name][0]) for name in self.names])
        return np.asarray(np.clip((given - self.low) / self.span, 0.0, 1.0))

    def log_steps(self, us: Floats) -> Floats:
        """log(step seconds): one row for each set of coefficients, one column for each of the model's rows."""
        steps = self.data.priced.reprice_many(self.names, self.low + self.span * us, self.rows)
        return np.asarray(np.log(steps[:, self.rows]))

    def linearised(self, u: Floats) -> Linear:
        """First-order expansion at ``u`` by one-sided differences that stay inside the bounds."""
        shift = np.where(u > 0.5, -_STEP, _STEP)
        logs = self.log_steps(np.vstack([u, u + np.diag(shift)]))
        return Linear(u.copy(), logs[0], ((logs[1:] - logs[0]) / shift[:, None]).T)

    def cost(self, log_step: Floats, u: Floats, prior: Prior, keep: Mask | None = None) -> float:
        """Robust cost (soft L1 in units of ``ROBUST_SCALE``) with the prior."""
        r = self.residuals(log_step, u, prior, keep)
        return float(np.sum(2.0 * (np.sqrt(1.0 + (r / ROBUST_SCALE) ** 2) - 1.0)))

    def residuals(self, log_step: Floats, u: Floats, prior: Prior, keep: Mask | None = None) -> Floats:
        """Weighted errors of the rows kept, then the pulls of the prior."""
        error = self.data.weight[self.rows] * (log_step - self.log_measured)
        return np.concatenate([error if keep is None else error[keep], self._pull(prior) * (u - prior.u)])

    def _pull(self, prior: Prior) -> float:
        return math.sqrt(prior.rows) * ROBUST_SCALE / 0.25

    def solve(self, linear: Linear, prior: Prior, keep: Mask | None = None, reach: float = 1.0) -> Floats:
        """Minimum of the robust cost of the linearised rows, at most ``reach`` away from ``linear.u``."""
        low = np.maximum(linear.u - reach, 0.0)
        high = np.minimum(linear.u + reach, 1.0)
        weighted = self.data.weight[self.rows][:, None] * linear.jacobian
        slope = np.vstack([weighted if keep is None else weighted[keep], self._pull(prior) * np.eye(len(low))])

        def errors(u: Floats) -> Floats:
            return self.residuals(linear.log_step + linear.jacobian @ (u - linear.u), u, prior, keep)

        found = scipy_optimize().least_squares(
            errors,
            np.clip(linear.u, low + 1e-6, high - 1e-6),
            jac=lambda u: slope,
            bounds=(low, high),
            loss="soft_l1",
            f_scale=ROBUST_SCALE,
        )
        return np.asarray(found.x)


def scipy_optimize() -> Any:
    """``scipy.optimize``, which fitting alone needs.

    Raises:
        MissingDependencyError: scipy is not installed.
    """
    try:
        from scipy import optimize
    except ImportError:
        raise MissingDependencyError(
            'calibrating needs scipy; install it with: pip install "meshwright[backtest]"'
        ) from None
    return optimize
