"""Scores the analytic model on the methods of arXiv 2411.05288: error by method and pipeline, and who beats whom.

``python benchmarks/vocabulary_methods.py paper-2411.05288.csv`` predicts every run as ``meshwright backtest`` does and
prints the error of tokens per second by pipeline and method, and how many pairs of methods that were measured at least
3% apart (same model, vocabulary and sequence) are ranked as measured. The last line reads Table 5's MFU over the 320
TFLOP/s that it is based on instead of 312 (``benchmarks/vocabulary_parallel.py --artifact`` shows that).
"""

from __future__ import annotations

import sys
from collections import defaultdict
from itertools import combinations
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

from meshwright.planner.validate.backtest import backtest  # noqa: E402

TIE, PEAK_RATIO = 0.03, 320.0 / 312.0


def main() -> None:
    """Print a line for every pipeline and method, then the pairs."""
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    errors: dict[tuple[int, str], list[float]] = defaultdict(list)
    cases: dict[tuple[int, ...], list[tuple[float, float]]] = defaultdict(list)
    for row in backtest([Path(sys.argv[1])]).rows:
        p, measured = row.problem, row.run.number("tps_gpu_effective")
        if p is None or measured is None:
            continue
        predicted = row.tokens_per_s_per_gpu
        pp = p.known["pp"]
        errors[pp, p.method].append(predicted / measured - 1.0)
        cases[pp, p.model.vocab, p.workload.seq_len].append((predicted, measured))
    for (pp, method), some in sorted(errors.items()):
        print(f"pp {pp:2d} {method:10s} {len(some)} runs: bias {np.mean(some):+6.1%}, MAPE {np.abs(some).mean():5.1%}")
    for pp in sorted({key[0] for key in cases}):
        pairs = [pair for key, some in cases.items() if key[0] == pp for pair in combinations(some, 2)]
        apart = [(a, b) for a, b in pairs if abs(a[1] / b[1] - 1.0) >= TIE and abs(b[1] / a[1] - 1.0) >= TIE]
        right = sum((a[0] > b[0]) == (a[1] > b[1]) for a, b in apart)
        print(f"pp {pp:2d}: {right} of {len(apart)} pairs ranked as measured, {len(pairs) - len(apart)} closer than 3%")
    every = np.array([one for some in errors.values() for one in some])
    others = np.array([one for (_, method), some in errors.items() if method != "baseline" for one in some])
    print(f"all {every.size}: MAPE {np.abs(every).mean():.1%}")
    print(f"{others.size} other than baseline: MAPE {np.abs(others).mean():.1%}")
    print(f"with Table 5 read over 320 TFLOP/s: {np.abs((1.0 + every) / PEAK_RATIO - 1.0).mean():.1%}")


if __name__ == "__main__":
    main()
