"""What the numbers of a plan come from: versions and hashes, nothing that changes between runs."""

from __future__ import annotations

from ..hardware_profiles.profile_dict import profile_sha256
from .problem import PlanningProblem


def provenance(problem: PlanningProblem) -> dict[str, str]:
    """Tool version, profile hash, software era and how its coefficients came about."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        release = version("meshwright")
    except PackageNotFoundError:  # run from a source tree that is not installed
        release = "not installed"
    software = problem.software
    fit = software.fit
    return {
        "tool": "meshwright",
        "tool_version": release,
        "profile_sha256": profile_sha256(problem.cluster),
        "software": software.name,
        "software_provenance": str(software.provenance),
        "software_fit": f"{fit.source} ({fit.n_rows} rows, error {fit.mape:.3f})" if fit is not None else "none",
        "model_source": problem.model.source,
    }
