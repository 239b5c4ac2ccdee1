"""Expert parallelism: who computes which tokens, and the all-to-alls that bring them there and back.

Rank order inside the expert region is etp fastest, then ep. A sequence-parallel rank enters with its own
``tokens / tp`` tokens (with EP and TP, Megatron requires sequence parallelism).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...hardware_profiles.types import Cluster
from ..collectives import collective_time_s
from ..model_spec import ModelSpec
from ..workload import Workload


@dataclass(frozen=True, slots=True)
class ExpertLoad:
    """Work of one expert rank in one sparse layer and micro-batch.

    Attributes:
        entering: tokens of this rank before dispatch; routed: token copies computed here (mean times balance).
        local_experts: experts held; inner: per-rank inner width.
    """

    entering: Any
    routed: Any
    local_experts: Any
    inner: Any


def expert_load(model: ModelSpec, workload: Workload, tokens: Any, c: Any) -> ExpertLoad:
    """Mean load; capacity-factor dropping caps it, ``workload.balance`` scales the worst rank's."""
    moe = model.moe
    if moe is None:
        raise ValueError("expert_load needs a model with experts")
    entering = tokens / c.tp
    per_token = moe.top_k * (min(1.0, workload.token_drop) if workload.token_drop else workload.balance)
    return ExpertLoad(entering, entering * per_token * c.etp, moe.n_experts / c.ep, moe.ffn_hidden / c.etp)


def dispatch_s(cluster: Cluster, model: ModelSpec, load: ExpertLoad, element_bytes: float, c: Any) -> Any:
    """One dispatch or one combine: all-to-all over ep, then all-gather (or reduce-scatter) over etp.

    Bytes sent per rank: its token copies times hidden. Leaves out the saving of kernels that send a token once per
    node (DeepEP).
    """
    copies = load.routed / c.etp
    n_bytes = copies * model.hidden * element_bytes
    a2a = collective_time_s(cluster, "all_to_all", n_bytes, c.ep, c.etp)
    gather = collective_time_s(cluster, "all_gather", n_bytes * c.etp, c.etp, 1)
    return np.where(c.ep > 1, a2a, 0.0) + np.where(c.etp > 1, gather, 0.0)
