"""CBC through PuLP, which brings its binary along. Work is counted in branch-and-bound nodes."""

from __future__ import annotations

import math
import time
import warnings
from typing import Any

from ....hardware_profiles.errors import MissingDependencyError
from ..linear_model import LinearModel
from ..result import Limits, SolveResult, Termination


def solve(model: LinearModel, limits: Limits, seed: int) -> SolveResult[tuple[float, ...]]:
    """Solve in a child process, one thread.

    PuLP reads back no dual bound: without a proof of optimality the bound is that of the linear relaxation.

    Raises:
        MissingDependencyError: PuLP is absent, or its CBC does not run on this machine.
    """
    try:
        import pulp
    except ImportError:
        raise MissingDependencyError(
            "Solver 'cbc' needs PuLP: pip install 'meshwright[solvers]', or choose another solver."
        ) from None
    options = [f"randomSeed {seed + 1}", "ratioGap 0"]
    if limits.work is not None:
        options.append(f"maxNodes {limits.work}")
    command = _command(pulp, timeLimit=limits.time_s, options=options, gapRel=0)
    if not command.available():
        raise MissingDependencyError("Solver 'cbc' needs the CBC binary of PuLP, which does not run here.")
    start = time.perf_counter()
    with warnings.catch_warnings():  # PuLP 3 announces the names of PuLP 4, which 3 does not have
        warnings.simplefilter("ignore", DeprecationWarning)
        problem, xs = _problem(pulp, model)
    problem.solve(command)
    values = None
    if problem.sol_status in (pulp.LpSolutionOptimal, pulp.LpSolutionIntegerFeasible):
        read = [x.value() for x in xs]
        values = tuple(
            round(v) + 0.0 if whole else float(v)
            for v, whole in zip((0.0 if v is None else v for v in read), model.integer, strict=True)
        )
    termination = _termination(pulp, problem)
    objective = math.inf if values is None else model.objective(values)
    bound = objective if termination == Termination.OPTIMAL else -math.inf
    if termination in (Termination.FEASIBLE_AT_LIMIT, Termination.NO_SOLUTION_AT_LIMIT):
        bound = min(_relaxed_bound(pulp, model), objective)
    seconds = time.perf_counter() - start
    cut = termination in (Termination.FEASIBLE_AT_LIMIT, Termination.NO_SOLUTION_AT_LIMIT)
    return SolveResult(
        value=values,
        objective=objective,
        bound=bound,
        termination=termination,
        solver="cbc",
        version=f"CBC in PuLP {pulp.__version__}",
        seed=seed,
        seconds=seconds,
        timed_out=limits.time_s is not None and cut and seconds >= 0.9 * limits.time_s,
    )


def _command(pulp: Any, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return pulp.PULP_CBC_CMD(msg=False, threads=1, **options)


def _problem(pulp: Any, model: LinearModel, *, relaxed: bool = False) -> tuple[Any, list[Any]]:
    problem = pulp.LpProblem("meshwright", pulp.LpMinimize)
    xs = []
    for i, (low, high, whole) in enumerate(zip(model.lower, model.upper, model.integer, strict=True)):
        kind = pulp.LpInteger if whole and not relaxed else pulp.LpContinuous
        low_, high_ = (None if math.isinf(low) else low), (None if math.isinf(high) else high)
        xs.append(pulp.LpVariable(f"x{i}", low_, high_, kind))
    problem += pulp.LpAffineExpression([(x, c) for x, c in zip(xs, model.cost, strict=True)])
    for terms, low, high in model.rows:
        total = pulp.LpAffineExpression([(xs[v], a) for v, a in terms])
        if low == high:
            problem += total == low
            continue
        if low != -math.inf:
            problem += total >= low
        if high != math.inf:
            problem += total <= high
    return problem, xs


def _relaxed_bound(pulp: Any, model: LinearModel) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        problem, xs = _problem(pulp, model, relaxed=True)
    problem.solve(_command(pulp))
    if problem.sol_status != pulp.LpSolutionOptimal:
        return -math.inf
    return model.objective(float(x.value() or 0.0) for x in xs)


def _termination(pulp: Any, problem: Any) -> Termination:
    if problem.sol_status == pulp.LpSolutionOptimal:
        return Termination.OPTIMAL
    if problem.sol_status == pulp.LpSolutionIntegerFeasible:
        return Termination.FEASIBLE_AT_LIMIT
    if problem.status == pulp.LpStatusInfeasible:
        return Termination.INFEASIBLE
    return Termination.NO_SOLUTION_AT_LIMIT if problem.status == pulp.LpStatusNotSolved else Termination.ERROR
