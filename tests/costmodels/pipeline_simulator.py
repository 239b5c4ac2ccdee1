"""A small event simulator of pipeline schedules: the oracle of the closed forms in ``costmodels.schedule``.

Each rank executes a fixed order of forward and backward passes (Megatron's 1F1B and interleaved 1F1B); a pass starts
when its rank is free and its input has arrived. No communication time.
"""

from __future__ import annotations


def one_f_one_b_order(stage: int, pp: int, m: int) -> list[tuple[str, int, int]]:
    """(kind, micro-batch, chunk) of one rank: warm-up forwards, steady one-forward-one-backward, drain."""
    warm = min(pp - stage - 1, m)
    order: list[tuple[str, int, int]] = [("F", i, 0) for i in range(warm)]
    for i in range(m - warm):
        order += [("F", warm + i, 0), ("B", i, 0)]
    order += [("B", i, 0) for i in range(m - warm, m)]
    return order


def interleaved_order(stage: int, pp: int, m: int, vp: int) -> list[tuple[str, int, int]]:
    """Megatron's interleaved order: groups of pp micro-batches visit chunk after chunk."""
    total = m * vp

    def forward(k: int) -> tuple[str, int, int]:
        group, inside = divmod(k, pp * vp)
        chunk, i = divmod(inside, pp)
        return ("F", group * pp + i, chunk)

    def backward(k: int) -> tuple[str, int, int]:
        group, inside = divmod(k, pp * vp)
        chunk, i = divmod(inside, pp)
        return ("B", group * pp + i, vp - 1 - chunk)

    warm = min((pp - stage - 1) * 2 + (vp - 1) * pp, total)
    order = [forward(k) for k in range(warm)]
    for k in range(total - warm):
        order += [forward(warm + k), backward(k)]
    order += [backward(k) for k in range(total - warm, total)]
    return order


def gpipe_order(m: int) -> list[tuple[str, int, int]]:
    return [("F", i, 0) for i in range(m)] + [("B", i, 0) for i in range(m)]


def simulate(
    orders: list[list[tuple[str, int, int]]], forward: list[float], backward: list[float], vp: int = 1
) -> tuple[float, list[int]]:
    """Makespan, and per rank the most chunk activations held at once.

    ``forward[s]``, ``backward[s]``: seconds of one chunk on rank s.
    """
    pp = len(orders)
    done: dict[tuple[str, int, int, int], float] = {}
    clock = [0.0] * pp
    at = [0] * pp
    held, peak = [0] * pp, [0] * pp
    while any(at[s] < len(orders[s]) for s in range(pp)):
        moved = False
        for s in range(pp):
            while at[s] < len(orders[s]):
                kind, i, chunk = orders[s][at[s]]
                need = _input_of(kind, i, chunk, s, pp, vp)
                if need is not None and need not in done:
                    break
                start = max(clock[s], done[need] if need is not None else 0.0)
                clock[s] = start + (forward[s] if kind == "F" else backward[s])
                done[(kind, i, chunk, s)] = clock[s]
                held[s] += 1 if kind == "F" else -1
                peak[s] = max(peak[s], held[s])
                at[s] += 1
                moved = True
        if not moved:
            raise RuntimeError("schedule deadlocks")
    return max(clock), peak


def _input_of(kind: str, i: int, chunk: int, s: int, pp: int, vp: int) -> tuple[str, int, int, int] | None:
    if kind == "F":
        if s > 0:
            return ("F", i, chunk, s - 1)
        return ("F", i, chunk - 1, pp - 1) if chunk > 0 else None
    if s < pp - 1:
        return ("B", i, chunk, s + 1)
    return ("B", i, chunk + 1, 0) if chunk < vp - 1 else ("F", i, chunk, s)
