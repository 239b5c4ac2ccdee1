"""``plan.json`` (``meshwright.plan/v1``): a plan set as text and back, byte for byte the same on every run.

Self-contained: model, cluster with its curves, workload and software with its coefficients are inlined. Floats carry
nine significant digits; there is no time, date or machine in it. The published schema is ``schema/plan.v1.json``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

from ..costmodels.load_software import software_from_dict, software_to_dict
from ..costmodels.model_dict import model_from_dict, model_to_dict
from ..costmodels.parallel import CONFIG_FIELDS, ParallelConfig
from ..costmodels.stage_layout import StageLayout
from ..costmodels.workload import Workload
from ..hardware_profiles.errors import InvalidProblemError, MeshwrightError
from ..hardware_profiles.profile_dict import cluster_from_dict, cluster_to_dict
from .label import config_label
from .plan import SCHEMA_VERSION, Plan, PlanSet, Refinement, SearchReport
from .problem import PlanningProblem

DIGITS = 9
SCHEMA_PATH = Path(__file__).resolve().parent / "schema" / "plan.v1.json"
_SIMPLE = (
    "framework", "objective", "max_memory_bytes", "fit_confidence", "top", "refine", "price_per_gpu_hour", "tokens",
)  # fmt: skip
_MAPS = ("metrics", "time_s", "memory_bytes")


def to_json(plan_set: PlanSet) -> str:
    """The document, indented, with a newline at its end."""
    document = {
        "schema": SCHEMA_VERSION,
        "kind": plan_set.kind,
        "problem": problem_to_dict(plan_set.problem),
        "plans": [_plan_to_dict(p) for p in plan_set.plans],
        "front": [_plan_to_dict(p) for p in plan_set.front],
        "search": asdict(plan_set.search),
        "provenance": dict(plan_set.provenance),
    }
    return json.dumps(rounded(document, "plan"), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def problem_to_dict(problem: PlanningProblem) -> dict[str, Any]:
    """The resolved request, nothing by reference."""
    out: dict[str, Any] = {name: getattr(problem, name) for name in _SIMPLE}
    out["allow"] = list(problem.allow)
    out["pins"] = {n: list(problem.pins[n]) for n in CONFIG_FIELDS if n in problem.pins}
    out["excludes"] = [{n: e[n] for n in CONFIG_FIELDS if n in e} for e in problem.excludes]
    out["model"] = model_to_dict(problem.model)
    out["workload"] = asdict(problem.workload)
    out["cluster"] = cluster_to_dict(problem.cluster)
    out["software"] = software_to_dict(problem.software)
    return out


def _plan_to_dict(plan: Plan) -> dict[str, Any]:
    return {
        "rank": plan.rank,
        "label": config_label(plan.config),
        "config": asdict(plan.config),
        "precision": plan.precision,
        "metrics": dict(plan.metrics),
        "time_s": dict(plan.time_s),
        "memory_bytes": dict(plan.memory_bytes),
        "stage_layers": list(plan.stage_layers),
        **({"stage_layout": plan.stage_layout.to_dict()} if plan.stage_layout else {}),
        "tied_with": list(plan.tied_with),
        "pareto": plan.pareto,
        "reasons": list(plan.reasons),
        "refinements": [asdict(r) for r in plan.refinements],
    }


def rounded(value: Any, where: str) -> Any:
    """Plain JSON data with floats of nine significant digits."""
    if isinstance(value, Mapping):
        return {str(k): rounded(v, f"{where}.{k}") for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(v, where) for v in value]
    if isinstance(value, bool | str) or value is None:
        return value
    if isinstance(value, int):
        return int(value)
    number = value.item() if hasattr(value, "item") else value  # numpy scalars
    if isinstance(number, int):
        return number
    if isinstance(number, float) and math.isfinite(number):
        return float(f"{number:.{DIGITS}g}")
    raise InvalidProblemError(f"{where} is {value!r}, which plan.json cannot hold; give a finite number.")


# -- reading --------------------------------------------------------------------------------------
def read_plan_set(path: str | Path) -> PlanSet:
    """Load a plan file.

    Raises:
        InvalidProblemError: the file is missing, unreadable or not a plan.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise InvalidProblemError(f"Cannot read the plan file {path}: {reason}.") from None
    return from_json(text, where=str(path))


def from_json(text: str, where: str = "plan.json") -> PlanSet:
    """Inverse of ``to_json``.

    Args:
        where: what to call the document in errors.

    Raises:
        InvalidProblemError: not JSON, another schema, or a part that is missing or of the wrong kind.
    """
    document = document_of(text, SCHEMA_VERSION, where)
    try:
        return PlanSet(
            kind=_of(str, document["kind"], "kind"),
            problem=problem_from_dict(document["problem"]),
            plans=tuple(_plan_from_dict(p) for p in _of(list, document["plans"], "plans")),
            front=tuple(_plan_from_dict(p) for p in _of(list, document["front"], "front")),
            search=_build(SearchReport, document["search"], "search"),
            provenance={k: _of(str, v, f"provenance.{k}") for k, v in document["provenance"].items()},
        )
    except MeshwrightError as error:
        raise InvalidProblemError(f"{where} is not a usable plan: {error}") from None
    except KeyError as error:
        raise InvalidProblemError(f"{where} is not a usable plan: the key {error} is missing.") from None
    except (TypeError, ValueError, AttributeError) as error:
        raise InvalidProblemError(f"{where} is not a usable plan: {error}.") from None


def document_of(text: str, schema: str, where: str) -> dict[str, Any]:
    """The JSON object of a plan document of one schema.

    Raises:
        InvalidProblemError: not JSON, or another schema.
    """
    try:
        document = json.loads(text)
    except ValueError as error:
        raise InvalidProblemError(f"{where} is not JSON ({error}); write it with `meshwright plan --json`.") from None
    found = document.get("schema") if isinstance(document, dict) else None
    if found != schema:
        raise InvalidProblemError(f"{where} has schema {found!r}, not {schema!r}; write it with this release.")
    return dict(document)


def problem_from_dict(data: Mapping[str, Any]) -> PlanningProblem:
    """Inverse of ``problem_to_dict``.

    Raises:
        InvalidProblemError: a part is missing, unknown or out of range.
    """
    data = _of(dict, data, "problem")
    unknown = set(data) - {*_SIMPLE, "allow", "pins", "excludes", "model", "workload", "cluster", "software"}
    if unknown:
        raise InvalidProblemError(f"problem has the unknown keys {', '.join(sorted(unknown))}.")
    return PlanningProblem(
        **{name: data[name] for name in _SIMPLE},
        allow=tuple(data["allow"]),
        pins={k: tuple(v) for k, v in _of(dict, data["pins"], "pins").items()},
        excludes=tuple(dict(e) for e in data["excludes"]),
        model=model_from_dict(data["model"], "problem.model"),
        workload=_build(Workload, data["workload"], "problem.workload"),
        cluster=cluster_from_dict(data["cluster"], place="problem.cluster"),
        software=software_from_dict(data["software"]),
    )


def _plan_from_dict(data: Mapping[str, Any]) -> Plan:
    data = _of(dict, data, "plan")
    numbers: dict[str, Any] = {}
    for name in _MAPS:
        part = _of(dict, data[name], name)
        numbers[name] = {k: _number(v, f"{name}.{k}") for k, v in part.items()}
    config = _build(ParallelConfig, data["config"], "config")
    for name in CONFIG_FIELDS:
        _of(int, getattr(config, name), f"config.{name}")
    return Plan(
        rank=_of(int, data["rank"], "rank"),
        config=config,
        precision=_of(str, data["precision"], "precision"),
        stage_layers=tuple(_of(int, n, "stage_layers") for n in data["stage_layers"]),
        stage_layout=_layout_from_dict(data, config),
        tied_with=tuple(_of(int, n, "tied_with") for n in data["tied_with"]),
        pareto=_of(bool, data["pareto"], "pareto"),
        reasons=tuple(_of(str, s, "reasons") for s in data["reasons"]),
        refinements=tuple(_build(Refinement, r, "refinements") for r in data["refinements"]),
        **numbers,
    )


def _layout_from_dict(data: Mapping[str, Any], config: ParallelConfig) -> StageLayout | None:
    if "stage_layout" not in data:
        return None
    layout = StageLayout.from_dict(_of(dict, data["stage_layout"], "stage_layout"))
    layout.check_config(config)
    return layout


def _of(kind: type[Any], value: Any, where: str) -> Any:
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise InvalidProblemError(f"{where} is {value!r}, not of kind {kind.__name__}.")
    return value


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidProblemError(f"{where} is {value!r}, not a number.")
    return float(value)


def _build(cls: Callable[..., Any], data: Any, where: str) -> Any:
    """A flat dataclass from a mapping that has all of its keys and no other."""
    data = _of(dict, data, where)
    names = {f.name for f in fields(cls)}  # type: ignore[arg-type]
    needed = {f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING}  # type: ignore[arg-type]
    for name in sorted(set(data) - names):
        raise InvalidProblemError(f"{where} has the unknown key {name!r}.")
    for name in sorted(needed - set(data)):
        raise InvalidProblemError(f"{where} lacks the key {name!r}.")
    return cls(**data)
