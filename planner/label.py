"""Short text of a configuration, for messages and tables."""

from __future__ import annotations

from ..costmodels.parallel import CpComm, ParallelConfig, Schedule, VocabParallel, recompute_label

_SCHEDULES = {Schedule.GPIPE: "gpipe", Schedule.ZERO_BUBBLE_H1: "zb-h1", Schedule.ZERO_BUBBLE_V: "zb-v"}
_CP_COMM = {CpComm.ALL_GATHER: "all-gather", CpComm.ULYSSES: "ulysses"}


def config_label(c: ParallelConfig) -> str:
    """``tp8 cp1 pp4(vp5) dp2 mbs1 zero1 full/3``: degrees, then what differs from the plain choice."""
    words = [f"tp{c.tp}"]
    if c.cp > 1:
        words.append(f"cp{c.cp}" + (f"({_CP_COMM[CpComm(c.cp_comm)]})" if c.cp_comm in _CP_COMM else ""))
    words.append(f"pp{c.pp}" + (f"(vp{c.vp})" if c.vp > 1 else ""))
    words.append(f"dp{c.dp}")
    if c.ep > 1 or c.etp > 1:
        words.append(f"ep{c.ep}" + (f"(etp{c.etp})" if c.etp > 1 else ""))
    if c.schedule in _SCHEDULES:
        words.append(_SCHEDULES[Schedule(c.schedule)])
    if c.vocab_parallel:
        words.append("vocab-" + VocabParallel(c.vocab_parallel).name.lower().replace("_", "-"))
    words.append(f"mbs{c.micro_batch_size}")
    words.append(f"zero{c.zero_stage}" + (f"/{c.dp_shard}" if c.zero_stage and c.dp_shard != c.dp * c.cp else ""))
    words += [f"hpz{c.hpz}"] * (c.hpz > 1) + ["qw"] * bool(c.quantized_weights) + ["qg"] * bool(c.quantized_gradients)
    if c.recompute:
        words.append(recompute_label(c.recompute, c.recompute_layers))
    if c.optimizer_offload:
        words.append("offload")
    return " ".join(words)


def value_label(field: str, value: int) -> str:
    """``pp=4``, and names for the coded fields: ``schedule=zb-v``, ``recompute=norm+act``."""
    if field == "schedule":
        return f"schedule={_SCHEDULES.get(Schedule(value), '1f1b')}"
    if field == "cp_comm":
        return f"cp_comm={_CP_COMM.get(CpComm(value), 'ring')}"
    return f"recompute={recompute_label(value)}" if field == "recompute" else f"{field}={value}"


def gigabytes(n_bytes: float) -> str:
    """``71.4 GB`` (10^9 bytes)."""
    return f"{n_bytes / 1e9:.1f} GB"
