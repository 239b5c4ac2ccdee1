"""Explicit layouts: what they refuse, what they say, and that every deal of pieces survives a round trip."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshwright.costmodels.load_model import load_model
from meshwright.costmodels.parallel import LayerSplit, ParallelConfig, Recompute
from meshwright.costmodels.parallelism.pipeline import chunk_layer_lists, stage_layer_list
from meshwright.costmodels.stage_layout import Chunk, StageLayout, even_layout, layout_of
from meshwright.hardware_profiles.errors import InvalidProblemError


@given(
    st.sampled_from(["llama-3.1-8b", "deepseek-v3", "gpt3-175b"]),
    st.sampled_from([1, 2, 3, 4, 8, 16]),
    st.sampled_from([1, 2]),
    st.sampled_from([0, 2]),
    st.sampled_from([0, 32]),
    st.integers(0, 5),
)
def test_even_layout_is_the_deal_of_chunk_layer_lists(
    name: str, pp: int, vp: int, split: int, mask: int, layers: int
) -> None:
    model = load_model(name)
    c = ParallelConfig(pp=pp, vp=vp, layer_split=split, recompute=mask, recompute_layers=layers)
    layout = even_layout(model, c)
    lists = chunk_layer_lists(model.n_layers, c, model.mtp_layers)
    assert tuple(tuple(chunk.layers for chunk in row) for row in layout.chunks) == lists
    assert layout.stage_layers == stage_layer_list(model.n_layers, c, model.mtp_layers)
    assert layout.flat[0].embedding and layout.flat[-1].head and layout.flat[-1].mtp == model.mtp_layers
    layout.check_model(model)
    layout.check_config(c)
    if not mask:
        assert not any(layout.recompute)
    elif not layers:
        assert all(layout.recompute)
    else:
        assert sum(layout.recompute) <= layers * pp
    assert StageLayout.from_dict(layout.to_dict()) == layout
    sizes = [chunk.embedding + chunk.layers + chunk.mtp + chunk.head for chunk in layout.flat]
    assert layout_of(sizes, pp, model.n_layers, model.mtp_layers, layout.recompute) == layout


@given(st.integers(1, 4), st.integers(1, 2), st.integers(1, 9), st.integers(0, 2), st.data())
def test_layout_of_keeps_every_piece(pp: int, vp: int, layers: int, mtp: int, data: st.DataObject) -> None:
    total = layers + mtp + 2
    cuts = sorted(data.draw(st.lists(st.integers(0, total), min_size=pp * vp - 1, max_size=pp * vp - 1)))
    sizes = [b - a for a, b in zip([0, *cuts], [*cuts, total], strict=True)]
    layout = layout_of(sizes, pp, layers, mtp, [False] * layers)
    assert (layout.pp, layout.vp, layout.n_layers, layout.mtp_layers) == (pp, vp, layers, mtp)
    of_piece = layout.chunk_of_piece
    assert list(of_piece) == sorted(of_piece) and [of_piece.count(i) for i in range(pp * vp)] == sizes


def test_recompute_flags_begin_each_chunk() -> None:
    c = ParallelConfig(pp=2, vp=2, recompute=int(Recompute.FULL), recompute_layers=4)
    assert even_layout(load_model("llama-3.1-8b"), c).recompute == (True, True, *[False] * 6) * 4


@pytest.mark.parametrize(
    ("chunks", "flags", "words"),
    [
        ((), (), "at least one"),
        (((Chunk(1, embedding=True, head=True),), (Chunk(1), Chunk(1))), (False,) * 3, "same number"),
        (((Chunk(-1, embedding=True, head=True),),), (), "negative"),
        (((Chunk(1, embedding=True), Chunk(1)),), (False, False), "head 0 times"),
        (((Chunk(1, embedding=True), Chunk(1, embedding=True, head=True)),), (False, False), "embedding 2 times"),
        (((Chunk(1), Chunk(1, embedding=True, head=True)),), (False, False), "order of the model"),
        (((Chunk(1, embedding=True, mtp=1), Chunk(1, head=True)),), (False, False), "order of the model"),
        (((Chunk(2, embedding=True, head=True),),), (False,), "1 recompute flags for 2 layers"),
    ],
)
def test_refusals(chunks: tuple[tuple[Chunk, ...], ...], flags: tuple[bool, ...], words: str) -> None:
    with pytest.raises(InvalidProblemError, match=words):
        StageLayout(chunks, flags)


def test_layouts_of_something_else_are_refused() -> None:
    layout = layout_of([3, 3], 2, 4, 0, [False] * 4)
    with pytest.raises(InvalidProblemError, match="8b has 32 and 0"):
        layout.check_model(load_model("llama-3.1-8b"))
    with pytest.raises(InvalidProblemError, match="pp 4 and vp 1"):
        layout.check_config(ParallelConfig(pp=4, layer_split=int(LayerSplit.LAYOUT)))
    with pytest.raises(InvalidProblemError, match="cannot hold"):
        layout_of([3, 2], 2, 4, 0, [False] * 4)


@pytest.mark.parametrize(
    "change",
    [{"layers": "3"}, {"recompute": [0]}, {"recompute": [0, 2]}, {"more": 1}, {"embedding": 1}],
)
def test_unreadable_data_is_refused(change: dict[str, object]) -> None:
    data = layout_of([3, 3], 2, 4, 0, [False] * 4).to_dict()
    data["chunks"][0][0] |= change
    with pytest.raises(InvalidProblemError):
        StageLayout.from_dict(data)
    with pytest.raises(InvalidProblemError, match="not readable"):
        StageLayout.from_dict({"rows": []})
