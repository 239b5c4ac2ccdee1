"""Recipes of NVIDIA's releases: the first matching entry counts, and unknown eras have none."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from meshwright.costmodels import load_recipes
from meshwright.costmodels.load_recipes import MODULES, recipe_for
from meshwright.costmodels.load_software import list_software
from meshwright.costmodels.parallel import Recompute

FOLDER = Path(load_recipes.__file__).resolve().parent / "software" / "recipes"
FILES = sorted(FOLDER.glob("*.yaml"))


def mask(model: str, gpu: str, precision: str, notes: str = "") -> int:
    return recipe_for("megatron-core-2025", model=model, gpu=gpu, precision=precision, notes=notes).config["recompute"]


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_files_are_sound(path: Path) -> None:
    assert path.stem in list_software()
    table = yaml.safe_load(path.read_text())
    for entry in table["recipes"]:
        assert set(entry) <= {"model", "gpu", "precision", "notes", "recompute", "recompute_layers", "software"}
        assert entry["recompute"] == "full" or set(entry["recompute"]) <= set(MODULES)
        for key in ("model", "gpu", "precision", "notes"):
            re.compile(entry.get(key, ""))
    assert set(table["recipes"][-1]) == {"recompute"}, "the last entry must match every run"


def test_published_settings() -> None:
    mla = int(Recompute.MLA_UP_PROJECTION)
    assert mask("deepseek-v3", "b200-sxm-180gb", "mxfp8", "26.02 container") == mla
    assert mask("deepseek-v3", "gb200-186gb", "mxfp8", "25.11 container") == mla
    assert mask("gpt-oss-120b", "h100-sxm-80gb", "bf16") == int(Recompute.NORM | Recompute.FFN_ACTIVATION)
    assert mask("gpt-oss-120b", "b300-sxm-288gb", "bf16") == 0
    assert mask("llama-3.1-405b", "h100-sxm-80gb", "fp8") == 0


def test_partial_full_recompute_and_graphs() -> None:
    recipe = recipe_for("megatron-core-2025", model="llama-3-8b", gpu="h100-sxm-80gb", precision="fp8")
    assert recipe.config == {"recompute": int(Recompute.FULL), "recompute_layers": 5}
    recipe = recipe_for("megatron-core-2025", model="llama-3-8b", gpu="b200-sxm-180gb", precision="mxfp8")
    assert recipe.software == {"cuda_graphs": True}


def test_fp8_weights_follow_the_precision() -> None:
    for precision, expected in (("fp8", True), ("mxfp8", True), ("nvfp4", None), ("bf16", None)):
        recipe = recipe_for("megatron-core-2025", model="x", gpu="y", precision=precision)
        assert recipe.workload.get("fp8_params") is expected


def test_eras_without_recipes_have_none() -> None:
    recipe = recipe_for("internevo-2023", model="x", gpu="y", precision="bf16")
    assert recipe.config == {} and recipe.software == {} and recipe.workload == {}
