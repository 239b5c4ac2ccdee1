"""Plans named on the command line: ``plan.json``, ``plan.json:4``."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from ..hardware_profiles.errors import InvalidProblemError
from ..planner.plan import Plan, PlanSet
from ..planner.plan_json import from_json


def read_plan_set(path: Path) -> PlanSet:
    """Read a file that ``meshwright plan`` wrote; ``-`` is standard input."""
    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InvalidProblemError(f"{path} does not exist; `meshwright plan -o {path}` writes one.") from None
    except UnicodeDecodeError:
        raise InvalidProblemError(f"{path} is not a text file; give a plan.json of `meshwright plan`.") from None
    except OSError as error:
        raise InvalidProblemError(f"{path} cannot be read: {error.strerror}.") from None
    try:
        return from_json(text)
    except InvalidProblemError as error:
        raise InvalidProblemError(f"{path}: {error}") from None


def pick(plans: PlanSet, rank: int, flag: str = "--rank") -> Plan:
    """Return the plan of a rank."""
    for plan in plans.plans:
        if plan.rank == rank:
            return plan
    if not plans.plans:
        raise InvalidProblemError(f"{flag}: the file holds no plan.")
    raise InvalidProblemError(f"{flag}: there is no rank {rank}; the file holds ranks 1 to {plans.plans[-1].rank}.")


def parse_plan_name(text: str) -> tuple[Path, int]:
    """Split ``plan.json:4`` into the file and the rank (1 where none is given)."""
    name, colon, rank = text.rpartition(":")
    if colon and re.fullmatch(r"\d{1,9}", rank):
        return Path(name), int(rank)
    return Path(text), 1
