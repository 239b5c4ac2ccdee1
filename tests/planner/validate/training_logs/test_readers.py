"""Every spelling of every framework: step time, memory and what the log says of its configuration."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest

from meshwright.costmodels.load_model import load_model
from meshwright.hardware_profiles.errors import InvalidProblemError
from meshwright.planner.validate.log_rows import LogOptions, row_of_log
from meshwright.planner.validate.row_problem import row_problem
from meshwright.planner.validate.runs import Run
from meshwright.planner.validate.training_logs import find_reader, read_log
from meshwright.planner.validate.training_logs.base import clean, settings, settle

from . import samples


def facts_of(text: str) -> Any:
    cleaned = clean(text)
    reader = find_reader(cleaned)
    assert reader is not None
    return reader.read(cleaned)


def median(facts: Any) -> float:
    return settle(facts.values).median


@pytest.mark.parametrize(
    ("text", "framework", "quantity", "value"),
    [
        (samples.megatron_now(2.0), "Megatron-LM", "step_s", 2.0),
        (samples.megatron_now(2.0, prefix="12: "), "Megatron-LM", "step_s", 2.0),
        (samples.megatron_2021(2.0), "Megatron-LM", "step_s", 2.0),
        (samples.neox(4.0), "Megatron-DeepSpeed", "step_s", 4.0),
        (samples.alcf(17.0), "Megatron-LM", "step_s", 17.0),
        (samples.titan(7000.0), "TorchTitan", "tokens_per_s_per_gpu", 7000.0),
        (samples.titan(7000.0, "wps", colours=False, tail=False), "TorchTitan", "tokens_per_s_per_gpu", 7000.0),
        (samples.titan(7000.0, "tps", tail=False), "TorchTitan", "tokens_per_s_per_gpu", 7000.0),
        (samples.deepspeed("now", 8.0), "DeepSpeed", "samples_per_s", 8.0),
        (samples.deepspeed("2022", 8.0), "DeepSpeed", "samples_per_s", 8.0),
        (samples.deepspeed("forward."), "DeepSpeed", "step_s", 1.0),
        (samples.deepspeed("fwd."), "DeepSpeed", "step_s", 1.0),
        (samples.nemo_1(3.0), "NeMo", "step_s", 3.0),
        (samples.nemo_2(3.0), "NeMo", "step_s", 3.0),
        (samples.bridge(14.0), "Megatron-Bridge", "step_s", 14.0),
        (samples.bridge(14.0, iterations=False), "Megatron-Bridge", "step_s", 14.0),
    ],
)
def test_step_times_of_every_spelling(text: str, framework: str, quantity: str, value: float) -> None:
    facts = facts_of(text)
    assert (facts.framework, facts.quantity) == (framework, quantity)
    assert len(facts.values) == 20
    assert median(facts) == pytest.approx(value, rel=0.005)


@pytest.mark.parametrize(
    ("text", "gib", "method"),
    [
        (samples.bridge(), 12954 / 1024, "reserved"),
        (samples.bridge() + "[Rank 0] memory (GB) | mem-max-reserved-gigabytes: 64.5\n", 64.5e9 / 2**30, "reserved"),
        (samples.titan(), 22.0, "reserved"),
        (samples.deepspeed(), 32.0, "allocated"),
        (samples.megatron_now(), None, ""),
    ],
)
def test_memory_and_how_it_is_counted(text: str, gib: float | None, method: str) -> None:
    facts = facts_of(text)
    assert facts.memory_gib == (None if gib is None else pytest.approx(gib))
    assert facts.memory_method == method


def test_megatron_arguments_say_model_and_layout() -> None:
    world = "using world size: 16, data-parallel size: 4, context-parallel size: 1, tensor-model-parallel size: 2, "
    world += "encoder-tensor-model-parallel size: 0, pipeline-model-parallel size: 2\n"
    facts = facts_of(world + samples.arguments() + samples.megatron_now())
    cells = facts.cells
    assert (cells["n_gpus"], cells["tp"], cells["pp"], cells["cp"], cells["dp"]) == ("16", "2", "2", "1", "4")
    assert (cells["seq_len"], cells["micro_batch"], cells["global_batch_sequences"]) == ("4096", "1", "64")
    assert (cells["zero_stage_or_fsdp"], cells["recompute"], cells["sp"]) == ("zero1", "full (4 layers)", "1")
    assert (cells["precision"], cells["year"]) == ("bf16", "2025")
    assert facts.model is not None
    assert (facts.model.n_layers, facts.model.attention.n_kv_heads, facts.model.gated_ffn) == (32, 8, True)
    assert not facts.model.ffn_bias and facts.model.vocab == 128256
    assert any("grads=fp32" in word for word in facts.words)
    assert facts.notes == []


@pytest.mark.parametrize(
    ("changes", "column", "value"),
    [
        ({"virtual_pipeline_model_parallel_size": 4}, "vp", "4"),
        ({"num_layers_per_virtual_pipeline_stage": 4}, "vp", "4"),
        ({"recompute_granularity": None, "recompute_method": None}, "recompute", "none"),
        ({"recompute_granularity": "selective", "recompute_method": None}, "recompute", "selective"),
        ({"use_distributed_optimizer": False}, "zero_stage_or_fsdp", "ddp"),
        ({"fp8": "hybrid"}, "precision", "fp8"),
        ({"bf16": False, "fp16": True}, "precision", "fp16"),
        ({"context_parallel_size": 2}, "cp", "2"),
        ({"exp_avg_dtype": "torch.bfloat16", "use_precision_aware_optimizer": True}, "optimizer", "adam_bf16"),
    ],
)
def test_other_megatron_arguments(changes: dict[str, object], column: str, value: str) -> None:
    assert facts_of(samples.arguments(changes) + samples.megatron_now()).cells[column] == value


def test_a_sparse_megatron_run() -> None:
    changes = {
        "num_experts": 8, "moe_router_topk": 2, "moe_ffn_hidden_size": 1024, "expert_model_parallel_size": 4,
        "expert_tensor_parallel_size": 1, "moe_layer_freq": [0] + [1] * 31,
    }  # fmt: skip
    facts = facts_of(samples.arguments(changes) + samples.megatron_now())
    assert facts.model is not None and facts.model.moe is not None and facts.model.moe.n_moe_layers == 31
    assert (facts.cells["n_experts"], facts.cells["top_k"], facts.cells["ep"]) == ("8", "2", "4")


def test_a_dump_behind_a_rank_is_read_too() -> None:
    facts = facts_of(samples.arguments(prefix="[default0]:") + samples.megatron_now())
    assert facts.cells["tp"] == "2"


def test_a_dump_of_2021_on_deepspeed() -> None:
    """Checkpointing under its old name, the vocabulary behind the dump, DeepSpeed's own dump in the same form."""
    gone = ("recompute_granularity", "recompute_method", "recompute_num_layers", "padded_vocab_size", "world_size")
    dump = samples.arguments({"checkpoint_activations": True, "checkpoint_num_layers": 1, "deepspeed": True})
    dump = "".join(line for line in dump.splitlines(keepends=True) if line.split(" .")[0].strip() not in gone)
    text = (
        "using world size: 16, data-parallel-size: 4, tensor-model-parallel size: 2, pipeline-model-parallel size: 2\n"
    )
    text += dump + " > padded vocab (size: 50257) with 175 dummy tokens (new size: 50432)\n" + samples.DEEPSPEED_CONFIG
    facts = facts_of(text + samples.megatron_2021())
    assert facts.framework == "Megatron-DeepSpeed"
    assert (facts.cells["n_gpus"], facts.cells["recompute"], facts.cells["vocab"]) == ("16", "full", "50432")


def test_arguments_that_contradict_their_world_size_are_said() -> None:
    facts = facts_of(samples.arguments({"world_size": 6}) + samples.megatron_now())
    assert facts.model is None and "tp" not in facts.cells
    assert any("left aside" in note for note in facts.notes)


def test_a_ramp_up_of_the_batch_does_not_count() -> None:
    facts = facts_of(samples.megatron_now(0.5, batch=16) + samples.megatron_now(2.0, batch=64, first=21))
    assert facts.cells["global_batch_sequences"] == "64"
    assert len(facts.values) == 20 and median(facts) == pytest.approx(2.0, rel=0.005)
    assert "do not count" in facts.notes[0]


def test_torchtitan_configuration() -> None:
    cells = facts_of(samples.titan(head=samples.TITAN_2025)).cells
    assert (cells["n_gpus"], cells["tp"], cells["dp"], cells["sp"]) == ("16", "2", "8", "1")
    assert cells["zero_stage_or_fsdp"] == "fsdp over 4 gpus"
    assert (cells["micro_batch"], cells["global_batch_sequences"], cells["seq_len"]) == ("2", "32", "8192")
    assert (cells["n_layers"], cells["hidden"], cells["ffn_hidden"], cells["vocab"]) == (
        "32",
        "4096",
        "14336",
        "128256",
    )
    assert (cells["recompute"], cells["precision"], cells["gpu"]) == ("full", "bf16", "NVIDIA H100 80GB HBM3")


def test_torchtitan_of_2024() -> None:
    facts = facts_of(samples.titan(3000.0, "wps", head=samples.TITAN_2024))
    assert (facts.cells["n_gpus"], facts.cells["dp"], facts.cells["zero_stage_or_fsdp"]) == ("8", "4", "fsdp")
    assert facts.cells["recompute"] == "none"
    assert "n_kv_heads" not in facts.cells
    assert facts.words == ["style=llama"]


def test_torchtitan_pipelines() -> None:
    head = samples.TITAN_2025.replace("pp=1", "pp=2")
    head += "Using pipeline schedule Interleaved1F1B with 2 microbatches and 4 stages.\n"
    cells = facts_of(samples.titan(head=head)).cells
    assert (cells["pp"], cells["vp"], cells["micro_batch"], cells["n_gpus"]) == ("2", "2", "1", "32")


def test_deepspeed_configuration() -> None:
    cells = facts_of(samples.DEEPSPEED_CONFIG + samples.deepspeed()).cells
    assert (cells["micro_batch"], cells["global_batch_sequences"], cells["dp"]) == ("2", "64", "8")
    assert cells["zero_stage_or_fsdp"] == "zero3, optimizer on cpu"
    assert cells["precision"] == "bf16"


def test_deepspeed_without_its_json() -> None:
    text = samples.DEEPSPEED_CONFIG.split("json =")[0].replace("world_size ................... 8", "")
    cells = facts_of(text + samples.deepspeed("2022")).cells
    assert (cells["dp"], cells["zero_stage_or_fsdp"]) == ("8", "zero3")


def test_nemo_configuration() -> None:
    cells = facts_of(samples.NEMO_CONFIG + samples.nemo_1(batch=256)).cells
    assert (cells["n_gpus"], cells["tp"], cells["pp"], cells["seq_len"]) == ("16", "4", "1", "4096")
    assert (cells["global_batch_sequences"], cells["micro_batch"], cells["recompute"]) == ("256", "1", "selective")
    assert cells["sp"] == "1" and "vp" not in cells
    assert facts_of(samples.nemo_2(batch=128)).cells["global_batch_sequences"] == "128"


def test_rows_of_arguments_read_back_as_the_same_plan() -> None:
    facts = facts_of(samples.arguments({"overlap_param_gather": False}) + samples.megatron_now())
    cells = {**facts.cells, "gpu": "H100-SXM", "framework": "Megatron-LM", "notes": "; ".join(facts.words)}
    row = row_problem(Run("x.log", 0, cells))
    assert row.known["overlap_param_gather"] == 0 and row.known["recompute_layers"] == 4
    assert row.workload.grad_dtype_bytes == 4.0
    assert row.model.gated_ffn


# -- what all readers share -----------------------------------------------------------------------
def test_warm_up_is_left_out_until_times_settle() -> None:
    slow_start = [10.0, 9.0, 5.0, 3.0, 2.0] + [1.0] * 15
    found = settle(slow_start)
    assert found.median == pytest.approx(1.0)
    assert (found.warm_up, found.used, found.outliers) == (5, 15, 0)


def test_outliers_are_left_out_and_counted() -> None:
    found = settle([9.0, 9.0, *([1.0, 1.01, 0.99] * 6), 7.0, 7.0])
    assert (found.warm_up, found.outliers, found.used) == (3, 2, 17)
    assert found.median == pytest.approx(1.0)


def test_a_tenth_of_a_long_log_is_warm_up() -> None:
    assert settle([1.0] * 100).warm_up == 10
    assert settle([1.0] * 3).used == 1
    assert settle([1.0] * 10, warm_up=0).used == 10


def test_drift_is_no_warm_up() -> None:
    """Times that never settle lose at most half of their lines."""
    assert settle([2.0**-i for i in range(20)]).warm_up <= 10


def test_settings_take_the_first_value_that_is_not_null() -> None:
    text = "a_size: null\n  'a_size': 4,\n\"b\"=True\nxa_size: 9\nmodel.a_size=8\n"
    assert settings(text, ["a_size", "b"]) == {"a_size": "4", "b": "True"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("hello\nworld\n", "no iteration lines"),
        ("", "no iteration lines"),
        ("\x00\xff\x1b[31m", "no iteration lines"),
        ("".join(samples.megatron_now().splitlines(keepends=True)[:2]), "2 iteration lines"),
    ],
)
def test_logs_that_say_nothing(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "run.log"
    path.write_bytes(text.encode("latin-1", errors="replace"))
    with pytest.raises(InvalidProblemError, match=words) as error:
        read_log(path)
    assert str(path) in str(error.value)


def broken(text: str, seed: int) -> str:
    """The text with pieces cut out, doubled or replaced, as logs of many processes have them."""
    random = Random(seed)
    for _ in range(12):
        start = random.randrange(len(text))
        end = min(len(text), start + random.choice((1, 3, 30, 200)))
        piece = random.choice(("", text[start:end] * 2, "0", "nan", "9" * 30, "..", "-1", "{", "None", "\n"))
        text = text[:start] + piece + text[end:]
    return text


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize(
    "text",
    [
        samples.arguments() + samples.megatron_now(),
        samples.titan(head=samples.TITAN_2025),
        samples.DEEPSPEED_CONFIG + samples.deepspeed(),
        samples.DEEPSPEED_CONFIG + samples.deepspeed("fwd."),
        samples.NEMO_CONFIG + samples.nemo_1(),
        samples.NEMO_CONFIG + samples.bridge(),
    ],
    ids=["megatron", "titan", "deepspeed", "clock", "nemo", "bridge"],
)
def test_broken_logs_are_read_or_refused(tmp_path: Path, text: str, seed: int) -> None:
    path = tmp_path / "run.log"
    path.write_text(broken(text, seed), encoding="utf-8")
    options = LogOptions(seq_len=4096, n_gpus=16, model=load_model("llama-3.1-8b"))
    try:
        row = row_of_log(path, options)
    except InvalidProblemError as error:
        assert str(path) in str(error)
    else:
        assert 0 < float(row.run.cells["step_time_s"]) < float("inf")


def test_a_log_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidProblemError, match="cannot be read"):
        read_log(tmp_path / "none.log")
