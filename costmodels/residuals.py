"""How far predictions were from runs that no fit had seen, by regime: ``software/residuals.yaml``.

Every figure is the half-width of a 90% interval of log(measured / predicted step time) that one circumstance brings;
circumstances are taken as independent, so that half-widths add in quadrature. ``meshwright calibrate`` writes the file
from out-of-group residuals, and each era's own part into the era's profile (``Fit.half_width``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ..hardware_profiles.errors import InvalidProblemError

RESIDUALS_PATH = Path(__file__).resolve().parent / "software" / "residuals.yaml"
#: Scale up to which runs are plentiful; beyond it every doubling widens.
SCALE_FROM_GPUS = 64.0
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_NUMBERS = ("unfitted", "sparse", "borrowed", "per_doubling", "host_bound")


@dataclass(frozen=True, slots=True, kw_only=True)
class Residuals:
    """Half-widths by circumstance.

    Attributes:
        unfitted: software that was never calibrated (in place of the era's own).
        sparse: a model with experts; borrowed: a device without measured GEMMs of its own.
        per_doubling: every doubling of the GPUs beyond ``SCALE_FROM_GPUS``.
        host_bound: a step that does nothing but wait for hosts, whose speed nobody states (see ``host_bound``).
        assumed: kind of assumption about a published run -> half-width (a plan assumes nothing).
    """

    unfitted: float
    sparse: float
    borrowed: float
    per_doubling: float
    host_bound: float
    assumed: Mapping[str, float]

    def half_width(
        self, era: Any, sparse: Any, borrowed: Any, gpus: Any, waiting_share: Any = 0.0, kinds: Iterable[str] = ()
    ) -> Any:
        """Half-width of the 90% interval of log(step time) for an era's own part and the circumstances."""
        host = self.host_bound * host_bound(waiting_share)
        scale = self.per_doubling * np.log2(np.maximum(gpus, SCALE_FROM_GPUS) / SCALE_FROM_GPUS)
        other = sum(self.assumed[kind] ** 2 for kind in kinds)
        known = era**2 + (self.sparse * sparse) ** 2 + (self.borrowed * borrowed) ** 2
        return np.sqrt(known + scale**2 + host**2 + other)


def host_bound(waiting_share: Any) -> Any:
    """How much of ``Residuals.host_bound`` a step takes that waits ``waiting_share`` of its time for hosts: 0 to 1.

    The square: short waits hide behind kernels still queued, long ones repeat what the host does wrong in full. (Of the
    powers 0.75, 1, 1.5 and 2, 1.5 and 2 gave the narrowest intervals that still hold nine of ten left-out runs.)
    """
    return np.square(np.asarray(waiting_share, float))


def read_residuals(path: Path) -> Residuals:
    """Read and check one file.

    Raises:
        InvalidProblemError: unreadable, or a figure is missing or not a positive number.
    """
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_LOADER)
        figures = {name: float(data[name]) for name in _NUMBERS}
        assumed = {str(k): float(v) for k, v in data["assumed"].items()}
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidProblemError(f"{path.name} cannot be read ({error}); calibrate again to write it.") from None
    if min(*figures.values(), *assumed.values()) < 0 or figures["unfitted"] == 0:
        raise InvalidProblemError(f"{path.name}: half-widths are positive numbers.")
    return Residuals(**figures, assumed=assumed)


@cache
def shipped_residuals() -> Residuals:
    """What the profiles were shipped with."""
    return read_residuals(RESIDUALS_PATH)
