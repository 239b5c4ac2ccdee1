"""Words of published tables: networks, precision, ZeRO, recompute, notes."""

from __future__ import annotations

import pytest

from meshwright.costmodels.parallel import Recompute, Schedule
from meshwright.planner.validate.interconnect import parse_network
from meshwright.planner.validate.memory_counting import counting_of
from meshwright.planner.validate.row_words import (
    accumulation_steps,
    lora_rank,
    read_method,
    read_notes,
    read_precision,
    read_recompute,
    read_task,
    read_zero,
)
from meshwright.planner.validate.runs import Run


@pytest.mark.parametrize(
    ("text", "per_node", "kind", "gbytes"),
    [
        ("NVLink; 8x200Gb/s HDR IB per node", 8, "infiniband", 25.0),
        ("NVSwitch in node; 800 Gb/s per node between nodes", 8, "infiniband", 12.5),
        ("NVLink intra; 4x Omni-Path per node", 8, "omnipath", 6.25),
        ("Jean Zay (Omni-Path)", 4, "omnipath", 12.5),
        ("4x100Gb RoCE between nodes", 8, "roce", 6.25),
        ("1600Gbps/node RoCE", 8, "roce", 25.0),
        ("NVLink intra; 400Gb/s RDMA per GPU", 8, "roce", 50.0),
        ("NVLink (hybrid cube) + 1x IB EDR 100Gb/s per node", 8, "infiniband", 1.5625),
        (
            "NVLINK Gen4 900 GB/s + NVSWITCH Gen3 | Storage: 2x ConnectX-7 IB NDR 400Gb/s, "
            "Compute: 8x ConnectX-7 IB NDR 400Gb/s, Management:",
            8,
            "infiniband",
            50.0,
        ),
        (
            "x | Storage+Management: 1x BlueField 2 DPU 100Gb/s, Compute: 8x NVIDIA ConnectX-7 IB ND",
            8,
            "infiniband",
            50,
        ),
        ("Infinity Fabric intra; Slingshot inter (Frontier)", 8, "slingshot", 12.5),
    ],
)
def test_network_words(text: str, per_node: int, kind: str, gbytes: float) -> None:
    network = parse_network(text, per_node)
    assert network.kind == kind
    assert network.bytes_per_s_per_gpu == pytest.approx(gbytes * 1e9)


@pytest.mark.parametrize("text", ["", "NVLINK Gen5 |", "IB 200Gb/s", "NVSwitch in node", "DGX SuperPOD"])
def test_network_without_a_rate_stays_unknown(text: str) -> None:
    assert parse_network(text, 8).bytes_per_s_per_gpu is None


def test_nvlink_domain() -> None:
    assert parse_network("NVL72", 4).scale_up_gpus == 72


@pytest.mark.parametrize(
    ("text", "expected", "assumed"),
    [
        ("fp8 (mxfp8)", "mxfp8", False),
        ("nvfp4", "nvfp4", False),
        ("fp16 O2", "fp16", False),
        ("bf16/amp", "bf16", False),
        ("fp32(tf32)", "tf32", False),
        ("bf16/fp16 mixed", "fp16", True),
        ("mixed", "bf16", True),
        ("", "bf16", True),
    ],
)
def test_precision(text: str, expected: str, assumed: bool) -> None:
    precision, why = read_precision(text, "ampere")
    assert precision == expected and (why is not None) == assumed


def test_volta_has_no_bf16() -> None:
    assert read_precision("", "volta")[0] == "fp16"


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("", {}),
        ("ddp (FSDP=0)", {}),
        ("ddp", {"zero_stage": 0}),
        ("zero1", {"zero_stage": 1}),
        ("sharding stage2", {"zero_stage": 2}),
        ("fsdp_full_shard(zero3)", {"zero_stage": 3}),
        ("fsdp_shard_grad_op(zero2)", {"zero_stage": 2}),
        ("fsdp2", {"zero_stage": 3}),
        ("zero1 over 8 GPUs (hierarchical)", {"zero_stage": 1, "dp_shard": 8}),
        ("zero1 over all dp", {"zero_stage": 1}),
        ("megatron-fsdp (FSDP=64)", {"zero_stage": 3, "dp_shard": 64}),
        ("ZeRO-3, optimizer on CPU", {"zero_stage": 3, "optimizer_offload": 1}),
    ],
)
def test_zero_words(text: str, fields: dict[str, int]) -> None:
    assert read_zero(text).fields == fields


@pytest.mark.parametrize(
    ("text", "framework", "fields"),
    [
        ("", "megatron-lm", {}),
        ("see log", "megatron-lm", {}),
        ("none", "megatron-lm", {"recompute": 0}),
        ("full (act_ckpt on)", "megatron-lm", {"recompute": int(Recompute.FULL)}),
        ("full, 21 layers", "megatron-lm", {"recompute": int(Recompute.FULL), "recompute_layers": 21}),
        ("selective (attention core)", "megatron-lm", {"recompute": int(Recompute.CORE_ATTENTION)}),
        ("selective (op)", "torchtitan", {"recompute": int(Recompute.FULL), "recompute_layers": 20}),
        ("selective (every 2nd layer)", "torchtitan", {"recompute": int(Recompute.FULL), "recompute_layers": 20}),
    ],
)
def test_recompute_words(text: str, framework: str, fields: dict[str, int]) -> None:
    assert read_recompute(text, 40, framework=framework).fields == fields


def test_notes() -> None:
    assert read_notes("schedule=1F1B; 128 micro-batches").fields == {"schedule": int(Schedule.ONE_F_ONE_B)}
    assert read_notes("1F1B, no gradient bucketing").fields == {"overlap_grad_reduce": 0}
    assert read_notes("async TP; bf16").fields == {"tp_overlap": 1}
    assert read_method("method=vocab-1; schedule=1F1B", "") == "vocab-1"
    assert read_method("", "GPT ~4B redis on 1F1B") == "redis"
    assert accumulation_steps("GAS=9; memory") == 9 and accumulation_steps("GASOLINE=9") is None
    assert lora_rank("LoRA r=16 fine-tuning") == 16 and lora_rank("over=3") is None


def test_tasks() -> None:
    assert read_task("pretrain/sft") == ("pretrain", None)
    assert read_task("lora")[0] == "lora"
    task, why = read_task("long-context midtraining")
    assert task == "pretrain" and why is not None


def test_memory_counting_table() -> None:
    titan = counting_of(Run("f", 2, {"source_id": "torchtitan"}))
    assert (titan.unit_bytes, titan.method, titan.known) == (2.0**30, "reserved", True)
    smi = counting_of(Run("f", 2, {"source_id": "lab", "notes": "used/total GiB (nvidia-smi style)"}))
    assert (smi.method, smi.known) == ("device", True)
    assert not counting_of(Run("f", 2, {"source_id": "lab"})).known
