"""What no placement can beat: a bound per term from the links that every node would at best use.

Three arguments, each of which lets every slot choose its nodes alone:

- Assignment (Gilmore, SIAM J. Appl. Math. 10 (1962); Lawler, Management Science 9 (1963)): a slot on node i pays at
  least its bytes, largest first, times the costs of i, cheapest first; every edge is paid half by each end. Gilmore
  and Lawler then solve an assignment; here the cheaper side of its two relaxations is taken. A maximum over rows is
  at least their mean.
- Degree: where every edge is a row of its own (rings), each used node needs as many links at or below the maximum as
  its slot has neighbours.
- Components: the links at or below the maximum must hold every ring in one connected piece.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .placement import Floats, PlacementProblem


def lower_bound(problem: PlacementProblem) -> float:
    """Seconds that every placement takes at least, in the objective in force."""
    if not len(problem.edges):
        return 0.0
    cheapest = np.minimum(problem.cost, problem.cost.T)
    if problem.objective == "sum":
        return _assignment(problem, np.arange(len(problem.edges)), cheapest)
    term_of_edge = problem.term_of_row[problem.row_of_edge]
    total = 0.0
    for term in range(len(problem.terms)):
        edges = np.flatnonzero(term_of_edge == term)
        rows = int((problem.term_of_row == term).sum())
        best = _assignment(problem, edges, cheapest) / rows
        if rows == len(edges):
            best = max(best, _bottleneck(problem, edges, cheapest))
        total += best
    return total


def _assignment(problem: PlacementProblem, edges: NDArray[np.int64], cheapest: Floats) -> float:
    """Least sum of bytes times cost over these edges if every slot chose its neighbours' nodes alone."""
    n, m = problem.n_slots, problem.n_nodes
    flow = np.zeros((n, n))
    u, v = problem.edges[edges].T
    np.add.at(flow, (u, v), problem.n_bytes[edges])
    flow += flow.T
    busiest = -np.sort(-flow, axis=1)[:, : m - 1]  # (n, <= m - 1), largest first
    nearest = np.sort(cheapest + np.where(np.eye(m, dtype=bool), np.inf, 0.0), axis=1)[:, : busiest.shape[1]]
    nearest = np.where(np.isfinite(nearest), nearest, 0.0)
    share = 0.5 * busiest @ nearest.T  # (n, m): slot s on node i
    by_slot = share.min(axis=1).sum()
    by_node = np.sort(share.min(axis=0))[:n].sum()
    return float(max(by_slot, by_node))


def _bottleneck(problem: PlacementProblem, edges: NDArray[np.int64], cheapest: Floats) -> float:
    """Least maximum of bytes times cost over these edges, each a row of its own."""
    m = problem.n_nodes
    least = float(problem.n_bytes[edges].min())
    pairs = np.unique(np.sort(problem.edges[edges], axis=1), axis=0)
    slots, degree = np.unique(pairs, return_counts=True)
    order = np.sort(cheapest + np.where(np.eye(m, dtype=bool), np.inf, 0.0), axis=1)
    reach = np.sort(order[:, int(degree.min()) - 1])[len(slots) - 1]  # so many nodes must have that many links
    sizes = np.bincount(_pieces(pairs, problem.n_slots)[slots])
    sizes = sizes[sizes > 0]
    if (sizes == sizes[0]).all():
        reach = max(reach, _least_connected(cheapest, int(sizes[0]), len(sizes)))
    return float(reach * least)


def _least_connected(cheapest: Floats, size: int, count: int) -> float:
    """Smallest cost whose links hold ``count`` groups of ``size`` nodes, each within one connected piece."""
    m = len(cheapest)
    levels = np.unique(cheapest[~np.eye(m, dtype=bool)])
    low, high = 0, len(levels) - 1
    while low < high:
        middle = (low + high) // 2
        pairs = np.argwhere(np.triu(cheapest <= levels[middle], 1))
        if (np.bincount(_pieces(pairs, m)) // size).sum() >= count:
            high = middle
        else:
            low = middle + 1
    return float(levels[low])


def _pieces(pairs: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Label of the connected piece of each of n vertices."""
    label = np.arange(n)
    while len(pairs):
        low = np.minimum(label[pairs[:, 0]], label[pairs[:, 1]])
        before = label.copy()
        np.minimum.at(label, pairs[:, 0], low)
        np.minimum.at(label, pairs[:, 1], low)
        label = label[label]
        if (label == before).all():
            break
    return label
