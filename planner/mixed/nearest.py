"""Of pipelines that do not fit: the one that comes nearest, for the message."""

from __future__ import annotations

import numpy as np

from ...costmodels.parallel import recompute_label
from .pipelines import CHUNK
from .price import Pricer
from .space import Choices


def nearest_pipeline(pricer: Pricer, choices: Choices) -> str:
    """The choice whose memory holds most layers, in words (empty where there is no choice)."""
    best: tuple[int, str] = (-1, "")
    costs = pricer.costs
    names = costs.problem.cluster.names
    for at in range(0, len(choices), CHUNK):
        some = choices.take(np.arange(at, min(at + CHUNK, len(choices))))
        stages = pricer.stages(some)
        held = stages.most.sum(axis=1) * some.vp
        i = int(np.argmax(held))
        if held[i] > best[0]:
            row = int(some.row[i, 0])
            used = [int(j) for j in some.order[i] if j >= 0]
            where = " then ".join(
                f"{names[j]} ({int(some.stages[i, n])} stages of tp{int(costs.rows.tp[some.row[i, n]])})"
                for n, j in enumerate(used)
            )
            words = (
                f"the nearest is a pipeline over {where} with cp{int(costs.rows.cp[row])}, dp{int(some.dp[i])}, "
                f"micro-batch {int(costs.rows.micro_batch_size[row])} and recompute "
                f"{recompute_label(int(costs.rows.recompute[row]))}, whose memory holds {int(held[i])} of "
                f"{pricer.layers} layers"
            )
            best = (int(held[i]), words)
    return best[1]
