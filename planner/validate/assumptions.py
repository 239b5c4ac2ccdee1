"""Empty cells of a measured run, resolved by one order.

1. What the row, or its source outside the table, states.
2. What follows by arithmetic (dp from the GPU count).
3. What the framework release does by default (``software/*.yaml``).
4. The fastest setting that is predicted to fit, over every value that the framework's rules allow.

A row with anything from 3 or 4 is ``assumed``; each kind of assumption widens its interval
(``costmodels/software/residuals.yaml``).
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np

from ...costmodels.candidates import CandidateTable
from ...costmodels.framework_rules import FRAMEWORKS
from ...costmodels.interval import Z90
from ...costmodels.parallel import CONFIG_FIELDS, ParallelConfig, Recompute, recompute_label
from ...costmodels.residuals import shipped_residuals
from ...costmodels.rules import violations
from .row_problem import RowProblem, layer_split

#: A setting counts as fitting when this probable; a run that was published did fit.
FIT_PROBABILITY = 0.5
_SEARCHED = ("tp", "cp", "pp", "dp", "ep", "vp", "micro_batch_size", "recompute", "recompute_layers")
_MAX_MICRO_BATCH = 16
_MAX_TP_NODES = 1


def resolve_defaults(row: RowProblem) -> tuple[dict[str, int], list[str]]:
    """Steps 1 to 3: the fields that are settled, and which fields are left to the search.

    Returns:
        ``(fixed, open_fields)``; every default that decides something is noted on the row.
    """
    fixed = dict(row.known)
    for name, value in row.defaults.items():
        if name not in fixed and name not in ("tp", "pp", "cp"):
            fixed[name] = value
    open_fields = []
    if "tp" not in fixed or "pp" not in fixed:
        open_fields.append("layout")
        for name in ("tp", "pp", "cp", "dp"):
            fixed.pop(name, None)
        fixed.update({k: v for k, v in row.known.items() if k in ("tp", "pp", "cp")})
        fixed.pop("layer_split", None)
    if "micro_batch_size" not in fixed:
        open_fields.append("micro_batch_size")
    if "recompute" not in fixed:
        open_fields.append("recompute")
    if row.model.moe is not None and "ep" not in row.known:
        open_fields.append("ep")
    if "interleaved schedule" in row.run.text("notes") and "vp" not in row.known:
        open_fields.append("vp")
    _note_defaults(row, fixed)
    return fixed, open_fields


def _note_defaults(row: RowProblem, fixed: dict[str, int]) -> None:
    """Say which defaults filled a cell that matters: SP only with tp > 1, ZeRO only with dp > 1, vp with pp > 1."""
    known = row.known
    matters = {
        "sequence_parallel": fixed.get("tp", 2) > 1,
        "zero_stage": fixed.get("dp", 2) * fixed.get("cp", 1) > 1 and row.workload.task != "lora",
        "vp": fixed.get("pp", 2) > 1,
    }
    era = row.era.software.name
    for name, counts in matters.items():
        if counts and name not in known and name in fixed:
            row.assume("default", f"{name}={fixed[name]} ({era})")
    if "recompute" not in known and "recompute" in fixed:
        label = recompute_label(fixed["recompute"], fixed.get("recompute_layers", 0))
        row.assume("recompute", f"recompute {label} (recipe of {era})")


def expand(row: RowProblem) -> CandidateTable:
    """Step 4: every setting of the open fields that the framework's rules allow (one row if nothing is open)."""
    fixed, open_fields = resolve_defaults(row)
    if not open_fields:
        return CandidateTable.from_configs([ParallelConfig(**_checked(fixed, row))])
    rows: list[dict[str, int]] = []
    for layout in _layouts(row, fixed, open_fields):
        base = {**fixed, **layout}
        options = [_micro_batches(row, base, open_fields), _recomputes(row, base, open_fields)]
        options += [_experts(row, base, open_fields), _chunks(row, base, open_fields)]
        for combination in product(*options):
            merged = dict(base)
            for part in combination:
                merged.update(part)
            merged.setdefault("layer_split", layer_split(row.model.n_layers, merged["pp"] * merged.get("vp", 1)))
            rows.append(_checked(merged, row))
    table = CandidateTable({name: np.array([r.get(name, _default(name)) for r in rows]) for name in CONFIG_FIELDS})
    return _obeying(row, table)


def _default(name: str) -> int:
    return int(getattr(ParallelConfig(), name)) if name != "dp_shard" else 0


def _checked(fields: dict[str, int], row: RowProblem) -> dict[str, int]:
    """Fill dp and bring dependent fields into range (a sharding group cannot exceed dp*cp)."""
    out = dict(fields)
    out.setdefault("cp", 1)
    out.setdefault("dp", max(1, row.n_gpus // (out["tp"] * out["pp"] * out["cp"])))
    group = out["dp"] * out["cp"]
    if out.get("dp_shard", 0) > group or out.get("zero_stage", 1) == 0:
        out["dp_shard"] = group
    if out["tp"] == 1:
        out["tp_overlap"] = 0
    if out.get("sequence_parallel", 0) == 0:
        out["tp_overlap"] = 0
    return {k: int(v) for k, v in out.items() if k in CONFIG_FIELDS}


def _powers(limit: int) -> list[int]:
    return [2**k for k in range(limit.bit_length()) if 2**k <= limit]


def _layouts(row: RowProblem, fixed: dict[str, int], open_fields: list[str]) -> list[dict[str, int]]:
    if "layout" not in open_fields:
        return [{}]
    n, per_node = row.n_gpus, row.cluster.gpus_per_node
    tps = [fixed["tp"]] if "tp" in fixed else [t for t in _powers(per_node) if n % t == 0]
    pps = [fixed["pp"]] if "pp" in fixed else [p for p in range(1, min(n, row.model.n_layers) + 1) if n % p == 0]
    cps = [fixed["cp"]] if "cp" in fixed else _powers(min(n, max(1, row.workload.seq_len // 4096)))
    out = []
    for tp, pp, cp in product(tps, pps, cps):
        if n % (tp * pp * cp) == 0 and row.workload.global_batch >= n // (tp * pp * cp):
            out.append({"tp": tp, "pp": pp, "cp": cp, "dp": n // (tp * pp * cp)})
    return out or [{"tp": 1, "pp": 1, "cp": 1, "dp": n}]


def _micro_batches(row: RowProblem, base: dict[str, int], open_fields: list[str]) -> list[dict[str, int]]:
    if "micro_batch_size" not in open_fields:
        return [{}]
    dp = base.get("dp") or max(1, row.n_gpus // (base["tp"] * base["pp"] * base.get("cp", 1)))
    most = max(1, min(_MAX_MICRO_BATCH, row.workload.global_batch // dp))
    fitting = [m for m in _powers(most) if row.workload.global_batch % (m * dp) == 0]
    return [{"micro_batch_size": m} for m in fitting or [1]]


def _recomputes(row: RowProblem, base: dict[str, int], open_fields: list[str]) -> list[dict[str, int]]:
    """None, selective by what the era stores needlessly, and full on a growing share of a stage's layers."""
    if "recompute" not in open_fields:
        return [{}]
    out = [{"recompute": int(Recompute.NONE), "recompute_layers": 0}]
    light = Recompute.CORE_ATTENTION if row.software.attention == "unfused" else Recompute.NORM
    out.append({"recompute": int(light), "recompute_layers": 0})
    wide = Recompute.NORM | Recompute.FFN_ACTIVATION
    out.append({"recompute": int(wide), "recompute_layers": 0})
    if row.model.attention.kind == "mla":
        out.append({"recompute": int(wide | Recompute.MLA_UP_PROJECTION), "recompute_layers": 0})
        out.append({"recompute": int(wide | Recompute.MLA_UP_PROJECTION | Recompute.FFN), "recompute_layers": 0})
    stage = -(-row.model.n_layers // base["pp"])
    for eighths in (1, 2, 3, 4, 6, 8):
        layers = -(-stage * eighths // 8)
        out.append({"recompute": int(Recompute.FULL), "recompute_layers": 0 if eighths == 8 else layers})
    return out


def _experts(row: RowProblem, base: dict[str, int], open_fields: list[str]) -> list[dict[str, int]]:
    if "ep" not in open_fields or row.model.moe is None:
        return [{}]
    ranks = row.n_gpus // base["pp"]
    return [{"ep": e} for e in _powers(min(ranks, row.model.moe.n_experts)) if ranks % e == 0]


def _chunks(row: RowProblem, base: dict[str, int], open_fields: list[str]) -> list[dict[str, int]]:
    if "vp" not in open_fields or base["pp"] == 1:
        return [{}]
    per_stage = row.model.n_layers // base["pp"]
    found = [v for v in range(2, per_stage + 1) if row.model.n_layers % (base["pp"] * v) == 0]
    return [{"vp": v, "layer_split": layer_split(row.model.n_layers, base["pp"] * v)} for v in found or [1]]


def _obeying(row: RowProblem, table: CandidateTable) -> CandidateTable:
    """Candidates that break no rule; a rule that every candidate breaks is broken by what the row states."""
    framework = row.software.framework if row.software.framework in FRAMEWORKS else "any"
    masks = violations(row.model, row.workload, row.cluster, framework, table, placement=True)
    bad = np.zeros(len(table), dtype=bool)
    for mask in masks.values():
        if not bool(np.all(mask | bad)):
            bad |= np.asarray(mask)
    return table.take(~bad)


def note_choice(row: RowProblem, chosen: ParallelConfig, n_candidates: int) -> None:
    """Say which searched values were taken (after the choice)."""
    if n_candidates <= 1:
        return
    c, run = chosen, row.run
    if not (run.text("tp") and run.text("pp")):
        row.assume("layout", f"tp={c.tp} pp={c.pp} cp={c.cp} dp={c.dp} (fastest predicted to fit)")
    if "micro_batch_size" not in row.known:
        row.assume("micro_batch", f"micro-batch {c.micro_batch_size} (fastest predicted to fit)")
    if "recompute" not in row.known and "recompute" not in row.defaults:
        label = recompute_label(c.recompute, c.recompute_layers)
        row.assume("recompute", f"recompute {label} (fastest predicted to fit)")
    if row.model.moe is not None and "ep" not in row.known:
        row.assume("layout", f"ep={c.ep} (fastest predicted to fit)")
    if "interleaved schedule" in run.text("notes") and c.pp > 1:
        row.assume("layout", f"vp={c.vp} (fastest predicted to fit)")


def extra_sigma(row: RowProblem) -> float:
    """Standard deviation that a row's assumptions add to log(step time), kinds taken as independent."""
    assumed = shipped_residuals().assumed
    return float(np.sqrt(sum(assumed[kind] ** 2 for kind in row.assumed))) / Z90


def best_fitting(step_s: Any, p_fit: Any, peak_bytes: Any) -> int:
    """Index of the fastest candidate that fits, or of the one with the smallest peak if none does."""
    fits = np.asarray(p_fit) >= FIT_PROBABILITY
    if fits.any():
        return int(np.argmin(np.where(fits, step_s, np.inf)))
    return int(np.argmin(peak_bytes))
