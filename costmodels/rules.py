"""Apply the frameworks' rules to one plan or a million: which rows break which rule, and the sentence that says so.

The rules themselves, with their sources, stand in ``framework_rules.py``.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..hardware_profiles.errors import InvalidProblemError, did_you_mean
from ..hardware_profiles.types import Cluster
from .candidates import CandidateTable
from .framework_rules import CODES, Rule, derive
from .framework_rules import FRAMEWORKS as FRAMEWORKS
from .framework_rules import RULES as RULES
from .model_spec import ModelSpec
from .parallel import CONFIG_FIELDS, ParallelConfig
from .workload import Workload

Mask = NDArray[np.bool_]
_AT_LEAST_ONE = frozenset({"tp", "cp", "ep", "etp", "pp", "vp", "dp", "micro_batch_size", "dp_shard"})


def check_framework(framework: str) -> None:
    """Raise InvalidProblemError for an unknown framework."""
    if framework not in (*FRAMEWORKS, "any"):
        known = (*FRAMEWORKS, "any")
        raise InvalidProblemError(
            f"Framework {framework!r} is unknown; choose one of {', '.join(known)}.{did_you_mean(framework, known)}"
        )


def rules_of(framework: str, *, placement: bool = True) -> tuple[Rule, ...]:
    """Rules of one framework in their order of application; for ``any`` those that every framework has."""
    wanted = set(FRAMEWORKS) if framework == "any" else {framework}
    rules = (r for r in RULES if wanted <= set(r.frameworks) and (r.hard or placement))
    return tuple(r for r in rules if framework != "any" or not r.launch)


def _facts(model: ModelSpec, workload: Workload, cluster: Cluster, config: Any) -> SimpleNamespace:
    return SimpleNamespace(c=config, m=model, w=workload, d=derive(model, workload, cluster, config))


def violations(
    model: ModelSpec,
    workload: Workload,
    cluster: Cluster,
    framework: str,
    config: ParallelConfig | CandidateTable,
    *,
    placement: bool = False,
    fields: frozenset[str] | None = None,
    only: frozenset[str] | None = None,
) -> dict[str, Mask]:
    """Rows that break each rule.

    Args:
        config: one configuration (masks of shape ``()``) or a table (shape ``(rows,)``).
        placement: also apply the preference that tp stays in the scale-up domain.
        fields: only rules decided by these fields (all if None); only: names of rules to apply (all if None).

    Returns:
        rule name -> mask of broken rows, in order of application. For ``any`` the last entry,
        ``no_framework``, marks rows that obey the common rules but that no single framework accepts.
    """
    check_framework(framework)
    facts = _facts(model, workload, cluster, config)
    shape = np.shape(config.tp)

    def broken(rules: tuple[Rule, ...]) -> dict[str, Mask]:
        chosen = [r for r in rules if (only is None or r.name in only) and (fields is None or set(r.fields) <= fields)]
        return {r.name: np.broadcast_to(np.logical_not(np.asarray(r.check(facts), dtype=bool)), shape) for r in chosen}

    out = broken(rules_of(framework, placement=placement))
    if framework == "any" and fields is None and only is None:
        refused = np.ones(shape, dtype=bool)
        for name in FRAMEWORKS:
            own = broken(tuple(r for r in rules_of(name, placement=False) if not r.launch))
            refused = refused & np.logical_or.reduce([np.asarray(v) for v in own.values()])
        common = np.logical_or.reduce([np.asarray(v) for v in out.values()])
        out["no_framework"] = refused & ~common
    return out


def first_violation_sentence(
    model: ModelSpec,
    workload: Workload,
    cluster: Cluster,
    framework: str,
    config: ParallelConfig,
    *,
    placement: bool = False,
    fields: frozenset[str] | None = None,
) -> str:
    """Sentence of the first rule that one configuration breaks, or the empty string."""
    broken = violations(model, workload, cluster, framework, config, placement=placement, fields=fields)
    facts = _facts(model, workload, cluster, config)
    for name, mask in broken.items():
        if not bool(mask):
            continue
        if name == "no_framework":
            return "no framework accepts this combination: " + " ".join(
                f"[{f}] {first_violation_sentence(model, workload, cluster, f, config)}" for f in FRAMEWORKS
            )
        rule = next(r for r in rules_of(framework, placement=placement) if r.name == name)
        return rule.sentence.format(c=facts.c, m=facts.m, w=facts.w, d=facts.d, **CODES)
    return ""


def validate(
    model: ModelSpec, workload: Workload, cluster: Cluster, framework: str, config: ParallelConfig
) -> ParallelConfig:
    """Return ``config`` if the framework can run it.

    Raises:
        InvalidProblemError: a field is below its least value or a rule is broken; the message is the rule's sentence.
    """
    for name in CONFIG_FIELDS:
        value, least = getattr(config, name), 1 if name in _AT_LEAST_ONE else 0
        if value < least:
            raise InvalidProblemError(f"{name}={value} is below its least value {least}.")
    sentence = first_violation_sentence(model, workload, cluster, framework, config)
    if sentence:
        raise InvalidProblemError(sentence[0].upper() + sentence[1:])
    return config
