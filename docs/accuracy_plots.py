"""The two plots of docs/accuracy.md."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np


def _figure(width: float, height: float):  # type: ignore[no-untyped-def]
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=(width, height), layout="constrained")


def scatter_plot(points: Sequence[tuple[str, float, float]], folder: Path) -> None:
    """Predicted against measured tokens/s per GPU: (source, measured, predicted)."""
    figure, axes = _figure(8.0, 5.6)
    names = sorted({name for name, _, _ in points}, key=lambda n: -sum(n == p[0] for p in points))
    markers = "osD^v<>Ph*"
    for i, name in enumerate(names):
        real, guess = np.array([(r, g) for n, r, g in points if n == name]).T
        style = {"s": 10, "alpha": 0.6, "marker": markers[i // 10 % len(markers)], "color": f"C{i % 10}"}
        axes.scatter(real, guess, label=f"{name} ({len(real)})", linewidths=0, **style)
    span = np.array([min(p[1] for p in points), max(p[1] for p in points)])
    axes.plot(span, span, color="black", linewidth=0.8)
    for factor in (1.1, 1 / 1.1):
        axes.plot(span, span * factor, color="grey", linewidth=0.6, linestyle="--")
    axes.set(xscale="log", yscale="log", xlabel="measured tokens/s per GPU", ylabel="predicted, its group left out")
    axes.legend(fontsize=6, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    figure.savefig(folder / "predicted_vs_measured.png", dpi=110, metadata={"Software": None})


def spread_plot(points: Sequence[tuple[str, float]], folder: Path, least: int = 5) -> None:
    """Boxes of the relative error by regime: (regime, error)."""
    sets = {name: np.array([e for n, e in points if n == name]) for name, _ in points}
    kept = sorted((n for n, v in sets.items() if len(v) >= least), key=lambda n: np.mean(np.abs(sets[n])))
    figure, axes = _figure(8.0, 0.6 + 0.28 * len(kept))
    labels = [f"{n} ({len(sets[n])})" for n in kept]
    axes.boxplot([100 * sets[n] for n in kept], orientation="horizontal", whis=(5, 95), sym=".", widths=0.6)
    axes.set_yticks(range(1, len(kept) + 1), labels, fontsize=7)
    axes.axvline(0.0, color="black", linewidth=0.8)
    axes.set(xlabel="error of tokens/s, % (its group left out; box: quartiles, whiskers: 5% and 95%)", xlim=(-80, 120))
    figure.savefig(folder / "residuals_by_regime.png", dpi=110, metadata={"Software": None})
