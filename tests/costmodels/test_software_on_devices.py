"""Every framework's current release runs on every shipped device, with an attention kernel that the device has."""

from __future__ import annotations

import pytest

from meshwright.costmodels.load_software import default_software
from meshwright.hardware_profiles.load import list_gpus, load_gpu


@pytest.mark.parametrize("name", list_gpus())
@pytest.mark.parametrize("framework", ["megatron-lm", "torchtitan", "deepspeed", "pytorch", "any"])
def test_attention_kernel_exists(name: str, framework: str) -> None:
    gpu = load_gpu(name)
    assert default_software(framework, gpu).attention in gpu.attention


def test_amd_takes_the_rocm_build() -> None:
    assert default_software("megatron-lm", load_gpu("mi300x-192gb")).name == "rocm-megatron-2025"
    assert default_software("megatron-lm", load_gpu("v100-sxm2-32gb")).attention == "unfused"
