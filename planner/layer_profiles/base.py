"""Strict reading of JSON profiles: what is missing, unknown or of the wrong kind is one sentence with file and key."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ...hardware_profiles.errors import InvalidProblemError, MissingProfileDataError, did_you_mean

MIB = 2**20


def load_json(path: Path) -> Mapping[str, Any]:
    """Return the object in a JSON file, with its number ``NaN`` and repeated keys refused."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidProblemError(f"{path} cannot be read: {error}.") from None

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise InvalidProblemError(f"{path} has the key {key!r} twice in one object; keep one.")
            found[key] = value
        return found

    try:
        data = json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise InvalidProblemError(f"{path} is not JSON: {error}.") from None
    return mapping(data, str(path))


def mapping(value: Any, where: str) -> Mapping[str, Any]:
    """Return an object or say where one should stand."""
    if not isinstance(value, dict):
        raise InvalidProblemError(f"{where} must be an object with named fields, not {type(value).__name__}.")
    return value


def sequence(value: Any, where: str) -> list[Any]:
    """Return a list or say where one should stand."""
    if not isinstance(value, list):
        raise InvalidProblemError(f"{where} must be a list, not {type(value).__name__}.")
    return value


def known_keys(found: Mapping[str, Any], known: Collection[str], where: str) -> None:
    """Refuse a key outside ``known``."""
    for key in found:
        if key not in known:
            raise InvalidProblemError(f"{where} has the unknown key {key!r}.{did_you_mean(key, known)}")


def member(found: Mapping[str, Any], key: str, where: str) -> Any:
    """Return a required field."""
    if key not in found:
        raise MissingProfileDataError(f"{where} lacks {key!r}; the format needs it.")
    return found[key]


def amount(found: Mapping[str, Any], key: str, where: str) -> float:
    """Return a required finite number not below 0."""
    return number(member(found, key, where), f"{key!r} of {where}")


def number(value: Any, where: str) -> float:
    """Return a finite number not below 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise InvalidProblemError(f"{where} is {value!r}; it must be a finite number not below 0.")
    return float(value)


def whole(value: Any, where: str, least: int = 0) -> int:
    """Return a whole number, given as a number or as the text of one (a JSON key)."""
    try:
        found = int(value) if isinstance(value, str) else value
    except ValueError:
        found = None
    if isinstance(found, bool) or not isinstance(found, int) or found < least:
        raise InvalidProblemError(f"{where} is {value!r}; it must be a whole number from {least}.")
    return found
