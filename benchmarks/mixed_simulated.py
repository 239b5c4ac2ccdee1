"""The formula for pipelines across pools beside the event simulator, for the top pipeline of each example.

Both get the same stage times and the same exposed transfers. Printed: the formula's seconds of the micro-batches over
the simulator's, with transfers that run beside passes and with transfers that hold up their senders; the largest
transfer as a share of the longest stage.

    python benchmarks/mixed_simulated.py [--json]
"""

from __future__ import annotations

import argparse
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meshwright.cli.request import Request, build_mixed_problem
from meshwright.costmodels.schedules import PassTimes, build_schedule, simulate
from meshwright.planner.mixed.costs import price_pools
from meshwright.planner.mixed.pipelines import Found, best_pipelines
from meshwright.planner.mixed.price import Pricer
from meshwright.planner.mixed.problem import MixedProblem
from meshwright.planner.mixed.space import enumerate_choices

Floats = NDArray[np.float64]
EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
CASES = tuple((e, m) for e in ("h100-and-a100", "two-rooms") for m in ("llama-3.1-70b", "llama-3.1-8b"))


def example(name: str, model: str) -> MixedProblem:
    """256 sequences of 8,192 tokens on an example cluster."""
    cluster = str(EXAMPLES / f"{name}.yaml")
    return build_mixed_problem(Request(model=model, cluster=cluster, seq_len=8192, global_batch=256))


def top_pipeline(problem: MixedProblem) -> tuple[Pricer, Found]:
    """The fastest pipeline across pools, and what priced it."""
    pricer = Pricer(price_pools(problem))
    return pricer, best_pipelines(pricer, enumerate_choices(pricer.costs)[0], 1).best[0]


def stage_times(pricer: Pricer, found: Found) -> tuple[Floats, Floats, Floats]:
    """Forward and whole seconds of every stage (collectives and waiting shared out by the kernels of each way), and
    exposed seconds of a transfer over every border, the way back from the last stage to the first at the end."""
    s, i, pp = found.stages, found.i, int(found.choices.pp[found.i])
    at = list(zip(s.pool[i, :pp], s.row[i, :pp], s.kind[i, :pp], found.layers, strict=True))
    whole = np.array([pricer.whole[one] for one in at])
    tables = [(pricer.costs.pools[p].time, (r, kind, n)) for p, r, kind, n in at]
    share = np.array([t.forward_s[k] / (t.forward_s[k] + t.backward_s[k]) for t, k in tables])
    one = found.choices.take(np.array([i]))
    inside, between, wrap = pricer.links(one)
    place = np.repeat(np.arange(one.order.shape[1]), one.stages[0])
    hops = [inside[0, a] if a == b else between[0, a] for a, b in pairwise(place)]
    return whole * share, whole, np.array([*hops, float(wrap[0])])


def simulated_s(
    found: Found, forward: Floats, whole: Floats, hops: Floats, micro_batches: int, blocking: bool = False
) -> float:
    """(Interleaved) 1F1B whose stages deal their work evenly to their chunks."""
    pp, vp = len(whole), int(found.choices.vp[found.i])
    f, b = (np.repeat(x[:, None] / vp, vp, axis=1) for x in (forward, whole - forward))
    schedule = build_schedule("interleaved" if vp > 1 else "1f1b", pp, micro_batches, vp)
    links = hops if pp > 2 else hops[:1]  # two stages have one border, both ways
    return simulate(schedule, PassTimes(f, b, b / 2), links, blocking_sends=blocking).makespan_s


def ratios(problem: MixedProblem) -> dict[str, Any]:
    """One row."""
    pricer, found = top_pipeline(problem)
    c, i = found.choices, found.i
    parts = pricer.parts(c, found.stages, i, np.array(found.layers))
    formula = parts["stage_s"] + parts["bubble_s"] + parts["transfer_s"]
    forward, whole, hops = stage_times(pricer, found)
    beside, blocking = (
        formula / simulated_s(found, forward, whole, hops, int(c.micro_batches[i]), held) for held in (False, True)
    )
    return {
        "layers": list(found.layers),
        "hop": float(hops.max() / whole.max()),
        "beside": beside,
        "blocking": blocking,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rows = [{"example": name, "model": model, **ratios(example(name, model))} for name, model in CASES]
    if args.json:
        print(json.dumps(rows, indent=1))
        return
    print(f"{'example':14s} {'model':14s} {'hop/stage':>9s} {'beside':>7s} {'blocking':>8s}  layers")
    for r in rows:
        layers = "+".join(map(str, r["layers"]))
        print(f"{r['example']:14s} {r['model']:14s} {r['hop']:9.4f} {r['beside']:7.4f} {r['blocking']:8.4f}  {layers}")


if __name__ == "__main__":
    main()
