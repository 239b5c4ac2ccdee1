from __future__ import annotations

from dataclasses import replace

from meshwright.costmodels.layer_order import sparse_layers, spread, windowed_layers
from meshwright.costmodels.load_model import load_model


def test_spread() -> None:
    assert spread(6, 3) == [0, 1, 0, 1, 0, 1]
    assert spread(6, 0) == [0] * 6 and spread(4, 4) == [1] * 4
    assert spread(12, 2) == [0, 0, 0, 0, 0, 1] * 2


def test_sparse_layers() -> None:
    deepseek = load_model("deepseek-v3")
    assert sparse_layers(deepseek) == [0] * 3 + [1] * 58
    assert sparse_layers(load_model("llama-3.1-8b")) == [0] * 32
    assert deepseek.moe is not None
    alternating = replace(deepseek, n_layers=4, moe=replace(deepseek.moe, n_moe_layers=2, dense_first=False))
    assert sparse_layers(alternating) == [0, 1, 0, 1]


def test_windowed_layers() -> None:
    model = load_model("gpt-oss-20b")
    assert windowed_layers(model) == [1, 0] * 12
    everywhere = replace(model, attention=replace(model.attention, windowed_layers=24))
    assert windowed_layers(everywhere) == [1] * 24
    assert windowed_layers(load_model("llama-3.1-8b")) == [0] * 32
