"""A calibration for people (a table) and for machines."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..planner.validate.save_fit import Calibrated


def fit_facts(found: Calibrated) -> list[dict[str, object]]:
    """One entry for each release; errors are mean absolute relative errors, the half-width is of log(step time)."""
    return [
        {
            "software": fit.era,
            "rows": fit.n_rows,
            "groups": fit.n_groups,
            "own_fit": fit.own,
            "error_before": None if found.from_scratch else _known(found.error_before(fit)),
            "error_in": _known(fit.error_in),
            "error_group_left_out": _known(found.error_left_out(fit)),
            "error_source_left_out": _known(found.error_left_out(fit, "source")),
            "half_width": found.half_width(fit),
            "at_bound": list(fit.at_bound),
            "coefficients": fit.coefficients,
        }
        for fit in found.calibration.fits
    ]


def _known(value: float) -> float | None:
    return value if value == value else None


def fit_table(found: Calibrated) -> str:
    """One line for each release, and which coefficients ended at a bound."""
    from .table import percent, render

    def share(value: float) -> str:
        return percent(value) if value == value else "-"

    rows = [
        [
            f.era,
            str(f.n_rows),
            str(f.n_groups),
            *([] if found.from_scratch else [share(found.error_before(f))]),
            share(f.error_in),
            share(found.error_left_out(f)),
            share(found.error_left_out(f, "source")),
            percent(found.half_width(f)) if f.own else "-",
        ]
        for f in found.calibration.fits
    ]
    before = [] if found.from_scratch else ["as shipped"]
    header = ["release", "rows", "groups", *before, "fitted", "group left out", "source left out", "90% within"]
    lines = [render(header, rows, left=(0,))]
    for f in found.calibration.fits:
        if f.at_bound and f.own:
            lines.append(f"{f.era} at a bound: {', '.join(f.at_bound)}")
    return "\n".join(lines)
