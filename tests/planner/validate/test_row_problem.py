"""A row as a problem: what is stated, derived, assumed, and why a row is skipped."""

from __future__ import annotations

from typing import Any

import pytest

from meshwright.costmodels.parallel import LayerSplit, Recompute, VocabParallel
from meshwright.planner.validate.row_problem import RowSkippedError, layer_split, row_problem, run_year
from meshwright.planner.validate.row_words import METHODS
from meshwright.planner.validate.runs import Run, read_runs

from .conftest import row_text


@pytest.fixture
def problem(write_table: Any) -> Any:
    def build(**changes: str) -> Any:
        return row_problem(read_runs(write_table(row_text(**changes)))[0])

    return build


def test_fully_stated_row_assumes_nothing(problem: Any) -> None:
    row = problem()
    assert row.assumed == {}
    assert row.known["dp"] == 4 and row.known["recompute"] == int(Recompute.FULL)
    assert row.cluster.n_gpus == 16 and row.cluster.tiers[-1].bytes_per_s == pytest.approx(25e9)
    assert row.software.name == "megatron-lm-2022"
    assert row.workload.grad_dtype_bytes == 4.0 and row.workload.precision == "bf16"


def test_dp_and_cp_follow_from_the_gpu_count(problem: Any) -> None:
    assert problem(dp="").known["dp"] == 4
    row = problem(cp="", dp="2")
    assert (row.known["cp"], row.known["dp"]) == (2, 2)


def test_contradicting_dp_is_mended_and_said(problem: Any) -> None:
    row = problem(dp="3")
    assert row.known["dp"] == 4 and "the row says 3" in row.assumed["layout"][0]


def test_batch_from_accumulation(problem: Any) -> None:
    row = problem(global_batch_sequences="", notes="GAS=8; text")
    assert row.workload.global_batch == 8 * 2 * 4 and "numerics" in row.assumed


def test_unstated_network_only_matters_between_nodes(problem: Any) -> None:
    assert "network" in problem(interconnect="").assumed
    assert "network" not in problem(interconnect="", n_gpus="8", dp="2").assumed


def test_facts_of_a_source_fill_cells(problem: Any) -> None:
    row = problem(source_id="paper-2411.05288", sp="", precision="bf16/fp16 mixed", zero_stage_or_fsdp="")
    assert row.known["sequence_parallel"] == 1 and row.known["zero_stage"] == 1
    assert row.workload.precision == "fp16" and row.workload.grad_dtype_bytes == 2.0
    assert not row.model.tied_embeddings


def test_a_fact_that_contradicts_its_table_is_said(problem: Any) -> None:
    row = problem(source_id="vtrain-single", recompute="full")
    assert row.known["recompute"] == 0
    assert "recompute off, not as the row says" in row.assumed["contradicted"][0]
    assert "contradicted" not in problem(source_id="vtrain-single", recompute="none").assumed
    assert "contradicted" not in problem(source_id="vtrain-multi", recompute="full").assumed


def test_heads_that_a_source_names_outside_its_table(problem: Any) -> None:
    cells = {"source_id": "bigscience-tr11", "n_heads": "", "n_kv_heads": "", "hidden": "14400", "ffn_hidden": "57600"}
    row = problem(**cells)
    assert row.model.attention.n_heads == 96 and "dimensions" not in row.assumed
    assert row.software.launch_blocking
    assert problem(**{**cells, "hidden": "2048", "ffn_hidden": "8192"}).model.attention.n_heads == 64
    assert problem(**{**cells, "notes": "CUDA_LAUNCH_BLOCKING=0"}).software.launch_blocking is False


def test_lora_rank_and_task(problem: Any) -> None:
    row = problem(task="lora", notes="LoRA r=32")
    assert row.workload.task == "lora" and row.workload.lora_rank == 32


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"gpu": ""}, "gpu is not stated"),
        ({"gpu": "Abacus 9000"}, "Unknown GPU"),
        ({"n_gpus": ""}, "n_gpus is not stated"),
        ({"seq_len": "long"}, "seq_len is 'long'"),
        ({"seq_len": ""}, "seq_len is not stated"),
        ({"hidden": "", "model_name": "mystery"}, "hidden"),
        ({"hidden": "2047"}, "divide"),
        ({"global_batch_sequences": ""}, "global_batch_sequences is not stated"),
        ({"tp": "-2"}, "tp is '-2'"),
    ],
)
def test_rows_that_say_too_little_are_skipped_with_the_reason(
    problem: Any, changes: dict[str, str], reason: str
) -> None:
    with pytest.raises(RowSkippedError, match=reason):
        problem(**changes)


def test_methods_are_read_and_unknown_ones_priced_as_the_baseline(problem: Any) -> None:
    assert "method" in problem(notes="method=two-copies; schedule=1F1B").assumed
    for method, fields in METHODS.items():
        row = problem(notes=f"method={method}; schedule=1F1B")
        assert "method" not in row.assumed
        assert {name: row.known[name] for name in fields} == fields
    assert METHODS["baseline"] == {} and METHODS["vocab-2"] == {"vocab_parallel": VocabParallel.ONE_BARRIER}


def test_layer_split_rules() -> None:
    assert layer_split(24, 8) == LayerSplit.EVEN
    assert layer_split(70, 12) == LayerSplit.EMBEDDING_AND_LOSS_COUNT
    assert layer_split(77, 12) == LayerSplit.LAYOUT


def test_year_from_an_arxiv_number() -> None:
    assert run_year(Run("f", 2, {"source_id": "paper-2205.05198"})) == 2022
    assert run_year(Run("f", 2, {"source_id": "paper-2205.05198", "year": "2023"})) == 2023
    assert run_year(Run("f", 2, {"source_id": "lab-8.42"})) is None
