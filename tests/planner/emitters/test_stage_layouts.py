"""Explicit layouts in launch files: round trips, what does not go with them, and that nothing falls back to even."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_plans import DEEPSEEK, LLAMA, plan_set

from meshwright.costmodels.model_spec import ModelSpec
from meshwright.costmodels.parallel import LayerSplit, ParallelConfig, Recompute, Schedule
from meshwright.costmodels.stage_layout import StageLayout, layout_of
from meshwright.hardware_profiles.errors import InvalidProblemError, UnsupportedByFrameworkError
from meshwright.planner.emitters import LaunchOptions, get, write_bundle
from meshwright.planner.emitters.megatron_layout import decode_layout, decode_stage_layout, encode_stage_layout
from meshwright.planner.emitters.torchtitan import module_names, read_module_names
from meshwright.planner.launch_reader import read_megatron_launch
from meshwright.planner.plan import Plan, PlanSet

FULL = int(Recompute.FULL)


@st.composite
def layouts(draw: st.DrawFn, mtp: int = 0) -> StageLayout:
    pp, vp, layers = draw(st.integers(1, 5)), draw(st.integers(1, 3)), draw(st.integers(1, 40))
    total = layers + mtp + 2
    cuts = sorted(draw(st.lists(st.integers(0, total), min_size=pp * vp - 1, max_size=pp * vp - 1)))
    sizes = [b - a for a, b in zip([0, *cuts], [*cuts, total], strict=True)]
    return layout_of(sizes, pp, layers, mtp, [False] * layers)


@given(st.integers(0, 2).flatmap(layouts))
def test_megatron_strings_read_back(layout: StageLayout) -> None:
    text = encode_stage_layout(layout)
    assert decode_stage_layout(text, layout.pp) == layout
    assert decode_layout(text, layout.pp) == (layout.stage_layers, layout.vp)


def test_megatron_strings() -> None:
    layout = layout_of([1, 4, 2, 3], 2, 7, 1, [False] * 7)
    assert encode_stage_layout(layout) == "E|t*4|tt|tmL"
    assert decode_stage_layout("E|(t)*4|t t,|tmL", 2) == layout
    for bad in ("EEt|tL", "Lt|tE", "Et|t|tL"):
        with pytest.raises(InvalidProblemError):
            decode_stage_layout(bad, 2)


@given(layouts())
def test_torchtitan_lists_read_back(layout: StageLayout) -> None:
    if all(chunk.layers for chunk in layout.flat):
        names = module_names(layout)
        assert read_module_names(names, layout.pp) == layout
        assert ",".join(names).split(",") == [
            "tok_embeddings", *(f"layers.{i}" for i in range(layout.n_layers)), "norm", "lm_head",
        ]  # fmt: skip


def test_unknown_modules_are_refused() -> None:
    with pytest.raises(InvalidProblemError, match="unknown modules"):
        read_module_names(["tok_embeddings,layers.0", "vision,norm,lm_head"], 2)


def made(
    layout: StageLayout, model: ModelSpec = LLAMA, framework: str = "megatron-lm", **config: int
) -> tuple[PlanSet, Plan]:
    full = ParallelConfig(**{"pp": layout.pp, "vp": layout.vp, "dp": 4, "layer_split": int(LayerSplit.LAYOUT)} | config)  # type: ignore[arg-type]
    both, plan = plan_set(model, full, framework=framework, stage_layers=layout.stage_layers, micro_batches=16)
    plan = replace(plan, stage_layout=layout)
    return replace(both, plans=(plan,)), plan


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([(1, 33), (8, 26), (17, 17), (30, 4)]), st.sampled_from([0, 2]))
def test_a_launch_with_a_layout_reads_back(sizes: tuple[int, int], redo: int) -> None:
    flags = [i < redo or sizes[0] - 1 <= i < sizes[0] - 1 + redo for i in range(32)]
    config = {"recompute": FULL, "recompute_layers": redo} if redo else {}
    both, plan = made(layout_of(sizes, 2, 32, 0, flags), **config)
    if plan.stage_layout is None or plan.stage_layout.leading_recompute != redo:
        return
    with tempfile.TemporaryDirectory() as folder:
        write_bundle(get("megatron-lm").emit(both, plan, LaunchOptions()), Path(folder) / "out")
        read = read_megatron_launch(Path(folder) / "out" / "launch.sh")
    assert read.config == plan.config and read.stage_layers == plan.stage_layers


EVEN8 = layout_of([9, 8, 8, 9], 4, 32, 0, [False] * 32)


@pytest.mark.parametrize(
    ("layout", "config", "words"),
    [
        (EVEN8, {"vp": 2}, "not one of pp 4 and vp 2"),
        (EVEN8, {"layer_split": int(LayerSplit.EVEN)}, "layer_split"),
        (layout_of([9, 8, 8, 8], 4, 31, 0, [False] * 31), {}, "does not deal the layers of"),
        (EVEN8, {"recompute": FULL}, "layers that recompute"),
        (replace(EVEN8, recompute=(False, True) * 16), {"recompute": FULL, "recompute_layers": 4}, "that recompute"),
    ],
)
@pytest.mark.parametrize("framework", ["megatron-lm", "torchtitan"])
def test_contradictions_are_refused(layout: StageLayout, config: dict[str, int], words: str, framework: str) -> None:
    zero = {"zero_stage": 2} if framework == "torchtitan" else {}
    if framework == "torchtitan" and "recompute_layers" in config:
        return
    both, plan = made(layout, framework=framework, **config, **zero)
    assert words in (get(framework).refuse(both, plan) or "")


def test_megatron_keeps_multi_token_prediction_on_a_last_chunk() -> None:
    def why(*sizes: int) -> str:
        return get("megatron-lm").refuse(*made(layout_of(sizes, 4, 61, 1, [False] * 61), DEEPSEEK)) or ""

    assert why(11, 10, 10, 10, 11, 10, 1, 1) == why(11, 10, 10, 10, 11, 10, 0, 2) == ""
    assert "other than the first" in why(20, 20, 20, 2, 1, 0, 0, 1)
    assert "last chunk" in why(20, 20, 22, 1, 0, 0, 0, 1)


def test_torchtitan_refuses_what_it_cannot_split() -> None:
    def why(layout: StageLayout, model: ModelSpec = LLAMA, **config: int) -> str:
        return get("torchtitan").refuse(*made(layout, model, "torchtitan", zero_stage=2, **config)) or ""

    assert why(EVEN8) == ""
    assert "needs a layer" in why(layout_of([1, 16, 16, 1], 4, 32, 0, [False] * 32))
    assert "V schedule" in why(layout_of([9, 8, 8, 9], 2, 32, 0, [False] * 32), schedule=int(Schedule.ZERO_BUBBLE_V))
    assert "multi-token" in why(layout_of([16, 16, 16, 16], 4, 61, 1, [False] * 61), DEEPSEEK)


@pytest.mark.parametrize("name", ["deepspeed", "pytorch"])
def test_others_do_not_fall_back_to_even_stages(name: str) -> None:
    both, plan = made(EVEN8, framework=name)
    assert get(name).refuse(both, plan) is not None
    with pytest.raises(UnsupportedByFrameworkError):
        get(name).emit(both, plan, LaunchOptions(train_script="t.py"))


def test_every_other_emitter_refuses_too(monkeypatch: pytest.MonkeyPatch) -> None:
    from meshwright.planner.emitters import base

    emitter = get("megatron-lm")
    both, plan = made(EVEN8)
    base.require_expressible(emitter, both, plan)
    monkeypatch.setattr(base, "WRITES_LAYOUTS", frozenset())
    with pytest.raises(UnsupportedByFrameworkError, match="stage layouts"):
        base.require_expressible(emitter, both, plan)
