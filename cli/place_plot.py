"""Picture of a placement: the links in the given order and in the order found, and who talks to whom."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..hardware_profiles.errors import InvalidProblemError, MissingDependencyError
from ..hardware_profiles.link_matrix import LinkMatrix
from ..planner.place import PlacedPlan


def save_picture(links: LinkMatrix, found: PlacedPlan, path: Path) -> None:
    """Two heat maps of Gb/s side by side.

    Raises:
        MissingDependencyError: matplotlib is absent; InvalidProblemError: the ending names no kind of picture.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingDependencyError("--plot needs matplotlib: pip install 'meshwright[notebooks]'.") from None
    if path.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise InvalidProblemError(f"--plot: {path.name} must end in .png, .svg or .pdf.")
    figure = Figure(figsize=(11, 5), layout="constrained")
    FigureCanvasAgg(figure)
    sides = figure.subplots(1, 2)
    orders = (("as given", found.given), ("as placed", found.placed))
    gbit = links.per_gpu(found.gpus_per_node) * 8e-9
    shown = np.where(np.isfinite(gbit), gbit, np.nan)
    low, high = float(np.nanmin(shown)), float(np.nanmax(shown))
    for side, (name, order) in zip(sides, orders, strict=True):
        at = list(links.index(order.hosts))
        image = side.imshow(shown[np.ix_(at, at)], vmin=low, vmax=high, cmap="viridis")
        side.set_title(f"{name}: {order.critical_s:.3f} s a step on links")
        side.set_xlabel("receiving node, by node rank")
        side.set_ylabel("sending node, by node rank")
        if len(at) <= 24:
            side.set_xticks(range(len(at)), order.hosts, rotation=90, fontsize=7)
            side.set_yticks(range(len(at)), order.hosts, fontsize=7)
    figure.colorbar(image, ax=sides, label="Gb/s per GPU")
    figure.savefig(path, dpi=120, metadata={"Date": None} if path.suffix == ".svg" else None)
