"""Ulysses sequence parallelism: heads and sequence change places by all-to-all (arXiv 2309.14509)."""

from __future__ import annotations

from typing import Any

from ...hardware_profiles.types import Cluster
from ..collectives import collective_time_s
from ..model_spec import ModelSpec


def ulysses_s(cluster: Cluster, model: ModelSpec, tokens: Any, element_bytes: float, c: Any) -> Any:
    """All-to-alls of one layer's forward: queries, keys, values in, attention output back (backward: the same).

    ``tokens``: tokens per rank. Groups of ``cp`` ranks with stride ``tp``.
    """
    a = model.attention
    into = tokens * (a.n_heads * a.head_dim + a.n_kv_heads * (a.head_dim + a.v_head_dim)) / c.tp * element_bytes
    back = tokens * a.n_heads * a.v_head_dim / c.tp * element_bytes
    return collective_time_s(cluster, "all_to_all", into, c.cp, c.tp) + collective_time_s(
        cluster, "all_to_all", back, c.cp, c.tp
    )
