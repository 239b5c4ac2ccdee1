"""Plans named on the command line: ``plan.json``, ``plan.json:4``."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from ..hardware_profiles.errors import InvalidProblemError
from ..planner.mixed.plan import MixedPlan, MixedPlanSet
from ..planner.mixed.plan_json import from_json as mixed_from_json
from ..planner.mixed.plan_json import is_mixed_plan
from ..planner.plan import Plan, PlanSet
from ..planner.plan_json import from_json


def read_plan_set(path: Path) -> PlanSet:
    """Read a file that ``meshwright plan`` wrote; ``-`` is standard input."""
    found = read_any(path)
    if isinstance(found, MixedPlanSet):
        raise InvalidProblemError(
            f"{path} holds plans for a cluster of pools, which this command does not take; `meshwright export` does."
        )
    return found


def read_any(path: Path) -> PlanSet | MixedPlanSet:
    """Read a file that ``meshwright plan`` wrote on a cluster of equal nodes or of pools."""
    text = _read(path)
    try:
        return mixed_from_json(text) if is_mixed_plan(text) else from_json(text)
    except InvalidProblemError as error:
        raise InvalidProblemError(f"{path}: {error}") from None


def _read(path: Path) -> str:
    try:
        return sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InvalidProblemError(f"{path} does not exist; `meshwright plan -o {path}` writes one.") from None
    except UnicodeDecodeError:
        raise InvalidProblemError(f"{path} is not a text file; give a plan.json of `meshwright plan`.") from None
    except OSError as error:
        raise InvalidProblemError(f"{path} cannot be read: {error.strerror}.") from None


def pick(plans: PlanSet, rank: int, flag: str = "--rank") -> Plan:
    """Return the plan of a rank."""
    return plans.plans[_index([plan.rank for plan in plans.plans], rank, flag)]


def pick_mixed(plans: MixedPlanSet, rank: int, flag: str = "--rank") -> MixedPlan:
    """Return the plan of a rank."""
    return plans.plans[_index([plan.rank for plan in plans.plans], rank, flag)]


def _index(ranks: Sequence[int], rank: int, flag: str) -> int:
    if rank in ranks:
        return ranks.index(rank)
    if not ranks:
        raise InvalidProblemError(f"{flag}: the file holds no plan.")
    raise InvalidProblemError(f"{flag}: there is no rank {rank}; the file holds ranks 1 to {ranks[-1]}.")


def parse_plan_name(text: str) -> tuple[Path, int]:
    """Split ``plan.json:4`` into the file and the rank (1 where none is given)."""
    name, colon, rank = text.rpartition(":")
    if colon and re.fullmatch(r"\d{1,9}", rank):
        return Path(name), int(rank)
    return Path(text), 1
