"""Shipped models: parameter counts against published ones, names, errors, round trips, models from table columns."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from meshwright.costmodels import load_model as module
from meshwright.costmodels.load_model import (
    find_model,
    list_models,
    load_model,
    model_from_dict,
    model_to_dict,
)
from meshwright.costmodels.model_dims import default_heads, model_from_dims
from meshwright.hardware_profiles.errors import InvalidProblemError

#: Exact counts of elements in the published checkpoints (Hugging Face safetensors metadata or model cards).
EXACT = {
    "llama-2-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "llama-2-70b": 68_976_648_192,
    "llama-3-8b": 8_030_261_248,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "llama-3.3-70b": 70_553_706_496,
    "llama-3.1-405b": 405_853_388_800,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-3b": 3_085_938_688,
    "qwen2.5-7b": 7_615_616_512,
    "qwen2.5-14b": 14_770_033_664,
    "qwen2.5-32b": 32_763_876_352,
    "qwen2.5-72b": 72_706_203_648,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "qwen3-14b": 14_768_307_200,
    "qwen3-32b": 32_762_123_264,
    "qwen3-30b-a3b": 30_532_122_624,
    "qwen3-235b-a22b": 235_093_634_560,
    "qwen1.5-moe-a2.7b": 14_315_784_192,
    "mixtral-8x7b": 46_702_792_704,
    "mixtral-8x22b": 140_620_634_112,
    "deepseek-v2": 235_741_434_880,
    "deepseek-v2-lite": 15_706_484_224,
    "olmo-2-7b": 7_298_617_344,
    "olmo-2-13b": 13_716_198_400,
    "olmo-2-32b": 32_234_279_936,
    "olmoe-1b-7b": 6_919_161_856,
    "gpt-oss-20b": 20_914_757_184,  # keras-hub presets print it
    "gpt-neox-20b": 20_554_567_680,
    "bloom-176b": 176_247_271_424,  # model card
    "chatglm3-6b": 6_243_584_000,
    "baichuan2-13b": 13_896_668_160,
    # mosaicml/llm-foundry scripts/train/benchmarking/README.md, sequence length 2048
    "mpt-125m": 125_311_488,
    "mpt-350m": 355_985_408,
    "mpt-760m": 760_470_528,
    "mpt-1b": 1_315_950_592,
    "mpt-3b": 2_651_837_440,
    "mpt-7b": 6_658_859_008,
    "mpt-13b": 12_853_954_560,
    "mpt-30b": 29_975_214_080,
    "mpt-70b": 64_862_437_376,
}

#: Rounded counts: total in 1e9, relative tolerance of the printed digits, source.
ROUNDED = {
    "deepseek-v3": (671.0, 1e-3),  # arXiv 2412.19437 abstract
    "gpt-oss-120b": (116.83, 1e-4),  # arXiv 2508.10925 Table 1
    "glm-4.5": (355.0, 1e-2),  # arXiv 2508.06471 Table 1
    "glm-4.5-air": (106.0, 1e-2),
    "nemotron-4-340b": (341.0, 2e-3),  # arXiv 2406.11704: 9.4 + 331.6
    "nemotron-4-15b": (15.6, 3e-3),  # arXiv 2402.16819: 3.2 + 12.5, rounded
    "megatron-22b": (22.0, 5e-3),  # arXiv 2205.05198 Table 3
    "gpt3-175b": (174.6, 1e-3),  # arXiv 2104.04473 Table 1 (51200 tokens)
    "mt-nlg-530b": (529.6, 1e-4),
    "megatron-1t": (1008.0, 1e-4),
    "internlm-7b": (7.3, 5e-3),
    "internlm-20b": (20.0, 5e-3),
    "aquila2-7b": (7.3, 5e-3),
    "nemotron3-8b": (8.5, 1e-2),
    "qwen3-0.6b": (0.6, 1e-2),
    "qwen3-1.7b": (1.7, 2e-2),
}

#: Active weights in 1e9 as published, whether the input table counts, tolerance.
ACTIVE = {
    "deepseek-v3": (37.0, True, 0.02),  # arXiv 2412.19437
    "deepseek-v2": (21.0, True, 0.02),  # arXiv 2405.04434
    "mixtral-8x7b": (12.9, True, 0.005),  # arXiv 2401.04088: 13B
    "mixtral-8x22b": (39.0, True, 0.01),
    "qwen3-30b-a3b": (3.3, True, 0.02),  # model card
    "qwen3-235b-a22b": (22.0, True, 0.01),
    "gpt-oss-120b": (5.13, False, 0.002),  # arXiv 2508.10925 Table 1 leaves the embedding table out
    "gpt-oss-20b": (3.61, False, 0.002),
    "olmoe-1b-7b": (1.3, True, 0.02),
    "glm-4.5": (32.0, False, 0.05),
    "glm-4.5-air": (12.0, False, 0.08),
}


@pytest.mark.parametrize("name", sorted(EXACT))
def test_exact_parameter_count(name: str) -> None:
    assert load_model(name).params() == EXACT[name]


@pytest.mark.parametrize("name", sorted(ROUNDED))
def test_rounded_parameter_count(name: str) -> None:
    billions, tolerance = ROUNDED[name]
    assert load_model(name).params() / 1e9 == pytest.approx(billions, rel=tolerance)


@pytest.mark.parametrize("name", sorted(ACTIVE))
def test_active_parameters(name: str) -> None:
    billions, with_table, tolerance = ACTIVE[name]
    model = load_model(name)
    table = 0 if with_table else model.vocab * model.hidden
    assert (model.active_params() - table) / 1e9 == pytest.approx(billions, rel=tolerance)


def test_mtp_layer_of_deepseek_v3() -> None:
    """The weights' README gives 11.5B beside the shared table and head."""
    v3 = load_model("deepseek-v3")
    assert (v3.params(with_mtp=True) - v3.params()) / 1e9 == pytest.approx(11.5, rel=0.015)


@pytest.mark.parametrize(("name", "elements"), [("glm-4.5", 358_337_791_296), ("glm-4.5-air", 110_468_824_832)])
def test_glm_checkpoints_hold_the_mtp_layer(name: str, elements: int) -> None:
    """Hugging Face counts: the MTP layer and its own copies of table and head stand in the checkpoint."""
    model = load_model(name)
    assert model.params(with_mtp=True) + 2 * model.vocab * model.hidden == elements


def test_mpt_counts_follow_the_position_table() -> None:
    """llm-foundry prints 6,918,905,856 for MPT-7B at 65,536 tokens and 124,131,840 for MPT-125M at 512."""
    for name, seq_len, count in [("mpt-7b", 65536, 6_918_905_856), ("mpt-125m", 512, 124_131_840)]:
        model, _ = model_from_dims(name=name, seq_len=seq_len)
        assert model.params() == count


def test_every_shipped_model_loads_and_round_trips() -> None:
    names = list_models()
    assert len(names) >= 65 and names == sorted(names)
    for name in names:
        model = load_model(name)
        assert model.name == name and model.source and model.max_seq_len > 0
        data = model_to_dict(model)
        assert model_from_dict(data) == model
        assert model_from_dict(json.loads(json.dumps(data))) == model


def test_aliases_point_at_shipped_models() -> None:
    aliases = yaml.safe_load((module._FOLDER / "aliases.yaml").read_text())
    names = set(list_models())
    for alias, target in aliases.items():
        assert target in names and find_model(alias) == target


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("llama3.1-70b", "llama-3.1-70b"),
        ("LLAMA-3.1-70B", "llama-3.1-70b"),
        ("meta-llama/Llama-3.1-70B", "llama-3.1-70b"),
        ("meta-llama/Meta-Llama-3.1-8B-Instruct", "llama-3.1-8b"),
        ("meta-llama/Llama-2-7b-hf", "llama-2-7b"),
        ("Qwen/Qwen3-30B-A3B-Instruct-2507", "qwen3-30b-a3b"),
        ("mistralai/Mixtral-8x7B-Instruct-v0.1", "mixtral-8x7b"),
        ("deepseek-ai/DeepSeek-R1", "deepseek-v3"),
        ("allenai/OLMo-2-1124-7B", "olmo-2-7b"),
        ("bigscience/bloom", "bloom-176b"),
        ("nvidia/Nemotron-4-340B-Base", "nemotron-4-340b"),
        ("openai/gpt-oss-120b", "gpt-oss-120b"),
        ("GPT-530B", "mt-nlg-530b"),
        ("gpt3_175b", "gpt3-175b"),
    ],
)
def test_names(text: str, name: str) -> None:
    assert load_model(text).name == name


def test_loading_reads_one_file(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    original = module._read_yaml

    def spy(path: Path) -> dict[str, object]:
        read.append(path.name)
        return original(path)

    monkeypatch.setattr(module, "_read_yaml", spy)
    module._load_shipped.cache_clear()
    load_model("meta-llama/Llama-3.1-8B")
    assert read == ["llama-3.1-8b.yaml"]


def test_own_yaml_and_folder(tmp_path: Path) -> None:
    small = {"n_layers": 2, "hidden": 64, "ffn_hidden": 256, "vocab": 100, "attention": {"n_heads": 4}}
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(small))
    model = load_model(str(path))
    assert (model.name, model.attention.head_dim, model.attention.n_kv_heads) == ("tiny", 16, 4)
    dumped = tmp_path / "dumped.json"
    dumped.write_text(json.dumps(model_to_dict(model)))
    assert load_model(str(dumped)) == model
    folder = tmp_path / "my-llama"
    folder.mkdir()
    config = {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 128, "vocab_size": 100}))
    assert load_model(str(folder)).name == "my-llama"
    assert load_model(str(folder / "config.json")) == load_model(str(folder))


def _error(text: str) -> str:
    with pytest.raises(InvalidProblemError) as caught:
        load_model(text)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_unknown_name_suggests() -> None:
    assert "llama-3.1-70b" in _error("llama-3.1-71b")
    assert "qwen3-14b" in _error("Qwen/Qwen3-15B")
    assert "Unknown model 'zzz'" in _error("zzz")
    assert "Unknown model ''" in _error("")
    assert "Unknown model" in _error("x" * 5000)


def test_file_errors(tmp_path: Path) -> None:
    assert "does not exist" in _error(str(tmp_path / "no.json"))
    assert "holds no config.json" in _error(str(tmp_path))
    bad = tmp_path / "bad.json"
    bad.write_text('{"model_type": ')
    assert "bad.json is not valid JSON" in _error(str(bad)) and "line 1" in _error(str(bad))
    bad.write_text("[" * 100_000)
    assert "nested too deeply" in _error(str(bad))
    bad.write_text("[1]")
    assert "must hold a JSON object" in _error(str(bad))
    bad.write_bytes(b"\xff\xfe\x00")
    assert "not UTF-8" in _error(str(bad))
    garbled = tmp_path / "bad.yaml"
    garbled.write_text("a: [1,\nb: {")
    assert "bad.yaml is not valid YAML" in _error(str(garbled))
    garbled.write_text("just a text")
    assert "must hold a mapping" in _error(str(garbled))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden": 0}, "hidden must be a positive"),
        ({"hidden": 64.0}, "hidden must be a positive"),
        ({"n_layers": -2}, "n_layers must be a positive number, not -2"),
        ({"n_layers": True}, "n_layers must be a positive number, not True"),
        ({"n_layers": "two"}, "n_layers must be a positive number, not 'two'"),
        ({"hiden": 64}, "unknown key hiden. Did you mean hidden"),
        ({"vocab": None}, "vocab must be a positive number, not None"),
        ({"norm": "batchnorm"}, "norm must be one of rmsnorm, layernorm"),
        ({"tied_embeddings": "yes"}, "tied_embeddings must be true or false"),
        ({"attention": {"n_heads": 3}}, "hidden=64 does not divide by n_heads=3"),
        ({"attention": {"n_heads": 4, "n_kv_heads": 3}}, "n_heads=4 must be a multiple of n_kv_heads=3"),
        ({"attention": {"n_heads": 4, "kind": "mla"}}, "mla needs a positive kv_lora_rank"),
        ({"attention": {"n_heads": 4, "windowed_layers": 1}}, "windowed_layers needs a positive window"),
        ({"attention": [1]}, "attention must be a mapping"),
        ({"moe": {"n_experts": 4, "top_k": 8, "ffn_hidden": 8, "n_moe_layers": 2}}, "top_k=8 exceeds n_experts=4"),
        ({"moe": {"n_experts": 4, "top_k": 2, "ffn_hidden": 8}}, "key moe.n_moe_layers is missing"),
    ],
)
def test_wrong_fields(tmp_path: Path, change: dict[str, object], message: str) -> None:
    small = {"n_layers": 2, "hidden": 64, "ffn_hidden": 256, "vocab": 100, "attention": {"n_heads": 4}}
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump({**small, **change}))
    got = _error(str(path))
    assert message in got and "tiny.yaml" in got


def test_missing_field(tmp_path: Path) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump({"n_layers": 2, "hidden": 64, "attention": {"n_heads": 4}}))
    assert "key ffn_hidden is missing" in _error(str(path))


def test_dims_gpt_style() -> None:
    model, notes = model_from_dims(
        name="GPT h2048 l12", n_layers=12, hidden=2048, ffn_hidden=8192.0, vocab=50257, seq_len=1024
    )
    assert (model.gated_ffn, model.norm, model.tied_embeddings, model.learned_positions) == (
        False,
        "layernorm",
        True,
        1024,
    )
    assert (model.attention.n_heads, model.attention.head_dim) == (16, 128)
    assert notes == ("gpt-style layers", "dropout on", "n_heads=16")
    bare, notes = model_from_dims(name="gpt-39B", n_layers=48, hidden=8192, ffn_hidden=float("nan"))
    assert (bare.ffn_hidden, bare.vocab) == (32768, 51200)
    assert "ffn_hidden=32768" in notes and "vocab=51200" in notes


def test_dims_llama_style() -> None:
    model, notes = model_from_dims(
        name="mine", n_layers=16, hidden=2048, n_heads=32, n_kv_heads=8, ffn_hidden=8191, vocab=128256
    )
    assert (model.gated_ffn, model.norm, model.tied_embeddings, model.learned_positions) == (True, "rmsnorm", False, 0)
    assert not (model.attention.qkv_bias or model.ffn_bias or model.dropout)
    assert notes == ("llama-style layers",)
    forced, _ = model_from_dims(name="mine", n_layers=2, hidden=1024, family="llama")
    assert forced.gated_ffn and forced.ffn_hidden == 2816  # 8/3 of 1024, up to a multiple of 256
    bloom, _ = model_from_dims(name="gpt-181B (tr11 tuning)", n_layers=72, hidden=14336, ffn_hidden=57344, vocab=250000)
    assert bloom.embedding_norm and bloom.learned_positions == 0


def test_dims_moe() -> None:
    model, notes = model_from_dims(name="m", n_layers=4, hidden=512, ffn_hidden=1000, n_experts=8)
    assert model.moe is not None and (model.moe.top_k, model.moe.ffn_hidden, model.moe.n_moe_layers) == (2, 1000, 4)
    assert {"top_k=2", "moe_ffn_hidden=1000", "every layer has experts"} <= set(notes)


def test_dims_prefer_a_shipped_model() -> None:
    row = {"n_layers": 61, "hidden": 7168, "n_heads": 128, "ffn_hidden": 18432, "vocab": 129280, "n_experts": 256}
    model, notes = model_from_dims(name="deepseek-v3", **row, top_k=8, moe_ffn_hidden=2048, n_moe_layers=58)
    assert model == load_model("deepseek-v3") and notes == ()
    other, _ = model_from_dims(
        name="llama3-8b", n_layers=4, hidden=4096, n_heads=32, n_kv_heads=8, ffn_hidden=14336, vocab=99
    )
    assert other.n_layers == 4 and other.source != load_model("llama-3-8b").source
    paper, _ = model_from_dims(
        name="GPT-175B (GPT-3) full recompute", n_layers=96, hidden=12288, n_heads=96, vocab=51200
    )
    assert paper == replace(load_model("gpt3-175b"), vocab=51200)
    only_name, notes = model_from_dims(name="qwen1.5-moe-a2.7b")
    assert only_name.moe is not None and only_name.moe.shared_gate and "dimensions of qwen1.5-moe-a2.7b" in notes


def test_dims_errors() -> None:
    with pytest.raises(InvalidProblemError, match=r"'gpt-52B' is no shipped model and n_layers is empty"):
        model_from_dims(name="gpt-52B")
    with pytest.raises(InvalidProblemError, match="hidden must be a positive number, not -1"):
        model_from_dims(name="x", n_layers=2, hidden=-1)
    with pytest.raises(InvalidProblemError, match="hidden must be a positive number, not 'wide'"):
        model_from_dims(name="x", n_layers=2, hidden="wide")
    with pytest.raises(InvalidProblemError, match="hidden=100 does not divide by n_heads=7"):
        model_from_dims(name="x", n_layers=2, hidden=100, n_heads=7)
    with pytest.raises(InvalidProblemError, match="family must be one of gpt, bloom, mpt, llama"):
        model_from_dims(name="x", n_layers=2, hidden=128, family="rnn")


@pytest.mark.parametrize(
    ("hidden", "heads"), [(768, 12), (2304, 24), (4096, 32), (5120, 40), (12288, 96), (14400, 120)]
)
def test_default_heads(hidden: int, heads: int) -> None:
    assert default_heads(hidden) == heads


def _runs() -> Path | None:
    given = os.environ.get("MESHWRIGHT_DATA")
    here = Path(given) if given else Path(__file__).resolve().parents[3] / "shared" / "data"
    return here / "training_runs" if (here / "training_runs").is_dir() else None


@pytest.mark.skipif(_runs() is None, reason="no training_runs folder (set MESHWRIGHT_DATA)")
def test_every_row_with_dimensions_gives_a_model() -> None:
    import csv

    columns = "n_layers hidden n_heads n_kv_heads ffn_hidden vocab n_experts top_k moe_ffn_hidden n_moe_layers seq_len"
    folder = _runs()
    assert folder is not None
    rows = 0
    for path in sorted(folder.glob("*.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                if row.get("n_layers") and row.get("hidden"):
                    model, _ = model_from_dims(name=row["model_name"], **{k: row.get(k) for k in columns.split()})
                    assert model.n_layers == int(float(row["n_layers"])) and model.hidden == int(float(row["hidden"]))
                    rows += 1
    assert rows > 1000
