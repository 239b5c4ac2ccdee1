"""Typed look-ups in a Hugging Face config, with errors that name the file and the key."""

from __future__ import annotations

from typing import Any

from ..hardware_profiles.errors import InvalidProblemError

_REQUIRED = object()


class HfConfig:
    """One config; ``where`` is its path in errors, ``family`` its ``model_type``."""

    def __init__(self, data: dict[str, Any], name: str, where: str) -> None:
        self.data, self.name, self.where = data, name, where
        self.family = str(data["model_type"])

    def number(self, *keys: str, default: Any = _REQUIRED, least: int = 1) -> int:
        """The first present key as an integer; ``null`` counts as absent."""
        for key in keys:
            value = self.data.get(key)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                word = "positive" if least else "whole"
                raise InvalidProblemError(f"{self.where}: {key} must be a {word} number, not {value!r}.")
            return value
        if default is _REQUIRED:
            raise InvalidProblemError(f"{self.where}: key {keys[0]} is missing (model_type {self.family}).")
        return int(default)

    def flag(self, key: str, default: bool) -> bool:
        """A boolean; ``null`` counts as absent."""
        value = self.data.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise InvalidProblemError(f"{self.where}: {key} must be true or false, not {value!r}.")
        return value

    def share(self, *keys: str, default: float = 0.0) -> bool:
        """Whether any dropout rate among ``keys`` is positive (``default`` where absent)."""
        rates = [self.data.get(k, default) for k in keys]
        for key, rate in zip(keys, rates, strict=True):
            if rate is not None and (isinstance(rate, bool) or not isinstance(rate, (int, float))):
                raise InvalidProblemError(f"{self.where}: {key} must be a number, not {rate!r}.")
        return any(rate is not None and rate > 0 for rate in rates)

    def refuse(self, condition: bool, text: str) -> None:
        """Raise where the config asks for something that the builders do not cover."""
        if condition:
            raise InvalidProblemError(f"{self.where}: {text} is not modelled for model_type {self.family}.")
