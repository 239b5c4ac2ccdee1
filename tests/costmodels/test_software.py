"""Framework eras: shipped files are sound, the right one is found for a run, round trips are exact."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshwright.costmodels.load_software import (
    default_software,
    list_software,
    load_era,
    load_software,
    software_for_run,
    software_from_dict,
    software_to_dict,
)
from meshwright.costmodels.parallel import CONFIG_FIELDS
from meshwright.costmodels.software import COEFFICIENTS
from meshwright.hardware_profiles.errors import InvalidProblemError


@pytest.mark.parametrize("name", list_software())
def test_shipped_era_is_complete_and_inside_physical_bounds(name: str) -> None:
    era = load_era(name)
    assert era.software.name == name
    assert era.pattern, "an era that no framework text finds is dead"
    assert era.sources, "each fact needs a source"
    assert set(era.software.defaults) <= set(CONFIG_FIELDS)
    for coefficient, value in era.software.coefficients.items():
        _, low, high, _ = COEFFICIENTS[coefficient]
        assert low <= value <= high


@pytest.mark.parametrize("name", list_software())
def test_round_trip_is_exact(name: str) -> None:
    software = load_software(name)
    assert software_from_dict(software_to_dict(software)) == software


@pytest.mark.parametrize(
    ("framework", "year", "architecture", "expected", "kernel"),
    [
        ("Megatron-LM (2021)", 2021, "volta", "megatron-lm-2021", "unfused"),
        ("Megatron-DeepSpeed", 2022, "ampere", "megatron-deepspeed-2022", "unfused"),
        ("Megatron-DeepSpeed", 2023, "ampere", "megatron-deepspeed-2023", "unfused"),
        ("NeMo 24.07 (Megatron-Core)", 2024, "hopper", "megatron-core-2024", "cudnn"),
        ("Megatron-Bridge (Megatron-Core)", 2026, "blackwell", "megatron-core-2025", "cudnn"),
        ("llm-foundry/Composer FSDP", 2023, "ampere", "fsdp-2023", "triton"),
        ("InternEvo", 2023, "ampere", "internevo-2023", "flash1"),
        ("OneFlow", 2021, "volta", "oneflow-2021", "unfused"),
        ("PyTorch 2.6.0, ROCm 6.4", 2025, "cdna3", "rocm-megatron-2025", "flash2"),
        ("DeepSpeed", 2023, "ampere", "deepspeed-2023", "unfused"),
    ],
)
def test_named_framework_finds_its_era(
    framework: str, year: int, architecture: str, expected: str, kernel: str
) -> None:
    software, era, why = software_for_run(framework, year, architecture)
    assert (software.name, era.software.name, software.attention) == (expected, expected, kernel)
    assert why is None


def test_unnamed_framework_is_an_assumption_and_words_help() -> None:
    software, _, why = software_for_run("", None, "ampere", "sail-sg VocabularyParallelism artifact")
    assert software.name == "megatron-lm-2024"
    assert why is not None and "not stated" in why
    software, _, why = software_for_run("", None, "volta")
    assert software.name == "megatron-lm-2021" and why is not None


def test_option_separates_compiled_from_eager() -> None:
    compiled, _, _ = software_for_run("torchtitan", 2024, "hopper", options=("compile",))
    eager, _, _ = software_for_run("torchtitan", 2024, "hopper", options=("eager",))
    assert compiled.fused_elementwise and not eager.fused_elementwise


def test_blocking_launches_pick_the_era_that_ran_with_them_and_change_nothing_elsewhere() -> None:
    blocking, _, _ = software_for_run("Megatron-DeepSpeed", 2022, "ampere", options=("eager", "blocking"))
    usual, _, _ = software_for_run("Megatron-DeepSpeed", 2022, "ampere", options=("eager",))
    assert (blocking.launch_blocking, usual.launch_blocking) == (True, False)
    assert blocking.name == f"{usual.name}-blocking"
    plain, _, _ = software_for_run("Megatron-LM", 2021, "ampere", options=("eager", "blocking"))
    assert plain == software_for_run("Megatron-LM", 2021, "ampere", options=("eager",))[0]


def test_unknown_name_suggests_near_ones() -> None:
    with pytest.raises(InvalidProblemError, match="megatron-core-2025"):
        load_software("megatron-core-2026")


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("name: x\nframework: megatron-lm\nrelease: r\nattention: flash9\n", "flash9"),
        ("name: x\nframework: caffe\nrelease: r\nattention: flash2\n", "framework"),
        ("name: x\nframework: jax\nrelease: r\nattention: flash2\nspeed: 3\n", "speed"),
        ("name: x\nframework: jax\nrelease: r\nattention: flash2\ncoefficients: {gemm_derate: 1.4}\n", "gemm_derate"),
        ("name: x\nframework: jax\nrelease: r\nattention: flash2\ncoefficients: {luck: 1.0}\n", "luck"),
        ("name: x\nframework: jax\nrelease: r\nattention: flash2\ndefaults: {zero: 1}\n", "zero"),
        ("- a\n- b\n", "mapping"),
        ("name: [x\n", "read"),
    ],
)
def test_bad_profile_names_the_key(tmp_path: Path, text: str, word: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(InvalidProblemError, match=word):
        load_era(str(path))


def test_default_software_follows_the_gpu() -> None:
    from meshwright.hardware_profiles.load import load_gpu

    assert default_software("megatron-lm", load_gpu("a100-sxm-80gb")).attention == "flash2"
    assert default_software("megatron-lm", load_gpu("h100-sxm-80gb")).attention == "cudnn"
    with pytest.raises(InvalidProblemError, match="unknown framework"):
        default_software("horovod", load_gpu("a100-sxm-80gb"))
