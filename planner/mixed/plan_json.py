"""The answer on a mixed cluster as text and back (``meshwright.mixed-plan/v1``), byte for byte the same on every run.

As ``planner.plan_json``: self-contained, floats of nine significant digits, no time, date or machine in it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

from ...costmodels.load_software import software_from_dict, software_to_dict
from ...costmodels.model_dict import model_from_dict, model_to_dict
from ...costmodels.parallel import ParallelConfig, recompute_label
from ...costmodels.stage_layout import StageLayout
from ...costmodels.workload import Workload
from ...hardware_profiles.errors import InvalidProblemError, MeshwrightError
from ...hardware_profiles.mixed import mixed_from_dict, mixed_to_dict
from ..plan_json import document_of, rounded
from .plan import KIND, MixedPlan, MixedPlanSet, MixedSearch, MixedStage, Pipelines
from .problem import MixedProblem

SCHEMA_VERSION = "meshwright.mixed-plan/v1"
SCHEMA_PATH = Path(__file__).resolve().parents[1] / "schema" / "mixed-plan.v1.json"
_SIMPLE = ("framework", "max_memory_bytes", "fit_confidence", "top")


def to_json(plans: MixedPlanSet) -> str:
    """The document, indented, with a newline at its end."""
    document = {
        "schema": SCHEMA_VERSION,
        "kind": KIND,
        "problem": _problem_to_dict(plans.problem),
        "plans": [_plan_to_dict(p) for p in plans.plans],
        "single": [_plan_to_dict(p) for p in plans.single],
        "general": None if plans.general is None else _plan_to_dict(plans.general),
        "search": asdict(plans.search),
        "provenance": dict(plans.provenance),
    }
    return json.dumps(rounded(document, "plan"), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def is_mixed_plan(text: str) -> bool:
    """Whether a text is a document of this kind."""
    try:
        document = json.loads(text)
    except ValueError:
        return False
    return isinstance(document, dict) and document.get("schema") == SCHEMA_VERSION


def from_json(text: str, where: str = "plan.json") -> MixedPlanSet:
    """Inverse of ``to_json``.

    Raises:
        InvalidProblemError: not JSON, another schema, or a part that is missing or of the wrong kind.
    """
    document = document_of(text, SCHEMA_VERSION, where)
    try:
        general = document["general"]
        return MixedPlanSet(
            problem=_problem_from_dict(document["problem"]),
            plans=tuple(_plan_from_dict(p) for p in document["plans"]),
            single=tuple(_plan_from_dict(p) for p in document["single"]),
            general=None if general is None else _plan_from_dict(general),
            search=_build(MixedSearch, {**document["search"], "notes": tuple(document["search"]["notes"])}),
            provenance=_texts(document["provenance"]),
        )
    except MeshwrightError as error:
        raise InvalidProblemError(f"{where} is not a usable plan: {error}") from None
    except KeyError as error:
        raise InvalidProblemError(f"{where} is not a usable plan: the key {error} is missing.") from None
    except (TypeError, ValueError, AttributeError, IndexError) as error:
        raise InvalidProblemError(f"{where} is not a usable plan: {error}.") from None


def _problem_to_dict(problem: MixedProblem) -> dict[str, Any]:
    out: dict[str, Any] = {name: getattr(problem, name) for name in _SIMPLE}
    out["pins"] = {name: list(values) for name, values in sorted(problem.pins.items())}
    out["model"] = model_to_dict(problem.model)
    out["workload"] = asdict(problem.workload)
    out["cluster"] = mixed_to_dict(problem.cluster)
    out["software"] = [software_to_dict(s) for s in problem.software]
    return out


def _problem_from_dict(data: Mapping[str, Any]) -> MixedProblem:
    unknown = set(data) - {*_SIMPLE, "pins", "model", "workload", "cluster", "software"}
    if unknown:
        raise InvalidProblemError(f"problem has the unknown keys {', '.join(sorted(unknown))}.")
    return MixedProblem(
        **{name: data[name] for name in _SIMPLE},
        pins={name: tuple(int(v) for v in values) for name, values in data["pins"].items()},
        model=model_from_dict(data["model"], "problem.model"),
        workload=_build(Workload, data["workload"]),
        cluster=mixed_from_dict(data["cluster"], place="problem.cluster"),
        software=tuple(software_from_dict(s) for s in data["software"]),
    )


def _plan_to_dict(plan: MixedPlan) -> dict[str, Any]:
    out: dict[str, Any] = {"rank": plan.rank, "shape": plan.shape, "label": plan_label(plan), "ep": plan.ep}
    out["groups"] = [asdict(group) for group in plan.groups]
    out["config"] = None if plan.config is None else asdict(plan.config)
    if plan.stage_layout is not None:
        out["stage_layout"] = plan.stage_layout.to_dict()
    out |= {"metrics": dict(plan.metrics), "time_s": dict(plan.time_s)}
    return {**out, "proof": plan.proof, "reasons": list(plan.reasons)}


def _plan_from_dict(data: Mapping[str, Any]) -> MixedPlan:
    groups = tuple(
        _build(Pipelines, {**group, "stages": tuple(_build(MixedStage, s) for s in group["stages"])})
        for group in data["groups"]
    )
    config = None if data["config"] is None else _build(ParallelConfig, data["config"])
    layout = StageLayout.from_dict(data["stage_layout"]) if "stage_layout" in data else None
    if layout is not None and config is not None:
        layout.check_config(config)
    return MixedPlan(
        rank=int(data["rank"]),
        shape=str(data["shape"]),
        groups=groups,
        ep=int(data["ep"]),
        metrics={k: float(v) for k, v in data["metrics"].items()},
        time_s={k: float(v) for k, v in data["time_s"].items()},
        config=config,
        stage_layout=layout,
        proof=str(data["proof"]),
        reasons=tuple(str(s) for s in data["reasons"]),
    )


def plan_label(plan: MixedPlan) -> str:
    """``a100 4 x tp4 (8+9+9+9) > h100 2 x tp4 (23+22) dp1 mbs1``; groups are joined by ``and``."""
    return " and ".join(_group_label(group) for group in plan.groups) + (f" ep{plan.ep}" if plan.ep > 1 else "")


def _group_label(group: Pipelines) -> str:
    runs: list[list[MixedStage]] = []
    for stage in group.stages:
        if not (runs and runs[-1][0].pool == stage.pool):
            runs.append([])
        runs[-1].append(stage)
    words = []
    for run in runs:
        cp = f"cp{run[0].cp}" if run[0].cp > 1 else ""
        words.append(f"{run[0].pool} {len(run)} x tp{run[0].tp}{cp} ({'+'.join(str(s.layers) for s in run)})")
    tail = [f"dp{group.dp}", f"mbs{group.micro_batch_size}"]
    tail += [f"vp{group.vp}"] if group.vp > 1 else []
    modes = list(dict.fromkeys(recompute_label(s.recompute) for s in group.stages))
    tail += ["recompute " + "/".join(modes)] if modes != ["none"] else []
    return f"{' > '.join(words)} {' '.join(tail)}"


def _texts(data: Mapping[str, Any]) -> dict[str, str]:
    return {str(k): str(v) for k, v in data.items()}


def _build(cls: Callable[..., Any], data: Mapping[str, Any]) -> Any:
    """A flat dataclass from a mapping that has all of its keys and no other."""
    if not isinstance(data, Mapping):
        raise InvalidProblemError(f"{cls.__name__} is {data!r}, not a mapping.")
    names = {f.name for f in fields(cls)}  # type: ignore[arg-type]
    needed = {f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING}  # type: ignore[arg-type]
    for name in sorted(set(data) - names):
        raise InvalidProblemError(f"{cls.__name__} has the unknown key {name!r}.")
    for name in sorted(needed - set(data)):
        raise InvalidProblemError(f"{cls.__name__} lacks the key {name!r}.")
    return cls(**data)
