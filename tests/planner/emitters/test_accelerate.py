"""Accelerate: degrees, batch, refusals; its own loader and parser read the file where Accelerate is installed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from sample_plans import LLAMA, MIXTRAL, plan_set

from meshwright.costmodels.parallel import CpComm, ParallelConfig, Recompute
from meshwright.hardware_profiles.errors import InvalidProblemError, UnsupportedByFrameworkError
from meshwright.planner.emitters import LaunchBundle, LaunchOptions, get

OPTIONS = LaunchOptions(train_script="train.py")
#: Accelerate takes unknown keys of ``fsdp_config`` without a word, so the spelling is checked here (1.15).
FSDP_KEYS = {
    "fsdp_version", "fsdp_reshard_after_forward", "fsdp_auto_wrap_policy", "fsdp_offload_params",
    "fsdp_activation_checkpointing", "fsdp_state_dict_type", "fsdp_cpu_ram_efficient_loading",
}  # fmt: skip
CONFIGS = (
    ParallelConfig(dp=8, zero_stage=3),
    ParallelConfig(dp=16, zero_stage=2, dp_shard=8, micro_batch_size=2),
    ParallelConfig(dp=4, tp=2, zero_stage=3, sequence_parallel=1),
    ParallelConfig(dp=4, cp=2, zero_stage=3, cp_comm=CpComm.ALL_GATHER, recompute=Recompute.FULL),
    ParallelConfig(dp=4, cp=2, zero_stage=3, dp_shard=4, cp_comm=CpComm.RING, optimizer_offload=1),
)


def bundle(config: ParallelConfig, model: Any = LLAMA, **more: Any) -> LaunchBundle:
    ps, plan = plan_set(model, config, framework="pytorch", **more)
    return get("accelerate").emit(ps, plan, OPTIONS)


@pytest.mark.parametrize("config", CONFIGS)
def test_degrees_read_back(config: ParallelConfig) -> None:
    value = yaml.safe_load(bundle(config).files["accelerate.yaml"])
    assert value["distributed_type"] == "FSDP" and value["use_cpu"] is False
    fsdp, mesh = value["fsdp_config"], value["parallelism_config"]
    assert set(fsdp) <= FSDP_KEYS and fsdp["fsdp_version"] == 2
    read = {k.removeprefix("parallelism_config_").removesuffix("_size"): v for k, v in mesh.items()}
    assert read["dp_replicate"] * read["dp_shard"] * read["tp"] * read["cp"] == value["num_processes"]
    again = ParallelConfig(
        tp=read["tp"],
        cp=read["cp"],
        dp=read["dp_replicate"] * read["dp_shard"],
        dp_shard=read["dp_shard"] * read["cp"],
        zero_stage=3 if fsdp["fsdp_reshard_after_forward"] else 2,
        micro_batch_size=config.micro_batch_size,
        recompute=Recompute.FULL if fsdp["fsdp_activation_checkpointing"] else Recompute.NONE,
        sequence_parallel=config.sequence_parallel,
        cp_comm=CpComm.ALL_GATHER if read.get("cp_comm_strategy") == "allgather" else CpComm.RING,
        optimizer_offload=int(fsdp["fsdp_offload_params"]),
    )
    assert again == config


@pytest.mark.parametrize("config", CONFIGS)
def test_batch_rule(config: ParallelConfig) -> None:
    ps, plan = plan_set(LLAMA, config, framework="pytorch")
    text = get("accelerate").emit(ps, plan, OPTIONS).files["launch.sh"]
    size, steps = (int(re.search(rf"--{name} (\d+)", text)[1]) for name in  # type: ignore[index]
                   ("per_device_train_batch_size", "gradient_accumulation_steps"))  # fmt: skip
    assert size * steps * config.dp == ps.problem.workload.global_batch


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (ParallelConfig(dp=4, pp=2, zero_stage=3), "pipeline"),
        (ParallelConfig(dp=8, ep=2, zero_stage=3), "expert"),
        (ParallelConfig(dp=8, zero_stage=1), "ZeRO 1"),
        (ParallelConfig(dp=4, cp=2, zero_stage=3, cp_comm=CpComm.ULYSSES), "Ulysses"),
        (ParallelConfig(tp=8, zero_stage=3, sequence_parallel=1), "dp 1"),
        (ParallelConfig(dp=8, zero_stage=3, recompute=Recompute.FULL, recompute_layers=4), "all layers or none"),
        (ParallelConfig(dp=4, tp=2, zero_stage=3, sequence_parallel=1, tp_overlap=1), "overlap"),
    ],
)
def test_refusals(config: ParallelConfig, reason: str) -> None:
    with pytest.raises(UnsupportedByFrameworkError, match=reason):
        bundle(config, MIXTRAL if config.ep > 1 else LLAMA)


def test_numerics_that_it_has_not_are_refused() -> None:
    with pytest.raises(UnsupportedByFrameworkError, match="fp8"):
        bundle(CONFIGS[0], precision="fp8")
    with pytest.raises(UnsupportedByFrameworkError, match="adam_bf16"):
        bundle(CONFIGS[0], optimizer="adam_bf16")


def test_a_script_must_be_named() -> None:
    ps, plan = plan_set(LLAMA, CONFIGS[0], framework="pytorch")
    with pytest.raises(InvalidProblemError, match="--train-script"):
        get("accelerate").emit(ps, plan, LaunchOptions())


@pytest.mark.parametrize("config", CONFIGS)
def test_accelerate_itself_reads_the_launch(config: ParallelConfig, tmp_path: Path, monkeypatch: Any) -> None:
    pytest.importorskip("accelerate", reason="Accelerate is not installed (pip install accelerate torch)")
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils import ParallelismConfig
    from accelerate.utils.launch import prepare_multi_gpu_env

    path = tmp_path / "accelerate.yaml"
    path.write_text(bundle(config).files["accelerate.yaml"])
    words = ["--config_file", str(path), "--num_machines", "1", "--num_processes", str(config.world_size), "train.py"]
    arguments, _, _ = _validate_launch_command(launch_command_parser().parse_args(words))
    for name, value in prepare_multi_gpu_env(arguments).items():
        if name.startswith(("PARALLELISM_CONFIG_", "FSDP_", "ACCELERATE_")):
            monkeypatch.setenv(name, value)
    mesh = ParallelismConfig()
    assert (mesh.tp_size, mesh.cp_size, mesh.total_size) == (config.tp, config.cp, config.world_size)
    assert arguments.use_fsdp and arguments.fsdp_version == 2
