"""Find a model by its name or read it from a file.

``load_model`` reads one file only. Shipped names are matched without case, organisation prefix, separators and
release suffixes (``meta-llama/Llama-3.1-70B-Instruct`` is ``llama-3.1-70b``); names that follow no rule stand in
``models/aliases.yaml``, which is read only when the rules find nothing.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from ..hardware_profiles.errors import InvalidProblemError, did_you_mean
from .hf_config import spec_from_hf
from .model_dict import model_from_dict, model_to_dict
from .model_spec import ModelSpec

__all__ = ["find_model", "list_models", "load_model", "model_from_dict", "model_to_dict"]

_FOLDER = Path(__file__).resolve().parent / "models"
_ALIASES = "aliases"
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times faster where libyaml is present
_SUFFIX = re.compile(r"-(instruct|base|chat|hf|it|pretrain|v\d+\.\d+|bf16|fp8|mxfp8|nvfp4|\d{4})$")


def list_models() -> list[str]:
    """Names of the shipped models, sorted."""
    return sorted(p.stem for p in _FOLDER.glob("*.yaml") if p.stem != _ALIASES)


def find_model(name: str) -> str | None:
    """The shipped name that ``name`` stands for, or None."""
    keys = _shipped_keys()
    plain = name.strip().lower().replace("_", "-").rsplit("/", 1)[-1].removeprefix("meta-")
    while True:
        if (found := keys.get(_key(plain))) is not None:
            return found
        shorter = _SUFFIX.sub("", plain)
        if shorter == plain:
            break
        plain = shorter
    return _aliases().get(_key(name.rsplit("/", 1)[-1]), _aliases().get(_key(plain)))


def load_model(name_or_path: str) -> ModelSpec:
    """Load a shipped model, a Hugging Face ``config.json`` (or its folder), or a YAML file in our schema.

    A shipped name goes before a file or folder of the same name; write ``./name`` for the latter.

    Raises:
        InvalidProblemError: unknown name (with the nearest ones), missing or garbled file, wrong or missing key.
    """
    text = str(name_or_path).strip()
    path_like = text.startswith((".", "/", "~")) or text.lower().endswith((".json", ".yaml", ".yml"))
    if not path_like and (found := find_model(text)) is not None:
        return _load_shipped(found)
    path = Path(text).expanduser()
    if text and _exists(path):
        return _load_path(path)
    if path_like:
        raise InvalidProblemError(
            f"Model file {text} does not exist; give a config.json, a YAML file or a shipped name."
        )
    raise InvalidProblemError(
        f"Unknown model {text!r}.{did_you_mean(text.rsplit('/', 1)[-1], list_models())} "
        "`meshwright models` lists the shipped ones; a path to a config.json works too."
    )


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # for example a name longer than the file system takes
        return False


@lru_cache(maxsize=64)
def _load_shipped(name: str) -> ModelSpec:
    path = _FOLDER / f"{name}.yaml"
    data = _read_yaml(path)
    return model_from_dict({"name": name, **data}, path.name)


def _load_path(path: Path) -> ModelSpec:
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise InvalidProblemError(f"Model folder {path} holds no config.json.")
        path = path / "config.json"
    if path.suffix.lower() in (".yaml", ".yml"):
        data = _read_yaml(path)
        return model_from_dict({"name": path.stem, "family": "custom", **data}, str(path))
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidProblemError(f"Cannot read model file {path}: {_reason(error)}.") from None
    except json.JSONDecodeError as error:
        raise InvalidProblemError(f"{path} is not valid JSON: {error.msg} in line {error.lineno}.") from None
    except RecursionError:
        raise InvalidProblemError(f"{path} is not a model config: it is nested too deeply.") from None
    if not isinstance(config, dict):
        raise InvalidProblemError(f"{path} must hold a JSON object with model_type and dimensions.")
    if "model_type" not in config and "attention" in config:
        return model_from_dict(config, str(path))
    name = path.resolve().parent.name if path.name == "config.json" else path.stem
    return spec_from_hf(config, name, str(path))


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_LOADER)
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidProblemError(f"Cannot read model file {path}: {_reason(error)}.") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" in line {mark.line + 1}" if mark is not None else ""
        raise InvalidProblemError(f"{path} is not valid YAML: {getattr(error, 'problem', error)}{place}.") from None
    except RecursionError:
        raise InvalidProblemError(f"{path} is not a model file: it is nested too deeply.") from None
    if not isinstance(data, dict):
        raise InvalidProblemError(f"{path} must hold a mapping of model fields.")
    return data


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else "it is not UTF-8 text") or type(error).__name__


def _key(name: str) -> str:
    return re.sub(r"[-_ ]", "", name.strip().lower())


@lru_cache(maxsize=1)
def _shipped_keys() -> dict[str, str]:
    return {_key(name): name for name in list_models()}


@lru_cache(maxsize=1)
def _aliases() -> dict[str, str]:
    return {_key(str(k)): str(v) for k, v in _read_yaml(_FOLDER / f"{_ALIASES}.yaml").items()}
