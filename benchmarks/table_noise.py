"""How well could any smooth model follow a table? Curves fitted to its results, apart for every GPU count and tp.

``python benchmarks/table_noise.py RUNS.csv`` fits, for the runs of one GPU count and tensor-parallel degree, the step
time ``slots * layers per stage * (a + b * micro-batch) + slots * c + d`` (slots: micro-batches plus pipeline stages
minus one) with coefficients that may not be negative and the least mean absolute relative error (a linear program). It
sees the results, has up to four coefficients for every handful of runs, and so bounds from below what a physical model
that varies smoothly with micro-batch and depth can reach on runs that it has not seen. It prints that error, and the
runs that lie more than a tenth off their curve.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

from meshwright.planner.validate.runs import Run, read_runs  # noqa: E402

_FAR = 0.10


def terms(run: Run) -> list[float]:
    """Columns of the curve for one run."""
    cell = {name: int(run.integer(name) or 0) for name in ("micro_batch", "pp", "dp", "n_layers")}
    slots = int(run.integer("global_batch_sequences") or 0) // (cell["micro_batch"] * cell["dp"]) + cell["pp"] - 1
    work = slots * cell["n_layers"] / cell["pp"]
    return [work, work * cell["micro_batch"], slots, 1.0]


def curve_errors(runs: list[Run]) -> Any:
    """Predicted over measured throughput, minus one, of the best curve through some runs."""
    from scipy.optimize import linprog

    measured = np.array([run.number("step_time_s") for run in runs], float)
    share = np.array([terms(run) for run in runs]) / measured[:, None]
    n, k = share.shape
    cost = np.concatenate([np.zeros(k), np.ones(n)])
    above = np.block([[share, -np.eye(n)], [-share, -np.eye(n)]])
    found = linprog(cost, A_ub=above, b_ub=np.concatenate([np.ones(n), -np.ones(n)]), bounds=[(0, None)] * (k + n))
    return 1.0 / (share @ found.x[:k]) - 1.0


def main() -> None:
    """Print the error by GPU count and tp, over all, and the runs far off."""
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    sets: dict[tuple[int, ...], list[Run]] = defaultdict(list)
    for run in read_runs(Path(sys.argv[1])):
        if run.number("step_time_s"):
            sets[run.integer("hidden") or 0, run.integer("n_gpus") or 0, run.integer("tp") or 0].append(run)
    everything, far = [], []
    print(f"{'hidden':>6} {'GPUs':>5} {'tp':>3} {'runs':>5} {'mean error %':>12}")
    for (hidden, gpus, tp), runs in sorted(sets.items()):
        errors = curve_errors(runs)
        everything.append(np.abs(errors))
        print(f"{hidden:6d} {gpus:5d} {tp:3d} {len(runs):5d} {100 * np.mean(np.abs(errors)):12.1f}")
        for run, error in zip(runs, errors, strict=True):
            if abs(error) > _FAR:
                layout = " ".join(f"{name}={run.integer(name)}" for name in ("tp", "pp", "dp", "micro_batch"))
                far.append(f"line {run.line}: {gpus} GPUs {layout}: {100 * error:+.0f}%")
    pooled = np.concatenate(everything)
    print(f"all: mean {100 * pooled.mean():.1f}%, median {100 * np.median(pooled):.1f}%; {len(far)} runs far off:")
    print("\n".join(far))


if __name__ == "__main__":
    main()
