"""Two plans side by side: where they differ and what each difference costs."""

from __future__ import annotations

from dataclasses import dataclass

from ..costmodels.parallel import CONFIG_FIELDS
from .anatomy import part_differences
from .label import config_label
from .plan import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One quantity of both plans; ``change`` is ``b - a``."""

    name: str
    a: float
    b: float

    @property
    def change(self) -> float:
        """``b - a``."""
        return self.b - self.a


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What sets two plans apart.

    Attributes:
        fields: configuration fields that differ; metrics: all metrics of both that both have;
        time, memory: parts by size of the difference, largest first; sentence: the gist.
    """

    a: Plan
    b: Plan
    fields: tuple[tuple[str, int, int], ...]
    metrics: tuple[Difference, ...]
    time: tuple[Difference, ...]
    memory: tuple[Difference, ...]
    sentence: str


def compare(a: Plan, b: Plan) -> Comparison:
    """Compare plan ``b`` with plan ``a``; they may stem from different problems."""
    fields = tuple(
        (n, getattr(a.config, n), getattr(b.config, n))
        for n in CONFIG_FIELDS
        if getattr(a.config, n) != getattr(b.config, n)
    )
    metrics = tuple(Difference(name=n, a=v, b=b.metrics[n]) for n, v in a.metrics.items() if n in b.metrics)
    step = b.metrics["step_s"] / a.metrics["step_s"] - 1.0
    peak = b.metrics["peak_bytes"] / a.metrics["peak_bytes"] - 1.0
    sentence = (
        f"{config_label(b.config)} against {config_label(a.config)}: {step:+.1%} step time "
        f"({part_differences(b, a)}), {peak:+.1%} memory."
    )
    return Comparison(
        a=a,
        b=b,
        fields=fields,
        metrics=metrics,
        time=_by_size(dict(a.time_s), dict(b.time_s)),
        memory=_by_size(dict(a.memory_bytes), dict(b.memory_bytes)),
        sentence=sentence,
    )


def _by_size(a: dict[str, float], b: dict[str, float]) -> tuple[Difference, ...]:
    rows = [Difference(name=n, a=v, b=b[n]) for n, v in a.items()]
    return tuple(sorted(rows, key=lambda d: (-abs(d.change), d.name)))
