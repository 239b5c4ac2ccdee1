"""Framework eras: reading ``software/*.yaml``, choosing one for a user or for a published run, exact round trip.

An era is a framework in the form in which it ran in a span of releases. Its file states what the release
does when the user says nothing (each with a source) and, once calibrated, the few coefficients of
``software.COEFFICIENTS`` with the fit's error and the hashes of the rows that it saw.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from ..hardware_profiles.errors import InvalidProblemError, did_you_mean
from ..hardware_profiles.names import is_yaml_path
from ..hardware_profiles.types import Fit, Gpu, Provenance
from .compute import attention_kernel
from .parallel import CONFIG_FIELDS
from .residuals import RESIDUALS_PATH
from .software import COEFFICIENTS, DISPATCHERS, GRAPHED, Software

_FOLDER = Path(__file__).resolve().parent / "software"
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times faster where libyaml is present
_ATTENTION = ("unfused", "triton", "flash1", "flash2", "flash3", "cudnn")
_FRAMEWORKS = ("megatron-lm", "torchtitan", "deepspeed", "pytorch", "jax", "internevo", "paddle", "oneflow")
_KEYS = {
    "name",
    "framework",
    "release",
    "attention",
    "attention_by_architecture",
    "fused_elementwise",
    "fused_loss",
    "separate_grad_add",
    "cuda_graphs",
    "launch_blocking",
    "tp_grad_overlap",
    "vocab_multiple",
    "moe_dispatcher",
    "moe_overlap",
    "moe_fused_mlp",
    "graphed",
    "grad_dtype_bytes",
    "coefficients",
    "memory",
    "defaults",
    "match",
    "fit",
    "sources",
    "notes",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Era:
    """One file of ``software/``: the ``Software`` and what is needed to choose it.

    Attributes:
        software: as the cost functions take it (attention kernel of the youngest GPUs it names).
        attention_by_architecture: kernels that replace ``software.attention`` on some GPU generations.
        grad_dtype_bytes: width of the reduced gradient by precision (``bf16``, ``fp16`` ...).
        pattern: regular expression on the text of a framework column (lower case).
        words: regular expression on other text of a run, used only where no framework is stated.
        option: ``compile``, ``eager``, ``blocking`` ... where a release has two ways of running with an era each.
        architectures: GPU generations whose runs always belong here (empty: no claim).
        years: first and last year that it stands for.
        path: file that it was read from; sources: where each stated fact comes from.
    """

    software: Software
    attention_by_architecture: Mapping[str, str]
    grad_dtype_bytes: Mapping[str, float]
    pattern: str
    words: str
    option: str
    architectures: tuple[str, ...]
    years: tuple[int, int]
    path: Path
    sources: Mapping[str, str]


def _require(ok: bool, path: Path, message: str) -> None:
    if not ok:
        raise InvalidProblemError(f"{path.name}: {message}")


def _read(path: Path) -> dict[str, Any]:
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_LOADER)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        where = str(error).splitlines()[0]
        raise InvalidProblemError(f"{path.name} cannot be read as a software profile: {where}.") from None
    _require(isinstance(data, dict), path, "a software profile is a mapping of keys, such as name and framework.")
    unknown = sorted(set(data) - _KEYS)
    if unknown:
        raise InvalidProblemError(f"{path.name}: unknown key {unknown[0]!r}.{did_you_mean(str(unknown[0]), _KEYS)}")
    return dict(data)


def _checked_coefficients(data: Mapping[str, Any], path: Path) -> dict[str, float]:
    out: dict[str, float] = {}
    for name, value in data.items():
        if name not in COEFFICIENTS:
            raise InvalidProblemError(f"{path.name}: unknown coefficient {name!r}.{did_you_mean(name, COEFFICIENTS)}")
        _, low, high, _ = COEFFICIENTS[name]
        ok = isinstance(value, int | float) and low <= float(value) <= high
        _require(ok, path, f"coefficient {name} must be a number between {low:g} and {high:g}, not {value!r}.")
        out[name] = float(value)
    return out


def _checked_defaults(data: Mapping[str, Any], path: Path) -> dict[str, int]:
    for name, value in data.items():
        if name not in CONFIG_FIELDS:
            raise InvalidProblemError(f"{path.name}: unknown default {name!r}.{did_you_mean(name, CONFIG_FIELDS)}")
        _require(isinstance(value, int), path, f"default {name} must be an integer code, not {value!r}.")
    return {k: int(v) for k, v in data.items()}


def read_era(path: Path) -> Era:
    """Read and check one software profile.

    Raises:
        InvalidProblemError: unreadable file, unknown key or value out of its physical bounds.
    """
    d = _read(path)
    for key in ("name", "framework", "release", "attention"):
        _require(isinstance(d.get(key), str), path, f"key {key!r} is missing or not a text.")
    _require(d["framework"] in _FRAMEWORKS, path, f"framework must be one of {', '.join(_FRAMEWORKS)}.")
    by_arch = dict(d.get("attention_by_architecture") or {})
    for kernel in (d["attention"], *by_arch.values()):
        _require(kernel in _ATTENTION, path, f"attention must be one of {', '.join(_ATTENTION)}, not {kernel!r}.")
    dispatcher = d.get("moe_dispatcher", "alltoall")
    _require(dispatcher in DISPATCHERS, path, f"moe_dispatcher must be one of {', '.join(DISPATCHERS)}.")
    _require(d.get("graphed", "") in GRAPHED, path, f"graphed must be one of {', '.join(filter(None, GRAPHED))}.")
    fit_data = d.get("fit") or {}
    coefficients = _checked_coefficients(d.get("coefficients") or {}, path)
    memory = _checked_coefficients(d.get("memory") or {}, path)
    match = d.get("match") or {}
    years = match.get("years") or [0, 9999]
    fit = None
    if fit_data:
        fit = Fit(
            **{
                k: v
                for k, v in fit_data.items()
                if k in ("source", "n_rows", "mape", "rows_sha256", "half_width", "half_width_across")
            }
        )
    software = Software(
        name=d["name"],
        framework=d["framework"],
        release=d["release"],
        attention=d["attention"],
        fused_elementwise=bool(d.get("fused_elementwise", True)),
        fused_loss=bool(d.get("fused_loss", False)),
        separate_grad_add=bool(d.get("separate_grad_add", False)),
        cuda_graphs=bool(d.get("cuda_graphs", False)),
        launch_blocking=bool(d.get("launch_blocking", False)),
        tp_grad_overlap=bool(d.get("tp_grad_overlap", True)),
        vocab_multiple=int(d.get("vocab_multiple", 128)),
        moe_dispatcher=str(d.get("moe_dispatcher", "alltoall")),
        moe_overlap=bool(d.get("moe_overlap", False)),
        moe_fused_mlp=bool(d.get("moe_fused_mlp", False)),
        graphed=str(d.get("graphed", "")),
        coefficients={**memory, **coefficients},
        defaults=_checked_defaults(d.get("defaults") or {}, path),
        provenance=Provenance.FITTED if coefficients else Provenance.DATASHEET,
        fit=fit,
        notes=str(d.get("notes", "")).strip(),
    )
    return Era(
        software=software,
        attention_by_architecture=by_arch,
        grad_dtype_bytes={k: float(v) for k, v in (d.get("grad_dtype_bytes") or {}).items()},
        pattern=str(match.get("framework", "")),
        words=str(match.get("words", "")),
        option=str(match.get("options", "")),
        architectures=tuple(str(a) for a in match.get("architectures", ())),
        years=(int(years[0]), int(years[1])),
        path=path,
        sources=dict(d.get("sources") or {}),
    )


def seen_rows(era: Era) -> frozenset[str]:
    """Hashes of the runs that an era's coefficients were fitted on (kept beside the profile, read when asked for)."""
    return _seen_rows(seen_rows_path(era.path))


def seen_rows_path(profile: Path) -> Path:
    """Where the hashes of a profile's fit stand: ``seen_rows/<name>.json`` beside it."""
    return profile.parent / "seen_rows" / f"{profile.stem}.json"


@cache
def _seen_rows(path: Path) -> frozenset[str]:
    if not path.is_file():
        return frozenset()
    try:
        hashes = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise InvalidProblemError(f"{path.name} is no list of row hashes; calibrate again to write it.") from None
    return frozenset(str(h) for h in hashes)


@cache
def _shipped() -> dict[str, Era]:
    return {name: _shipped_era(name) for name in list_software()}


@cache
def _shipped_era(name: str) -> Era:
    return read_era(_FOLDER / f"{name}.yaml")


def list_software() -> list[str]:
    """Names of the shipped eras, sorted."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml") if path != RESIDUALS_PATH)


def load_era(name: str) -> Era:
    """One era by name, or from a user's YAML file when ``name`` ends in ``.yaml``/``.yml``.

    Raises:
        InvalidProblemError: no such era or file.
    """
    if is_yaml_path(name):
        path = Path(name)
        if not path.is_file():
            raise InvalidProblemError(f"no software profile at {name}; give the path of a YAML file or an era's name.")
        return read_era(path)
    if name not in list_software():
        raise InvalidProblemError(f"unknown software {name!r}.{did_you_mean(name, list_software())}")
    return _shipped_era(name)


def load_software(name: str) -> Software:
    """The ``Software`` of one era (see ``load_era``)."""
    return load_era(name).software


def for_gpu(era: Era, architecture: str) -> Software:
    """The era's software with the attention kernel that it runs on this GPU generation."""
    kernel = era.attention_by_architecture.get(architecture, era.software.attention)
    return era.software if kernel == era.software.attention else _with(era.software, attention=kernel)


def on_gpu(era: Era, gpu: Gpu) -> Software:
    """The era's software on a device: its attention kernel for the generation, or the next one that the device has
    (V100 runs unfused attention, AMD devices FlashAttention-2)."""
    software = for_gpu(era, gpu.architecture)
    kernel = attention_kernel(gpu, software.attention)
    return software if kernel == software.attention else _with(software, attention=kernel)


def _with(software: Software, **changes: Any) -> Software:
    return software_from_dict({**software_to_dict(software), **changes})


#: current era of each framework that a user can name.
_CURRENT = {
    "megatron-lm": "megatron-core-2025",
    "torchtitan": "torchtitan-2025",
    "deepspeed": "deepspeed-2025",
    "pytorch": "torchtitan-2025",
    "any": "megatron-core-2025",
    "jax": "paxml-2023",
}


def default_software(framework: str, gpu: Gpu) -> Software:
    """The current release of a framework on a GPU.

    Raises:
        InvalidProblemError: a framework that meshwright does not know.
    """
    if framework not in _CURRENT:
        raise InvalidProblemError(f"unknown framework {framework!r}.{did_you_mean(framework, _CURRENT)}")
    amd = gpu.vendor == "amd" and framework in ("megatron-lm", "any")
    return on_gpu(load_era("rocm-megatron-2025" if amd else _CURRENT[framework]), gpu)


def software_for_run(
    framework: str, year: int | None, architecture: str, words: str = "", options: Collection[str] = ()
) -> tuple[Software, Era, str | None]:
    """The era of a published run, from what its table says.

    Args:
        framework: text of the framework column (may be empty).
        year: year of the run, if stated.
        architecture: GPU generation (``volta``, ``ampere``, ``hopper`` ...).
        words: other text of the row (source name, model, notes), looked into where ``framework`` is empty.
        options: ways of running (``compile`` or ``eager``, ``blocking``) where an era exists for each.

    Returns:
        The software with its attention kernel for this GPU, its era, and why it had to be assumed
        (``None`` if the framework is named and one era matches it).
    """
    text, named = framework.lower(), bool(framework.strip())
    known = [e for e in _shipped().values() if not options or e.option in ("", *options)]
    claimed = [e for e in known if architecture in e.architectures]
    if claimed:
        best = claimed[0]
        return (
            for_gpu(best, architecture),
            best,
            None if named else f"framework not stated, read as {best.software.name}",
        )
    eras = [e for e in known if e.pattern and re.search(e.pattern, text)] if named else []
    if not eras:
        named = False
        eras = [e for e in known if e.words and re.search(e.words, words.lower())]
    if eras and year is not None:
        inside = [e for e in eras if e.years[0] <= year <= e.years[1]]
        eras = inside or sorted(eras, key=lambda e: min(abs(e.years[0] - year), abs(e.years[1] - year)))[:1]
    if not eras:
        best = load_era(_era_by_age(year, architecture))
        said = f"framework {framework[:40]!r} has no era" if framework.strip() else "framework not stated"
        return for_gpu(best, architecture), best, f"{said}, taken as {best.software.name}"
    said_in = text if named else words.lower()
    best = max(eras, key=lambda e: (_match_length(e, said_in, named), e.option in options, -e.years[0]))
    said = f"framework {framework[:40]!r}" if framework.strip() else "framework not stated,"
    why = None if named else f"{said} read as {best.software.name}"
    return for_gpu(best, architecture), best, why


def _match_length(era: Era, text: str, named: bool) -> int:
    """Length of the longest piece of the text that the era's pattern explains (a tie-break: specific first)."""
    pattern = era.pattern if named else era.words
    return max((len(m.group(0)) for m in re.finditer(pattern, text)), default=0)


def _era_by_age(year: int | None, architecture: str) -> str:
    """Megatron of the time: by year if stated, otherwise by what the GPU generation usually ran."""
    if year is None:
        return {"volta": "megatron-lm-2021", "ampere": "megatron-lm-2022"}.get(architecture, "megatron-core-2025")
    if year <= 2021:
        return "megatron-lm-2021"
    if year <= 2023:
        return "megatron-lm-2022"
    return "megatron-lm-2024" if year == 2024 else "megatron-core-2025"


def software_to_dict(software: Software) -> dict[str, Any]:
    """A plain dictionary that ``software_from_dict`` turns back into an equal value."""
    out: dict[str, Any] = {f.name: getattr(software, f.name) for f in fields(software)}
    out["coefficients"] = dict(software.coefficients)
    out["defaults"] = dict(software.defaults)
    out["provenance"] = str(software.provenance)
    if software.fit is not None:
        out["fit"] = {f.name: getattr(software.fit, f.name) for f in fields(software.fit)}
    return out


def software_from_dict(data: Mapping[str, Any]) -> Software:
    """Inverse of ``software_to_dict``.

    Raises:
        InvalidProblemError: a key is unknown or missing.
    """
    d = dict(data)
    try:
        d["provenance"] = Provenance(d.get("provenance", "datasheet"))
        d["fit"] = Fit(**d["fit"]) if d.get("fit") else None
        return Software(**d)
    except (TypeError, ValueError) as error:
        raise InvalidProblemError(f"software of the plan cannot be read: {error}.") from None
