"""Every error that a user can cause, with the exit code that the command line gives it.

A message is one sentence that names the place (file, flag, key) and the way out.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MeshwrightError(Exception):
    """Base of all errors that are the user's to mend; never shown as a traceback."""

    exit_code = 2


class InvalidProblemError(MeshwrightError, ValueError):
    """The request contradicts itself or a rule of the model, hardware or framework."""


class MissingProfileDataError(MeshwrightError, KeyError):
    """A profile lacks a figure that this request needs (for example an FP8 peak on an A100)."""

    def __str__(self) -> str:  # KeyError would print the repr
        return str(self.args[0]) if self.args else ""


class UnsupportedByFrameworkError(MeshwrightError):
    """The plan is sound, but the chosen framework release cannot express it."""


class MissingDependencyError(MeshwrightError):
    """An optional package is absent; the message names the pip extra."""


class NoFeasiblePlanError(MeshwrightError):
    """Every candidate was removed; the message says by what, and names the nearest miss."""

    exit_code = 3


def did_you_mean(name: str, known: Iterable[str], *, limit: int = 3) -> str:
    """Return `` Did you mean a, b?`` for the names nearest to ``name`` (empty if none is near)."""
    pool = sorted(known)
    near = difflib.get_close_matches(name.lower(), pool, n=limit, cutoff=0.5)
    near += [k for k in pool if name.lower() in k and k not in near][: max(0, limit - len(near))]
    return f" Did you mean {', '.join(near)}?" if near else ""
