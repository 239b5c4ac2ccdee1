"""OR-Tools CP-SAT. Integers only; work is counted in its deterministic time (hundredths of its unit)."""

from __future__ import annotations

import math
import time

from ....hardware_profiles.errors import MissingDependencyError
from ..linear_model import LinearModel
from ..result import Limits, SolveResult, Termination

#: Deterministic time of CP-SAT per unit of our work.
WORK_UNIT = 0.01
_LARGEST = 2**53


def solve(model: LinearModel, limits: Limits, seed: int) -> SolveResult[tuple[float, ...]]:
    """Solve with one worker, so that the same model and work give the same answer.

    Raises:
        MissingDependencyError: OR-Tools is absent.
        ValueError: a variable or coefficient is not whole or not finite.
    """
    try:
        from importlib.metadata import version

        from ortools.sat.python import cp_model
    except ImportError:
        raise MissingDependencyError(
            "Solver 'cpsat' needs OR-Tools: pip install 'meshwright[solvers]', or choose another solver."
        ) from None
    cp = cp_model.CpModel()
    xs = [cp.new_int_var(*_bounds(model, i), f"x{i}") for i in range(len(model.cost))]
    for terms, low, high in model.rows:
        total = cp_model.LinearExpr.weighted_sum([xs[v] for v, _ in terms], [_whole(a) for _, a in terms])
        cp.add_linear_constraint(total, _row_bound(low), _row_bound(high))
    cp.minimize(cp_model.LinearExpr.weighted_sum(xs, [_whole(a) for a in model.cost]))
    for variable, value in model.hint.items():
        cp.add_hint(xs[variable], _whole(value))
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = seed
    if limits.work is not None:
        solver.parameters.max_deterministic_time = limits.work * WORK_UNIT
    if limits.time_s is not None:
        solver.parameters.max_time_in_seconds = limits.time_s
    start = time.perf_counter()
    status = solver.solve(cp)
    seconds = time.perf_counter() - start
    values, termination, bound, note = None, _termination(cp_model, status), -math.inf, ""
    if status in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        values = tuple(float(solver.value(x)) for x in xs)
    if status in (cp_model.OPTIMAL, cp_model.FEASIBLE, cp_model.UNKNOWN):
        bound = solver.best_objective_bound + model.constant
    if termination == Termination.ERROR:
        note = f"CP-SAT calls the model {solver.status_name(status)}"
    objective = math.inf if values is None else model.objective(values)
    if termination == Termination.OPTIMAL:
        bound = objective  # CP-SAT's own bound is a float that may be off by its last bit
    return SolveResult(
        value=values,
        objective=objective,
        bound=min(bound, objective) if status != cp_model.UNKNOWN else bound,
        termination=termination,
        solver="cpsat",
        version=f"OR-Tools {version('ortools')}",
        seed=seed,
        work=math.ceil(solver.response_proto.deterministic_time / WORK_UNIT),
        seconds=seconds,
        timed_out=limits.time_s is not None and termination in _CUT and seconds >= 0.95 * limits.time_s,
        note=note,
    )


_CUT = (Termination.FEASIBLE_AT_LIMIT, Termination.NO_SOLUTION_AT_LIMIT)


def _termination(cp_model: object, status: object) -> Termination:
    names = {
        "OPTIMAL": Termination.OPTIMAL,
        "FEASIBLE": Termination.FEASIBLE_AT_LIMIT,
        "UNKNOWN": Termination.NO_SOLUTION_AT_LIMIT,
        "INFEASIBLE": Termination.INFEASIBLE,
    }
    return next((t for n, t in names.items() if status == getattr(cp_model, n)), Termination.ERROR)


def _whole(a: float) -> int:
    if not math.isfinite(a) or a != int(a) or abs(a) > _LARGEST:
        raise ValueError(f"CP-SAT takes whole numbers up to 2^53; the model has {a}")
    return int(a)


def _bounds(model: LinearModel, i: int) -> tuple[int, int]:
    if not model.integer[i]:
        raise ValueError(f"CP-SAT takes integer variables; variable {i} is continuous")
    return _whole(model.lower[i]), _whole(model.upper[i])


def _row_bound(value: float) -> int:
    if value == -math.inf:
        return -(2**62)
    return 2**62 if value == math.inf else _whole(value)
