"""Expert parallelism: who computes which tokens, and the all-to-alls that bring them there and back.

Rank order inside the expert region is etp fastest, then ep. A sequence-parallel rank enters with its own
``tokens / tp`` tokens (with EP and TP, Megatron requires sequence parallelism).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...hardware_profiles.types import Cluster
from ..collectives import collective_time_s, span
from ..model_spec import ModelSpec
from ..software import Software
from ..workload import Workload

#: Passes over the token copies, in elements read or written per hidden element of a copy and direction, that bring
#: them into expert order and back: all-to-all permutes by rank, sorts by expert, sorts back and unpermutes (four
#: kernels, each reads and writes); DeepEP leaves one permutation on each side; HybridEP writes in expert order and
#: only pads (Megatron-LM ``token_dispatcher.py``: ``MoEAlltoAllTokenDispatcher``, ``_DeepepManager``,
#: ``_HybridEPManager``).
_PERMUTE_PASSES = {"alltoall": 8.0, "deepep": 4.0, "hybridep": 2.0}
#: Launches of one pass through router, permutation and dispatch, counted in Megatron-LM's dispatchers.
_DISPATCH_KERNELS = {"alltoall": 45.0, "deepep": 30.0, "hybridep": 25.0}


@dataclass(frozen=True, slots=True)
class ExpertLoad:
    """Work of one expert rank in one sparse layer and micro-batch.

    Attributes:
        entering: tokens of this rank before dispatch; routed: token copies computed here (mean times balance).
        local_experts: experts held; inner: per-rank inner width; copies: of one token.
    """

    entering: Any
    routed: Any
    local_experts: Any
    inner: Any
    copies: float


def expert_load(model: ModelSpec, workload: Workload, tokens: Any, c: Any) -> ExpertLoad:
    """Mean load; capacity-factor dropping caps it, ``workload.balance`` scales the worst rank's."""
    moe = model.moe
    if moe is None:
        raise ValueError("expert_load needs a model with experts")
    entering = tokens / c.tp
    per_token = moe.top_k * (min(1.0, workload.token_drop) if workload.token_drop else workload.balance)
    return ExpertLoad(entering, entering * per_token * c.etp, moe.n_experts / c.ep, moe.ffn_hidden / c.etp, per_token)


def distinct(places: Any, copies: float) -> Any:
    """Expected number of different places among ``places`` equal ones that ``copies`` independent choices hit:
    ``n * (1 - (1 - 1/n)**k)``. Routing to different experts and group-limited routing are left out (a few per
    cent, and up to 30% of the nodes of DeepSeek-V3)."""
    return places * (1.0 - (1.0 - 1.0 / places) ** copies)


def dispatch_s(
    cluster: Cluster, model: ModelSpec, load: ExpertLoad, element_bytes: float, c: Any, dispatcher: str
) -> Any:
    """One dispatch or one combine over ep, then all-gather (or reduce-scatter) over etp.

    ``alltoall``: every copy travels (NCCL all-to-all). ``deepep`` and ``hybridep``: a token crosses the network once
    per node (NVLink domain) and NVLink once per GPU that holds one of its experts, both at once (DeepEP README,
    "normal kernels"; HybridEP likewise). Left out: the start-up of their metadata exchange, SMs taken from compute.
    """
    copies = load.routed / c.etp
    n_bytes = copies * model.hidden * element_bytes
    if dispatcher == "alltoall":
        a2a = collective_time_s(cluster, "all_to_all", n_bytes, c.ep, c.etp)
    else:
        token_bytes = load.entering * model.hidden * element_bytes
        inside = span(cluster, c.ep, c.etp).members[0]
        domains = np.maximum(c.ep / inside, 1.0)
        to_ranks = token_bytes * distinct(c.ep * 1.0, load.copies)
        to_domains = token_bytes * distinct(domains, load.copies)
        local = collective_time_s(cluster, "all_to_all", to_ranks, inside, c.etp)
        across = collective_time_s(cluster, "all_to_all", to_domains, domains.astype(np.int64), c.etp * inside)
        a2a = np.maximum(local, across)
    gather = collective_time_s(cluster, "all_gather", n_bytes * c.etp, c.etp, 1)
    return np.where(c.ep > 1, a2a, 0.0) + np.where(c.etp > 1, gather, 0.0)


def permute_bytes(software: Software, load: ExpertLoad, hidden: int, element_bytes: float, c: Any) -> Any:
    """Bytes that permutation and its reverse move in one forward pass."""
    return _PERMUTE_PASSES[software.moe_dispatcher] * element_bytes * load.routed / c.etp * hidden


def sparse_host_s(model: ModelSpec, workload: Workload, software: Software, c: Any) -> tuple[Any, Any, Any]:
    """Host time of router, dispatch and experts of one sparse layer, forward and backward, and how long a forward
    pass of it stalls the device.

    Launches of router and dispatcher, and per local expert the Python and launch work of the grouped linears
    (Transformer Engine loops over experts: quantisers, scale swizzles, one cuBLAS call each for output, input
    gradient and weight gradient; twice the work under FP8 recipes). Dropless routing brings token counts to the host
    in the middle of every forward (Megatron-LM ``token_dispatcher.py``, ``cuda_sync_point``): nothing is queued
    behind that point, so the device waits until the host has allocated buffers and launched the experts. Token
    dropping with padding has fixed shapes, and graphs of the whole step no host at all: neither stalls.
    """
    moe = model.moe
    if moe is None or software.cuda_graphs:
        return 0.0 * c.ep, 0.0 * c.ep, 0.0 * c.ep
    kernels = _DISPATCH_KERNELS[software.moe_dispatcher] - (15.0 if "router" in software.graphed else 0.0)
    loops = (1.0 if software.moe_fused_mlp else moe.n_experts / c.ep) * (2.0 if workload.quantised else 1.0)
    experts = loops * software.coefficient("expert_s")
    wait = 0.0 if workload.token_drop else software.coefficient("dispatch_host_s")
    both = 1.0 + (software.coefficient("ep_overlap_host") if software.moe_overlap else 0.0)
    one = both * (kernels * software.coefficient("launch_s") + experts)
    stall = 0.0 * one if workload.token_drop else wait + experts + 0.0 * one
    return one + both * wait, 2.0 * one, stall
