"""A plan as cells of a table of runs: what ``row_problem`` reads back as the same plan."""

from __future__ import annotations

from ...costmodels.model_spec import ModelSpec
from ...costmodels.parallel import CONFIG_FIELDS, ParallelConfig, recompute_label
from ...costmodels.workload import Workload

#: columns of the table that ``--rows`` writes; docs/backtest.md says what each means.
COLUMNS = (
    "source_id", "framework", "year", "task", "outcome", "gpu", "gpus_per_node", "n_gpus", "model_name", "n_layers",
    "hidden", "n_heads", "n_kv_heads", "ffn_hidden", "vocab", "n_experts", "top_k", "moe_ffn_hidden", "n_moe_layers",
    "seq_len", "global_batch_sequences", "micro_batch", "tp", "sp", "pp", "vp", "cp", "ep", "dp", "zero_stage_or_fsdp",
    "recompute", "precision", "optimizer", "step_time_s", "peak_memory_gb", "tps_gpu_effective", "notes",
)  # fmt: skip
_DERIVED = ("tp", "pp", "cp", "dp", "vp", "micro_batch_size")  # have columns of their own


def model_cells(model: ModelSpec) -> dict[str, str]:
    """Name and dimensions; what has no column is found again by the name of a shipped model alone."""
    moe = model.moe
    sizes = {
        "n_layers": model.n_layers,
        "hidden": model.hidden,
        "n_heads": model.attention.n_heads,
        "n_kv_heads": model.attention.n_kv_heads,
        "ffn_hidden": model.ffn_hidden,
        "vocab": model.vocab,
        "n_experts": moe.n_experts if moe else "",
        "top_k": moe.top_k if moe else "",
        "moe_ffn_hidden": moe.ffn_hidden if moe else "",
        "n_moe_layers": moe.n_moe_layers if moe else "",
    }
    return {"model_name": model.name, **{name: str(value) for name, value in sizes.items()}}


def cells_of(model: ModelSpec, workload: Workload, config: ParallelConfig) -> dict[str, str]:
    """Cells of one plan. Every field of the configuration stands in the notes as ``set(...)``, the width of gradients
    as ``grads=`` and the family of the layers as ``style=``, for which there is no column.
    """
    c = config
    zero = f"zero{c.zero_stage}" if c.zero_stage else "ddp"
    if c.zero_stage and c.dp_shard < c.dp * c.cp:
        zero += f" over {c.dp_shard} gpus"
    if c.optimizer_offload:
        zero += ", optimizer on cpu"
    said = ",".join(f"{name}={int(getattr(c, name))}" for name in CONFIG_FIELDS if name not in _DERIVED)
    notes = [f"grads={'fp32' if workload.grad_dtype_bytes == 4.0 else 'bf16'}"]
    notes += [f"style={'llama' if model.gated_ffn else 'gpt'}", f"set({said})"]
    if workload.task == "lora":
        notes.append(f"rank={workload.lora_rank}")
    return {
        **model_cells(model),
        "task": workload.task,
        "n_gpus": str(c.world_size),
        "seq_len": str(workload.seq_len),
        "global_batch_sequences": str(int(workload.global_batch)),
        "micro_batch": str(c.micro_batch_size),
        **{name: str(getattr(c, name)) for name in ("tp", "pp", "vp", "cp", "ep", "dp")},
        "sp": str(c.sequence_parallel),
        "zero_stage_or_fsdp": zero,
        "recompute": _recompute_words(c),
        "precision": workload.precision,
        "optimizer": workload.optimizer,
        "notes": "; ".join(notes),
    }


def _recompute_words(config: ParallelConfig) -> str:
    """As ``row_words.read_recompute`` takes it; masks of modules stand in the notes only."""
    label = recompute_label(int(config.recompute), config.recompute_layers)
    if label.startswith("full"):
        return f"full ({config.recompute_layers} layers)" if config.recompute_layers else "full"
    return {"none": "none", "attn": "selective"}.get(label, "")
