"""Does a table of runs recompute? Time per layer read off runs that differ in depth only, against kernel tables.

``python benchmarks/layer_slopes.py RUNS.csv`` groups the runs of a table that are equal in everything but ``n_layers``,
takes the slope of the step time over depth, divides it by the pipeline's slots, and prints how many times the device
time of a layer that is, with and without full recomputation. Device time is what isolated kernels take (the shipped
GEMM, attention and element-wise curves, no derates, no launches, no collectives), so a ratio below 1 says that a layer
would have to run faster than its kernels do: that reading of the table is impossible. Runs without tensor parallelism
only; ratios far above 1 are bound by the host and say nothing.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

from meshwright.costmodels.layer import layer_time  # noqa: E402
from meshwright.costmodels.parallel import ParallelConfig, Recompute  # noqa: E402
from meshwright.planner.validate.row_problem import RowProblem, RowSkippedError, row_problem  # noqa: E402
from meshwright.planner.validate.runs import read_runs  # noqa: E402

#: coefficients of an ideal step: kernels as fast as alone, nothing else.
IDEAL = {
    "gemm_derate": 1.0,
    "attention_derate": 1.0,
    "memory_derate": 1.0,
    "kernel_s": 0.0,
}


def device_s(row: RowProblem, micro: int, mode: Recompute) -> float:
    """Seconds of one layer and micro-batch on the device, forward to backward."""
    config = ParallelConfig(micro_batch_size=micro, recompute=mode)
    ideal = replace(row.software, coefficients=IDEAL)
    time = layer_time(row.cluster, row.model, row.workload, ideal, config, moe=False)
    return float(time.forward_s + time.backward_s + time.recompute_s)


def main() -> None:
    """Print one line for every hidden size and micro-batch."""
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    depths: dict[tuple[int, ...], list[tuple[int, float]]] = {}
    example: dict[tuple[int, int], RowProblem] = {}
    for run in read_runs(Path(sys.argv[1])):
        try:
            row = row_problem(run)
        except RowSkippedError:
            continue
        known, step_s = row.known, run.number("step_time_s")
        if step_s is None or known.get("tp") != 1 or "dp" not in known or "micro_batch_size" not in known:
            continue
        micro, pp, dp = known["micro_batch_size"], known["pp"], known["dp"]
        slots = row.workload.global_batch // (micro * dp) + pp - 1
        key = (row.model.hidden, micro, pp, dp, slots)
        depths.setdefault(key, []).append((row.model.n_layers, step_s))
        example[row.model.hidden, micro] = row
    print(
        f"{'hidden':>6} {'micro':>5} {'groups':>6} {'measured ms':>11} {'x no recompute':>14} {'x full recompute':>16}"
    )
    for hidden, micro in sorted(example):
        slopes = []
        for (h, m, pp, _, slots), points in depths.items():
            layers, steps = np.array(points).T
            if (h, m) == (hidden, micro) and len(set(layers)) >= 3:
                slopes.append(float(np.polyfit(layers, steps, 1)[0]) * pp / slots)
        if not slopes:
            continue
        # the update's share of the slope is smallest in the group with most micro-batches
        per_layer = min(slopes)
        plain, full = (device_s(example[hidden, micro], micro, mode) for mode in (Recompute.NONE, Recompute.FULL))
        print(
            f"{hidden:6d} {micro:5d} {len(slopes):6d} {1e3 * per_layer:11.2f} {per_layer / plain:14.2f} "
            f"{per_layer / full:16.2f}"
        )


if __name__ == "__main__":
    main()
