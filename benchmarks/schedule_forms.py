"""Where the closed forms of ``estimate`` leave the event simulator: slow links, unequal chunks, unequal passes.

``python benchmarks/schedule_forms.py`` needs no data. Stages take t = 3 (forward 1, backward 2) unless a line says
otherwise; c is one transfer. "estimate" is its form with every transfer shown (``p2p_exposed`` = 1; fitted: about 0.95,
interleaved about 0.21), in per cent of the simulated span.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

from meshwright.costmodels.parallel import ParallelConfig, Schedule  # noqa: E402
from meshwright.costmodels.schedule import bubble_s, one_f_one_b_period_s, one_f_one_b_span_bound_s  # noqa: E402
from meshwright.costmodels.schedules import PassTimes, build_schedule, simulate  # noqa: E402
from meshwright.costmodels.schedules.chunk_waiting import waiting_share  # noqa: E402


def slow_links() -> None:
    """1F1B with equal links, and with one slow link."""
    print("1F1B, all links alike: share of 2 c (m + p - 1) that the simulator shows")
    for p, m in ((4, 16), (8, 32), (16, 64), (32, 128)):
        for share in (0.1, 0.5):
            c = 3.0 * share
            plain, beside, blocking = (
                simulate(build_schedule("1f1b", p, m), PassTimes(1.0, 2.0), hop, blocking_sends=blocks).makespan_s
                for hop, blocks in ((0.0, False), (c, False), (c, True))
            )
            whole = 2.0 * c * (m + p - 1)
            print(
                f"  p {p:2d} m {m:3d} c = {share:.1f} t: span {plain:.1f} -> {beside:.1f}, "
                f"shown {(beside - plain) / whole:.2f}, blocking sends {(blocking - plain) / whole:.2f}"
            )
    print("1F1B, one link of c = 0.5 t, the others free")
    for p, m in ((8, 64), (16, 64)):
        for where in (0, p // 2, p - 2):
            links = np.zeros(p - 1)
            links[where] = 1.5
            span = simulate(build_schedule("1f1b", p, m), PassTimes(1.0, 2.0), links).makespan_s
            bound = one_f_one_b_span_bound_s(np.full(p, 3.0), links, m)
            form = (m + p - 1) * (3.0 + 3.0)
            period = one_f_one_b_period_s(np.full(p, 3.0), links)
            print(
                f"  p {p:2d} m {m}, link {where:2d}: span {span:.1f}, bound {bound / span - 1:+.1%}, "
                f"period {period:.3f}, estimate with that link everywhere {form / span - 1:+.1%}"
            )


def span_bound() -> None:
    """How far above the simulator the bound of 1F1B with any stages and links lies."""
    rng, gaps = np.random.default_rng(0), []
    for _ in range(2000):
        p, m = int(rng.integers(1, 9)), int(rng.integers(1, 40))
        f, b = rng.uniform(0.5, 2.0, p), rng.uniform(0.5, 4.0, p)
        links = rng.uniform(0.0, 2.0, p - 1) * rng.choice([0, 1, 3])
        span = simulate(build_schedule("1f1b", p, m), PassTimes(f, b), links).makespan_s
        gaps.append(one_f_one_b_span_bound_s(f + b, links, m) / span - 1.0)
    print("1F1B, p to 8, m to 39, F 0.5 to 2, B 0.5 to 4, links 0 to 6 at random (2000 draws)")
    print(f"  bound over span: {min(gaps):+.1%} to {max(gaps):+.1%}, on average {np.mean(gaps):+.1%}")


def interleaved() -> None:
    """Interleaving: transfers and unequal chunks."""
    print("interleaved, all links alike: share of 2 c v (m + (p - 1)/v) that the simulator shows")
    for p, v, m in ((4, 2, 16), (8, 2, 32), (8, 4, 32)):
        c = 0.05 * 3.0 / v
        spans = [
            simulate(build_schedule("interleaved", p, m, v), PassTimes(1 / v, 2 / v), hop).makespan_s for hop in (0, c)
        ]
        print(f"  p {p} v {v} m {m}: {(spans[1] - spans[0]) / (2 * c * v * (m + (p - 1) / v)):.2f}")
    print("interleaved, 1 to 3 layers a chunk at random (50 draws), and a head of 1.5 layers on 2 a chunk")
    rng = np.random.default_rng(0)
    for p, v, m in ((4, 2, 16), (8, 2, 32), (8, 4, 32), (16, 2, 64)):
        gaps = [_chunk_gap(p, v, m, rng.integers(1, 4, size=(p, v)).astype(float)) for _ in range(50)]
        head = np.full((p, v), 2.0)
        head[-1, -1] += 1.5
        print(
            f"  p {p:2d} v {v} m {m}: estimate {np.mean(gaps):+.1%} on average, {min(gaps):+.1%} to {max(gaps):+.1%}; "
            f"head on the last chunk {_chunk_gap(p, v, m, head):+.1%}"
        )


def _chunk_gap(p: int, v: int, m: int, layers: np.ndarray) -> float:
    span = simulate(build_schedule("interleaved", p, m, v), PassTimes(layers, 2.0 * layers)).makespan_s
    stage = 3.0 * layers.sum(axis=1)
    bubble = float(bubble_s(ParallelConfig(pp=p, vp=v), stage.sum(), stage.max(), 1 / 3))
    waiting = waiting_share(tuple(map(tuple, layers.T.tolist())))
    return float(m * stage.max() * (1.0 + waiting) + bubble) / span - 1.0


def zero_bubble() -> None:
    """ZB-H1, ZB-V and DualPipe with unequal passes: bubble of the simulator, and of ``estimate``."""
    print("p = 8, m = 32: bubble of the simulator and of estimate, F, B, W in turn")
    for f, b, w in ((1.0, 1.0, 1.0), (1.0, 1.2, 0.8), (1.0, 0.8, 1.2), (1.0, 1.5, 0.5), (1.0, 1.4, 1.4)):
        cells = []
        for name, code in (("zb-h1", Schedule.ZERO_BUBBLE_H1), ("zb-v", Schedule.ZERO_BUBBLE_V), ("dualpipe", None)):
            half = 0.5 if name == "zb-v" else 1.0
            schedule = build_schedule(name, 8, 32, costs=(f, b, w))
            times = PassTimes(half * f, half * (b + w), half * w)
            bubble = simulate(schedule, times).makespan_s - 32 * (f + b + w)
            text = f"{name} {bubble:5.2f}"
            if code is not None:
                t = f + b + w
                form = float(bubble_s(ParallelConfig(pp=8, schedule=code), 8 * t, t, f / t))
                text += f" ({form:5.2f})"
            cells.append(text)
        print(f"  {f} {b} {w}: " + ", ".join(cells))


if __name__ == "__main__":
    slow_links()
    span_bound()
    interleaved()
    zero_bubble()
