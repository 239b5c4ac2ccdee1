"""Placement problems for tests: grids of rings and pipelines on noisy racks, and random ones of every shape."""

import numpy as np

from meshwright.planner.solvers.placement import PlacementProblem


def noisy_racks(n, seed, *, rack=4, sigma=0.2, slow=0.1, directed=False):
    """Seconds per byte between nodes in racks: 50 GB/s inside, 12.5 GB/s between, lognormal noise, some at half."""
    draw = np.random.default_rng(seed)
    racks = np.arange(n) // rack
    rate = np.where(np.equal.outer(racks, racks), 50e9, 12.5e9)
    noise = draw.normal(0.0, sigma, (n, n))
    if not directed:
        noise = np.triu(noise, 1) + np.triu(noise, 1).T
    factor = np.where(draw.random(n) < slow, 0.5, 1.0)
    cost = 1.0 / (rate * np.exp(noise) * np.minimum.outer(factor, factor))
    np.fill_diagonal(cost, 0.0)
    return cost


def grid(cost, stages, replicas, *, objective="critical", dp_bytes=4e9, pp_bytes=8e9):
    """``stages`` rings of ``replicas`` slots each and ``replicas`` pipelines across them."""
    edges, n_bytes, rows, terms, names = [], [], [], [], []
    if replicas > 1:
        names.append("dp")
        terms.append(0)
        for s in range(stages):
            for d in range(replicas):
                rows.append(len(edges))
                edges.append((s * replicas + d, s * replicas + (d + 1) % replicas))
                n_bytes.append(dp_bytes)
    if stages > 1:
        names.append("pp")
        terms.append(len(rows))
        for d in range(replicas):
            rows.append(len(edges))
            for s in range(stages - 1):
                edges.append((s * replicas + d, (s + 1) * replicas + d))
                n_bytes.append(pp_bytes / (stages - 1))
    return PlacementProblem(
        n_slots=stages * replicas,
        cost=cost,
        edges=np.array(edges, np.int64).reshape(-1, 2),
        n_bytes=np.array(n_bytes, float),
        row_starts=np.array(rows, np.int64),
        term_starts=np.array(terms, np.int64),
        terms=tuple(names),
        objective=objective,
    )


def random_problem(seed, *, n_slots, n_nodes, objective):
    """Edges, rows and terms at random; directed costs."""
    draw = np.random.default_rng(seed)
    count = int(draw.integers(1, 2 * n_slots + 1))
    u = draw.integers(0, n_slots, count)
    edges = np.stack([u, (u + draw.integers(1, n_slots, count)) % n_slots], axis=1)
    cost = draw.integers(1, 9, (n_nodes, n_nodes)) / 1e9
    np.fill_diagonal(cost, 0.0)
    rows = np.flatnonzero(np.concatenate([[True], draw.random(count - 1) < 0.6]))
    terms = np.flatnonzero(np.concatenate([[True], draw.random(len(rows) - 1) < 0.3]))
    return PlacementProblem(
        n_slots=n_slots,
        cost=cost,
        edges=edges,
        n_bytes=draw.integers(1, 6, count) * 1e8,
        row_starts=rows,
        term_starts=terms,
        terms=tuple(f"t{i}" for i in range(len(terms))),
        objective=objective,
    )
