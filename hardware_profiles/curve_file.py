"""Fitted efficiency curves of one GPU, with what it lacks borrowed from its architecture.

``curves/<gpu>.yaml`` holds ``gemm``, ``attention`` and ``collectives`` (mappings of curves) and ``memory_bound``
(one curve). ``curves/defaults.yaml`` holds the same under an architecture name and under ``any``. A curve that
is borrowed loses its row count and hash, because no row of this device was seen, and counts as a datasheet value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from .errors import InvalidProblemError, MissingProfileDataError, did_you_mean
from .types import Curve, Fit, Provenance
from .yaml_reader import Section, read_yaml

CURVES_DIR = Path(__file__).resolve().parent / "curves"
_TABLES = ("gemm", "attention", "collectives")
_SECTIONS = (*_TABLES, "memory_bound")


@dataclass(frozen=True, slots=True, kw_only=True)
class CurveSet:
    """All curves of one GPU, as ``Gpu`` wants them."""

    gemm: Mapping[str, Curve]
    attention: Mapping[str, Curve]
    memory_bound: Curve
    collectives: Mapping[str, Curve]


def resolve_curves(gpu: str, architecture: str, peak_types: Mapping[str, float], curves_dir: Path) -> CurveSet:
    """Return the curves of a GPU: its own first, then those of its architecture, then ``any``.

    Args:
        gpu: shipped name, which is the name of the curve file.
        architecture: key of ``defaults.yaml`` that is tried before ``any``.
        peak_types: GEMM types that the device has; curves for other types are not borrowed.
        curves_dir: directory of the curve files.

    Raises:
        MissingProfileDataError: neither file holds a section; the message names the file.
        InvalidProblemError: a curve file breaks its format.
    """
    tables: dict[str, dict[str, Curve]] = {name: {} for name in _SECTIONS}
    own = curves_dir / f"{gpu}.yaml"
    if own.is_file():
        section = Section(read_yaml(own), own.name)
        section.check_keys((), _SECTIONS)
        _merge(tables, section, lender="", peak_types=None)
    defaults = curves_dir / "defaults.yaml"
    if defaults.is_file():
        section = Section(read_yaml(defaults), defaults.name)
        for group in (architecture, "any"):
            if group in section.data:
                inner = section.section(group)
                inner.check_keys((), _SECTIONS)
                _merge(tables, inner, lender=group, peak_types=peak_types)
    for name, table in tables.items():
        if not table:
            missing = defaults if own.is_file() else own
            raise MissingProfileDataError(
                f"No {name} curve for GPU {gpu}: neither curves/{own.name} nor curves/{defaults.name} "
                f"(under {architecture} or any) has one; add it to curves/{missing.name}."
            )
    return CurveSet(
        gemm=tables["gemm"],
        attention=tables["attention"],
        memory_bound=tables["memory_bound"]["memory_bound"],
        collectives=tables["collectives"],
    )


def override(curves: CurveSet, section: Section) -> CurveSet:
    """Return the curves with single coefficients replaced by a user's ``efficiency`` section.

    The section has the shape of a curve file with only ``name: number`` under each curve. Provenance is kept and
    the source says that the user changed it.

    Raises:
        InvalidProblemError: a curve or coefficient that does not exist (the nearest is named).
    """
    section.check_keys((), _SECTIONS)
    changed: dict[str, dict[str, Curve]] = {}
    for name in _TABLES:
        table: dict[str, Curve] = dict(getattr(curves, name))
        if name in section.data:
            inner = section.section(name)
            inner.check_keys((), table)
            for key in inner.data:
                table[key] = _override_curve(table[key], inner.section(key))
        changed[name] = table
    memory_bound = curves.memory_bound
    if "memory_bound" in section.data:
        memory_bound = _override_curve(memory_bound, section.section("memory_bound"))
    return CurveSet(memory_bound=memory_bound, **changed)


def _override_curve(curve: Curve, section: Section) -> Curve:
    section.check_keys((), curve.coefficients)
    numbers = {**curve.coefficients, **{key: section.number(key) for key in section.data}}
    source = f"{curve.fit.source}; changed by {section.place}: {', '.join(section.data)}"
    return replace(curve, coefficients=numbers, fit=replace(curve.fit, source=source))


def _merge(
    tables: dict[str, dict[str, Curve]], section: Section, *, lender: str, peak_types: Mapping[str, float] | None
) -> None:
    for name in _SECTIONS:
        if name not in section.data:
            continue
        if name == "memory_bound":
            if not tables[name]:
                tables[name][name] = _curve(section.section(name), lender)
            continue
        inner = section.section(name)
        for key in inner.data:
            if key in tables[name] or (name == "gemm" and peak_types is not None and key not in peak_types):
                continue
            tables[name][key] = _curve(inner.section(key), lender)


def _curve(section: Section, lender: str) -> Curve:
    section.check_keys(("coefficients", "provenance", "fit"))
    coefficients = section.section("coefficients")
    fit = section.section("fit")
    fit.check_keys(("source",), ("n_rows", "mape", "rows_sha256", "borrowed_from"))
    word = section.text("provenance")
    if word not in set(Provenance):
        near = did_you_mean(word, set(Provenance)) or f" It is one of {', '.join(Provenance)}."
        raise InvalidProblemError(f"{section.place}: {section.path}provenance is {word!r}.{near}")
    borrowed = fit.text("borrowed_from", "")
    return Curve(
        coefficients={key: coefficients.number(key) for key in coefficients.data},
        provenance=Provenance.DATASHEET if lender else Provenance(word),
        fit=Fit(
            source=fit.text("source"),
            n_rows=0 if lender else int(fit.figure("n_rows", 0, zero_allowed=True)),
            mape=fit.figure("mape", 0.0, zero_allowed=True),
            rows_sha256="" if lender else fit.text("rows_sha256", ""),
            borrowed_from=borrowed or lender,
        ),
    )
