"""Megatron-LM launches: names of options, quoting, environment, refusals."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, seed, settings
from sample_plans import DEEPSEEK, GPT3, LLAMA, MIXTRAL, WINDOWED, plan_set, random_plans

from meshwright.costmodels.load_model import list_models, load_model
from meshwright.costmodels.parallel import CpComm, LayerSplit, ParallelConfig, Recompute, Schedule
from meshwright.hardware_profiles.errors import InvalidProblemError, UnsupportedByFrameworkError
from meshwright.planner.emitters import LaunchOptions, get, write_bundle
from meshwright.planner.emitters.megatron_layout import (
    chunk_layers,
    decode_layout,
    decode_pattern,
    encode_layout,
    encode_pattern,
)
from meshwright.planner.emitters.megatron_lm import MegatronLm
from meshwright.planner.plan import Plan, PlanSet

#: Every option that the emitter may write, one a line; each stands in the parser of megatron-core 0.19.2.
EMITTED = frozenset(Path(__file__).with_name("megatron_options.txt").read_text().split())


def words(plan_set_: PlanSet, plan: Plan, options: LaunchOptions | None = None) -> list[str]:
    groups = MegatronLm().groups(plan_set_, plan, options or LaunchOptions())
    return [word for flags in groups.values() for flag in flags for word in flag]


def names(argv: list[str]) -> set[str]:
    return {word for word in argv if re.fullmatch(r"--[a-z][\w-]*", word)}


def value(argv: list[str], name: str) -> str:
    return argv[argv.index(name) + 1]


def test_only_known_options_are_written() -> None:
    seen: set[str] = set()

    @seed(7)
    @settings(max_examples=150, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(random_plans())
    def collect(pair: tuple[PlanSet, Plan]) -> None:
        seen.update(names(words(*pair, LaunchOptions(save_dir="s", load_dir="l", data_path="d", tokenizer="t"))))

    collect()
    for name in list_models():
        seen |= names(words(*plan_set(load_model(name), ParallelConfig(dp=8))))
    assert seen <= EMITTED, sorted(seen - EMITTED)
    assert len(seen) > 90


def test_frozen_names_stand_in_the_release() -> None:
    data = Path(os.environ.get("MESHWRIGHT_DATA", Path(__file__).parents[4] / "shared" / "data"))
    table = data / "launchers" / "megatron-core-0.19.2-flags.json"
    if not table.exists():
        pytest.skip("the table of Megatron-LM's options is not here (MESHWRIGHT_DATA)")
    known = {spelling for entry in json.loads(table.read_text()).values() for spelling in entry["all"]}
    assert known >= EMITTED, sorted(EMITTED - known)


def test_dense_plan() -> None:
    config = ParallelConfig(tp=4, pp=2, vp=2, dp=4, cp=2, sequence_parallel=1, cp_comm=CpComm.ALL_GATHER)
    argv = words(*plan_set(LLAMA, config))
    assert value(argv, "--tensor-model-parallel-size") == "4"
    assert value(argv, "--num-virtual-stages-per-pipeline-rank") == "2"
    assert value(argv, "--cp-comm-type") == "all_gather"
    assert value(argv, "--num-query-groups") == "8"
    assert value(argv, "--global-batch-size") == "32"
    assert {"--sequence-parallel", "--swiglu", "--disable-bias-linear", "--use-distributed-optimizer"} <= set(argv)
    assert "--num-experts" not in argv


def test_gpt3_keeps_biases_and_positions() -> None:
    argv = words(*plan_set(GPT3, ParallelConfig(dp=8), seq_len=2048))
    assert value(argv, "--position-embedding-type") == "learned_absolute"
    assert value(argv, "--attention-dropout") == "0.1"
    assert not {"--disable-bias-linear", "--swiglu", "--untie-embeddings-and-output-weights"} & set(argv)


def test_latent_attention_and_experts() -> None:
    argv = words(*plan_set(DEEPSEEK, ParallelConfig(dp=8, ep=8)))
    assert value(argv, "--qk-head-dim") == "128"
    assert value(argv, "--moe-layer-freq") == "([0]*3+[1]*58)"
    assert value(argv, "--moe-shared-expert-intermediate-size") == "2048"
    assert "--kv-channels" not in argv


def test_window() -> None:
    argv = words(*plan_set(WINDOWED, ParallelConfig(dp=8)))
    assert value(argv, "--window-size") == "127,0"
    assert decode_pattern(value(argv, "--window-attn-skip-freq")) == [1, 0] * 12


def test_megatron_fsdp() -> None:
    ps, plan = plan_set(LLAMA, ParallelConfig(tp=2, dp=8, zero_stage=3, dp_shard=4, sequence_parallel=1))
    argv = words(ps, plan)
    assert value(argv, "--data-parallel-sharding-strategy") == "optim_grads_params"
    assert value(argv, "--num-distributed-optimizer-instances") == "2"
    assert value(argv, "--ckpt-format") == "fsdp_dtensor"
    text = get("megatron-lm").emit(ps, plan, LaunchOptions()).files["launch.sh"]
    assert "unset CUDA_DEVICE_MAX_CONNECTIONS" in text
    assert "CUDA_DEVICE_MAX_CONNECTIONS=1" not in text


@pytest.mark.parametrize(
    ("config", "architecture", "expected"),
    [
        ({"tp": 2, "dp": 4}, "hopper", True),
        ({"cp": 2, "dp": 4}, "ampere", True),
        ({"tp": 2, "dp": 4}, "blackwell", False),
        ({"dp": 8}, "hopper", False),
    ],
)
def test_one_queue_before_blackwell(config: dict[str, int], architecture: str, expected: bool) -> None:
    ps, plan = plan_set(LLAMA, ParallelConfig(**config), architecture=architecture)
    text = get("megatron-lm").emit(ps, plan, LaunchOptions()).files["launch.sh"]
    assert ("export CUDA_DEVICE_MAX_CONNECTIONS=1" in text) is expected


def test_recompute_counts_layers_per_chunk() -> None:
    config = ParallelConfig(pp=2, vp=2, dp=4, recompute=Recompute.FULL, recompute_layers=4)
    assert value(words(*plan_set(LLAMA, config)), "--recompute-num-layers") == "2"
    odd = replace(config, recompute_layers=3)
    assert "3 layers do not divide" in str(get("megatron-lm").refuse(*plan_set(LLAMA, odd)))


@pytest.mark.parametrize(
    ("model", "config", "workload", "words_"),
    [
        (LLAMA, {"pp": 2, "dp": 4, "schedule": Schedule.ZERO_BUBBLE_V, "vp": 2}, {}, ["ZERO_BUBBLE_V"]),
        (LLAMA, {"pp": 2, "dp": 4, "schedule": Schedule.GPIPE}, {}, ["GPIPE"]),
        (LLAMA, {"pp": 2, "dp": 4, "zero_stage": 3}, {}, ["ZeRO 3", "pipeline"]),
        (LLAMA, {"pp": 3, "dp": 2}, {}, ["32 layers", "pp * vp"]),
        (LLAMA, {"pp": 4, "vp": 2, "dp": 2}, {"micro_batches": 6}, ["6 micro-batches", "pp 4"]),
        (LLAMA, {"tp": 4, "dp": 2, "sequence_parallel": 1}, {"seq_len": 4098}, ["4098", "tp * cp"]),
        (MIXTRAL, {"tp": 2, "dp": 4, "ep": 4}, {}, ["experts", "sequence parallelism"]),
        (WINDOWED, {"cp": 2, "dp": 4}, {}, ["sliding-window"]),
        (LLAMA, {"cp": 4, "tp": 4, "dp": 1, "cp_comm": CpComm.ULYSSES}, {}, ["Ulysses", "16"]),
        (LLAMA, {"dp": 8, "zero_stage": 0, "optimizer_offload": 1}, {}, ["offload"]),
        (LLAMA, {"dp": 8, "recompute": Recompute.FFN_ACTIVATION}, {}, ["moe_act"]),
        (LLAMA, {"dp": 8, "recompute": Recompute.MLA_UP_PROJECTION}, {}, ["latent attention"]),
        (LLAMA, {"dp": 8}, {"task": "lora", "lora_rank": 8}, ["LoRA"]),
        (LLAMA, {"dp": 8}, {"optimizer": "adam_pure_bf16"}, ["Megatron-FSDP"]),
        (replace(LLAMA, parallel_block=True), {"dp": 8}, {}, ["parallel"]),
    ],
)
def test_refusals(model: object, config: dict[str, int], workload: dict[str, object], words_: list[str]) -> None:
    ps, plan = plan_set(model, ParallelConfig(**config), **workload)  # type: ignore[arg-type]
    emitter = get("megatron-lm")
    reason = emitter.refuse(ps, plan)
    assert reason and all(word in reason for word in words_), reason
    with pytest.raises(UnsupportedByFrameworkError, match="cannot be written for megatron-lm"):
        emitter.emit(ps, plan, LaunchOptions())


def test_layouts() -> None:
    assert encode_layout((7, 8, 8, 9), 1) == "Et*7|t*8|t*8|t*9L"
    assert encode_layout((1, 2), 1, mtp_layers=1) == "Et|ttmL"
    assert decode_layout(encode_layout((5, 6, 6, 5), 2), 4) == ((5, 6, 6, 5), 2)
    assert chunk_layers((5, 6, 6, 5), 2) == ((2, 3, 3, 3), (3, 3, 3, 2))
    with pytest.raises(InvalidProblemError, match="'x'"):
        decode_layout("Et|xL", 2)
    with pytest.raises(InvalidProblemError, match="no multiple"):
        decode_layout("Et|t|tL", 2)


def test_patterns() -> None:
    assert decode_pattern("([1]*3+[0]*1)*2") == [1, 1, 1, 0] * 2
    assert decode_pattern(encode_pattern([0, 0, 1, 0, 1, 1])) == [0, 0, 1, 0, 1, 1]
    for bad in ("[1]*", "[x]", "__import__('os')", "[1]*999999999999", "([1]*1000)*1000", ""):
        with pytest.raises(ValueError):
            decode_pattern(bad)


HOSTILE = "a b'c\"d$(touch pwned)`touch pwned`\\ \n; touch pwned #*"


def hostile_files() -> dict[str, str]:
    options = LaunchOptions(
        data_path=HOSTILE,
        tokenizer=HOSTILE,
        megatron_dir=HOSTILE,
        save_dir=HOSTILE,
        env={"HOSTILE": HOSTILE},
        extra_args=("--extra", HOSTILE),
        train_iters=3,
    )
    model = replace(LLAMA, name=f"x\n{HOSTILE}\nrm -rf /")
    ps, plan = plan_set(model, ParallelConfig(tp=2, dp=4, sequence_parallel=1))
    return dict(get("megatron-lm").emit(ps, plan, options).files)


def test_hostile_text_reaches_the_program_unchanged(tmp_path: Path) -> None:
    """Run the script under bash with a torchrun that only writes its words down."""
    files = hostile_files()
    (tmp_path / "launch.sh").write_text(files["launch.sh"])
    fake = tmp_path / "bin" / "torchrun"
    fake.parent.mkdir()
    fake.write_text('#!/bin/bash\nprintf "%s\\0" "$HOSTILE" "$@" > words\n')
    fake.chmod(0o755)
    env = {"PATH": f"{fake.parent}:/usr/bin:/bin"}
    subprocess.run(["bash", "launch.sh", "--last", "one"], cwd=tmp_path, env=env, check=True, timeout=20)
    got = (tmp_path / "words").read_text().split("\0")[:-1]
    assert got[0] == HOSTILE
    assert got[1:5] == ["--nnodes", "1", "--nproc-per-node", "8"]
    assert f"{HOSTILE}/pretrain_gpt.py" in got
    assert value(got, "--data-path") == HOSTILE
    assert value(got, "--extra") == HOSTILE
    assert got[-2:] == ["--last", "one"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bin", "launch.sh", "words"]


def test_wrong_machines_stop_the_script(tmp_path: Path) -> None:
    ps, plan = plan_set(LLAMA, ParallelConfig(tp=2, dp=8))
    write_bundle(get("megatron-lm").emit(ps, plan, LaunchOptions()), tmp_path / "out")
    run = [shutil.which("bash") or "bash", str(tmp_path / "out" / "launch.sh")]
    few = subprocess.run(run, env={"PATH": "/usr/bin:/bin", "NNODES": "1"}, capture_output=True, text=True, timeout=20)
    assert few.returncode == 2
    assert "needs 16 GPUs" in few.stderr
    nobody = subprocess.run(run, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, timeout=20)
    assert nobody.returncode == 2
    assert "MASTER_ADDR" in nobody.stderr


def test_layout_split_needs_its_layers() -> None:
    ps, plan = plan_set(LLAMA, ParallelConfig(pp=4, dp=2, layer_split=LayerSplit.LAYOUT), stage_layers=(8, 8, 8, 7))
    assert "stage_layers" in str(get("megatron-lm").refuse(ps, plan))


def test_notes_tell_what_is_missing() -> None:
    ps, plan = plan_set(load_model("bloom-176b"), ParallelConfig(dp=8), seq_len=2048)
    notes = json.loads(get("megatron-lm").emit(ps, plan, LaunchOptions()).files["launch.json"])["notes"]
    assert any("ALiBi" in note for note in notes)
