"""HiGHS through scipy (one process can then hold it beside OR-Tools). Work is counted in branch-and-bound nodes."""

from __future__ import annotations

import math
import time

from ....hardware_profiles.errors import MissingDependencyError
from ..linear_model import LinearModel
from ..result import Limits, SolveResult, Termination


def solve(model: LinearModel, limits: Limits, seed: int) -> SolveResult[tuple[float, ...]]:
    """Solve; HiGHS has no seed through scipy (it always starts from its own), and an interrupt waits for its end.

    Raises:
        MissingDependencyError: scipy is absent.
    """
    try:
        import numpy as np
        import scipy
        from scipy.optimize import Bounds, LinearConstraint, milp
        from scipy.sparse import csr_array
    except ImportError:
        raise MissingDependencyError(
            "Solver 'highs' needs scipy: pip install 'meshwright[solvers]', or choose another solver."
        ) from None
    n = len(model.cost)
    entries = [(row, v, a) for row, (terms, _, _) in enumerate(model.rows) for v, a in terms]
    row, column, data = (np.array(x) for x in zip(*entries, strict=True)) if entries else (np.zeros(0),) * 3
    constraints = []
    if model.rows:
        matrix = csr_array((data, (row.astype(int), column.astype(int))), shape=(len(model.rows), n))
        low, high = np.array([r[1] for r in model.rows]), np.array([r[2] for r in model.rows])
        constraints = [LinearConstraint(matrix, low, high)]
    options: dict[str, float] = {"mip_rel_gap": 0.0}
    if limits.work is not None:
        options["node_limit"] = limits.work
    if limits.time_s is not None:
        options["time_limit"] = limits.time_s
    start = time.perf_counter()
    found = milp(
        np.array(model.cost),
        integrality=np.array(model.integer, dtype=int),
        bounds=Bounds(np.array(model.lower), np.array(model.upper)),
        constraints=constraints,
        options=options,
    )
    seconds = time.perf_counter() - start
    values = None
    if found.x is not None:
        values = tuple(round(x) + 0.0 if whole else float(x) for x, whole in zip(found.x, model.integer, strict=True))
    objective = math.inf if values is None else model.objective(values)
    bound = getattr(found, "mip_dual_bound", None)
    bound = -math.inf if bound is None or not math.isfinite(bound) else float(bound) + model.constant
    termination = _termination(found.status, values is not None)
    if termination == Termination.OPTIMAL:
        bound = objective
    return SolveResult(
        value=values,
        objective=objective,
        bound=min(bound, objective),
        termination=termination,
        solver="highs",
        version=f"HiGHS in scipy {scipy.__version__}",
        seed=seed,
        work=int(getattr(found, "mip_node_count", 0) or 0),
        seconds=seconds,
        timed_out=limits.time_s is not None and found.status == 1 and seconds >= 0.95 * limits.time_s,
        note=str(found.message) if termination == Termination.ERROR else "",
    )


def _termination(status: int, has_value: bool) -> Termination:
    if status == 0:
        return Termination.OPTIMAL
    if status == 2:
        return Termination.INFEASIBLE
    if status == 1:
        return Termination.FEASIBLE_AT_LIMIT if has_value else Termination.NO_SOLUTION_AT_LIMIT
    return Termination.ERROR
