import json

import pytest

from meshwright.hardware_profiles.errors import InvalidProblemError, MissingProfileDataError
from meshwright.planner.layer_profiles import galvatron, metis, piper, table

MIB = 2**20


def piper_file():
    def run(**changed):
        return {
            "id": "vanilla",
            "timePerSample": 2.0,
            "parameterSize": 4.0,
            "memoryUsageA": 3.0,
            "memoryUsageB": 5.0,
            "syncTimeFw": {},
            "syncTimeBw": {},
        } | changed

    return {
        "maxDevices": 4,
        "maxMemoryPerDevice": 100.0,
        "bandwidth": 10.0,
        "mbsInBatch": 8,
        "nodes": [
            {"id": 7, "name": "second", "TMPCs": {"1": [run(syncTimeFw={"3": 1.5})]}},
            {"id": 3, "name": "first", "TMPCs": {"1": [run(syncTimeBw={"7": 2.5}), run(id="again", timePerSample=3.0,
                                                                                     syncTimeBw={"7": 2.5})]}},
        ],
        "edges": [{"sourceId": 3, "destId": 7, "communicationCost": 6.0}],
    }  # fmt: skip


def write(path, data):
    path.write_text(json.dumps(data))
    return path


def test_piper_orders_renumbers_and_keeps_what_the_file_states(tmp_path):
    profile = piper.read(write(tmp_path / "p.json", piper_file()), seconds_per_unit=1e-3)
    assert [layer.name for layer in profile.layers] == ["first", "second"]
    first = profile.layers[0].runs
    assert [r.variant for r in first] == ["plain", "again"]
    assert first[1].time_s == pytest.approx(3e-3) and dict(first[0].sync_out_bytes) == {1: 2.5}
    assert dict(profile.layers[1].runs[0].sync_in_bytes) == {0: 1.5}
    assert profile.edges[0].volume_bytes == 6.0 and profile.is_chain
    assert profile.stated == {"devices": 4, "memory_bytes": 100, "bandwidth_bytes_per_s": 10, "micro_batches": 8}


def changed(data, path, value):
    *way, last = path
    for step in way:
        data = data[step]
    if value is ...:
        del data[last]
    else:
        data[last] = value


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("nodes", 0, "TMPCs", "1", 0, "timePerSample"), ..., "node 7 .*lacks 'timePerSample'"),
        (("nodes", 0, "TMPCs", "1", 0, "memoryUsageA"), -1, "'memoryUsageA' .* is -1"),
        (("nodes", 0, "TMPCs", "1", 0, "memoryUsageA"), "much", "'memoryUsageA' .* is 'much'"),
        (("nodes", 0, "TMPCs", "1", 0, "timeperSample"), 1, "unknown key 'timeperSample'.*Did you mean timePerSample"),
        (("nodes", 0, "TMPCs", "1", 0, "syncTimeFw", "8"), 1, "node 8, to which no such edge"),
        (("nodes", 0, "TMPCs", "x"), [], "'x'; it must be a whole number"),
        (("nodes", 0, "id"), 3, "the same id"),
        (("nodes",), {}, "must be a list"),
        (("edges", 0, "destId"), 9, "no node has that id"),
        (("edges", 0, "communicationCost"), float("nan"), "finite"),
        (("bandwith",), 1, "unknown key 'bandwith'"),
    ],
)
def test_piper_names_what_is_wrong(tmp_path, path, value, words):
    data = piper_file()
    changed(data, path, value)
    file = write(tmp_path / "p.json", data)
    with pytest.raises((InvalidProblemError, MissingProfileDataError), match=words) as caught:
        piper.read(file)
    assert str(file) in str(caught.value)


def test_a_cycle_and_text_that_is_not_json_are_named(tmp_path):
    data = piper_file()
    data["edges"].append({"sourceId": 7, "destId": 3, "communicationCost": 0})
    with pytest.raises(InvalidProblemError, match="cycle"):
        piper.read(write(tmp_path / "p.json", data))
    (tmp_path / "q.json").write_text("{")
    with pytest.raises(InvalidProblemError, match=r"q\.json is not JSON"):
        piper.read(tmp_path / "q.json")
    (tmp_path / "r.json").write_text('{"nodes": [], "nodes": []}')
    with pytest.raises(InvalidProblemError, match="'nodes' twice"):
        piper.read(tmp_path / "r.json")


COMPUTATION = {
    "layernum[2]_bsz1_seq64": 9.0,
    "layertype_0_bsz1_seq64": 4.0,
    "layertype_0_bsz2_seq64": 3.0,
    "layertype_other_bsz1_seq64": 2.0,
    "layertype_other_bsz2_seq64": 2.0,
}
MEMORY = {
    "1_1_8_sp": {},
    "layertype_0_sp": {
        "64": {"parameter_size": 100.0, "tp_activation_per_bsz_dict": {"1": 50.0, "2": 30.0, "checkpoint": 8.0}}
    },
    "other_memory_pp_on_first_sp": {"64": {"model_states": {"1": 40.0, "2": 24.0}, "activation": {"1": 6.0, "2": 4.0}}},
    "other_memory_pp_on_last_sp": {"64": {"model_states": {"1": 44.0, "2": 28.0}, "activation": {"1": 9.0, "2": 5.0}}},
}


def read_galvatron(tmp_path, computation=COMPUTATION, memory=MEMORY, **options):
    return galvatron.read(
        write(tmp_path / "c.json", computation), write(tmp_path / "m.json", memory), **{"layers": 3} | options
    )


def test_galvatron_by_hand(tmp_path):
    profile = read_galvatron(tmp_path)
    assert [layer.name for layer in profile.layers] == ["embedding", "layer 0", "layer 1", "layer 2", "head"]
    assert profile.settings == (("", 1, 1), ("", 1, 2), ("", 2, 1), ("", 2, 2))
    plain, again = profile.layers[1].variants(("", 1, 2))
    assert plain.time_s == pytest.approx(2 * 3e-3 * 3) and plain.forward_s == pytest.approx(6e-3) and plain.measured
    assert (plain.fixed_bytes, plain.in_flight_bytes) == (400 * MIB, 100 * MIB)
    assert again.time_s == pytest.approx(6e-3 * 4) and again.in_flight_bytes == 16 * MIB
    # batch times 4 and 6 ms lie on 2 b + 2; half a batch of 2 takes 4 ms
    split = profile.layers[1].variants(("", 2, 2))[0]
    assert split.forward_s == pytest.approx(4e-3) and not split.measured and split.parameter_bytes == 50 * MIB
    (head,) = profile.layers[4].variants(("", 1, 1))
    assert head.time_s == pytest.approx(1e-3 * 3) and head.fixed_bytes == 44 * MIB
    assert any("backward is 2 times" in sentence for sentence in profile.assumptions)


@pytest.mark.parametrize(
    ("where", "path", "value", "words"),
    [
        ("computation", ("layertipe_0",), 1.0, "unknown key 'layertipe_0'"),
        ("computation", ("layertype_1_bsz1_seq64",), 1.0, "layer type 0 only"),
        ("computation", ("layertype_0_bsz1_seq128",), 1.0, "sequence lengths 64, 128; choose one"),
        ("computation", ("layertype_0_bsz1_seq64",), -4.0, "is -4.0"),
        ("computation", ("layertype_0_bsz2_seq64",), 1.0, "time falls from 0.012 with micro-batch 1 to 0.006 with 2"),
        ("memory", ("layertype_1_sp",), {}, "unknown key 'layertype_1_sp'"),
        ("memory", ("other_memory_pp_on_last_sp",), ..., "lacks 'other_memory_pp_on_last_sp'"),
        ("memory", ("layertype_0_sp", "64", "parameter_size"), ..., "lacks 'parameter_size'"),
        ("memory", ("other_memory_pp_on_last_sp", "64", "activation", "2"), ..., "lacks '2'"),
    ],
)
def test_galvatron_names_what_is_wrong(tmp_path, where, path, value, words):
    files = {"computation": json.loads(json.dumps(COMPUTATION)), "memory": json.loads(json.dumps(MEMORY))}
    changed(files[where], path, value)
    with pytest.raises((InvalidProblemError, MissingProfileDataError), match=words) as caught:
        read_galvatron(tmp_path, **files)
    assert "json" in str(caught.value)


def test_galvatron_without_any_time_of_other(tmp_path):
    kept = {k: v for k, v in COMPUTATION.items() if "other" not in k}
    with pytest.raises(MissingProfileDataError, match="layertype_other_bszB"):
        read_galvatron(tmp_path, kept)
    with pytest.raises(InvalidProblemError, match="0 layers"):
        read_galvatron(tmp_path, layers=0)


def metis_file(batch, memory, times=(3.0, 10.0)):
    return {
        "model": {
            "model_name": "two",
            "num_layers": 2,
            "parameters": {"total_parameters_bytes": 300, "parameters_per_layer_bytes": [100, 200]},
        },
        "execution_time": {"layer_compute_total_ms": [t * batch for t in times], "optimizer_time_ms": 1.0},
        "execution_memory": {"total_memory": 1, "layer_memory_total_mb": memory},
    }


def test_metis_by_hand(tmp_path):
    write(tmp_path / "DeviceType.A100_tp2_bs1.json", metis_file(1, [50, 110]))
    write(tmp_path / "DeviceType.A100_tp2_bs2.json", metis_file(2, [50, 120]))
    profile = metis.read(tmp_path)
    assert profile.settings == (("A100", 2, 1), ("A100", 2, 2))
    run = profile.layers[1].variants(("A100", 2, 2))[0]
    assert run.time_s == pytest.approx(0.02) and run.parameter_bytes == 100
    assert run.in_flight_bytes == pytest.approx(20 * MIB) and run.fixed_bytes == pytest.approx(100 * MIB)
    assert profile.layers[0].runs[0].in_flight_bytes == pytest.approx(0)
    assert any("no activation sizes" in sentence for sentence in profile.assumptions)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("model", "num_layers"), 3, "'layer_compute_total_ms' .* has 2 entries for 3 layers"),
        (("execution_memory", "layer_memory_total_mb"), [1], "has 1 entries for 2 layers"),
        (("model", "parameters", "total_parameters_bytes"), 400, "add up to 300"),
        (("execution_time", "layer_compute_total_ms", 0), None, "entry 0 .* is None"),
        (("execution_time", "speed"), 1, "unknown key 'speed'"),
        (("execution_memory",), ..., "lacks 'execution_memory'"),
    ],
)
def test_metis_names_what_is_wrong(tmp_path, path, value, words):
    data = metis_file(1, [50, 110])
    changed(data, path, value)
    write(tmp_path / "DeviceType.A100_tp2_bs1.json", data)
    with pytest.raises((InvalidProblemError, MissingProfileDataError), match=words):
        metis.read(tmp_path)


def test_metis_folders(tmp_path):
    with pytest.raises(MissingProfileDataError, match="holds no DeviceType"):
        metis.read(tmp_path)
    write(tmp_path / "a100.json", {})
    with pytest.raises(InvalidProblemError, match="not named DeviceType"):
        metis.read(tmp_path)
    with pytest.raises(InvalidProblemError, match="not a folder"):
        metis.read(tmp_path / "a100.json")


CSV = """# two layers on one kind of device
layer,tp,micro_batch_size,variant,forward_ms,time_ms,parameter_bytes,in_flight_bytes,fixed_bytes,sends_bytes
embed,1,2,,1,3,100,40,500,64
block,1,2,plain,2,6,200,80,800,
block,1,2,recompute,2,8,200,10,900,
"""


def test_csv_by_hand(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text(CSV)
    profile = table.read_csv(path)
    assert [layer.name for layer in profile.layers] == ["embed", "block"]
    assert profile.edges[0].volume_bytes == 64 and profile.settings == (("", 1, 2),)
    plain, again = profile.layers[1].variants(("", 1, 2))
    assert (plain.time_s, plain.forward_s, again.in_flight_bytes) == (0.006, 0.002, 10)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("time_ms", "time", "unknown key 'time'"),
        (",in_flight_bytes", "", "lacks the column 'in_flight_bytes'"),
        ("embed,1,2,,1,3", "embed,1,2,,1,fast", "'time_ms' of row 1 .* is 'fast'"),
        ("embed,1,2,,1,3", "embed,1,2,,1,", "row 1 .* lacks 'time_ms'"),
        ("embed,1,2,,1,3", "embed,1.5,2,,1,3", "'tp' of row 1"),
        ("embed,1,2,,1,3", "embed,1,2,,4,3", "the forward takes 0.004 s, longer"),
        (",64", "", "as many fields"),
        ("block,1,2,recompute", "block,1,2,plain", "stands there twice"),
        ("900,", "900,7", "'sends_bytes' of row 3"),
    ],
)
def test_csv_names_what_is_wrong(tmp_path, old, new, words):
    path = tmp_path / "p.csv"
    path.write_text(CSV.replace(old, new, 1))
    with pytest.raises((InvalidProblemError, MissingProfileDataError), match=words):
        table.read_csv(path)


YAML = """
format: meshwright.layer-profile/v1
source: my profiler, 2026-11
layers:
  - name: a
    runs: [{tp: 1, time_ms: 4, parameter_bytes: 10, in_flight_bytes: 2, fixed_bytes: 3, sync_out_bytes: {c: 5}}]
  - name: b
    runs: [{tp: 1, time_ms: 4, parameter_bytes: 10, in_flight_bytes: 2, fixed_bytes: 3}]
  - name: c
    runs: [{tp: 1, time_ms: 4, parameter_bytes: 10, in_flight_bytes: 2, fixed_bytes: 3}]
edges:
  - {from: a, to: c, bytes: 7}
  - {from: b, to: c, bytes: 9}
"""


def test_yaml_by_hand(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text(YAML)
    profile = table.read_file(path)
    assert profile.source == "my profiler, 2026-11" and not profile.is_chain
    assert [(e.source, e.target, e.volume_bytes) for e in profile.edges] == [(0, 2, 7), (1, 2, 9)]
    assert dict(profile.layers[0].runs[0].sync_out_bytes) == {2: 5}
    path.write_text(YAML[: YAML.index("edges")])
    assert table.read_file(path).is_chain


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("/v1", "/v2", "'format' .* is 'meshwright.layer-profile/v2'"),
        ("name: b", "name: a", "same name"),
        ("{c: 5}", "{d: 5}", "names layer 'd'"),
        ("to: c, bytes: 7", "to: c, byte: 7", "unknown key 'byte'"),
        ("tp: 1, ", "", "lacks 'tp'"),
        ("time_ms: 4", "time_ms: -4", "'time_ms' .* is -4"),
    ],
)
def test_yaml_names_what_is_wrong(tmp_path, old, new, words):
    path = tmp_path / "p.yaml"
    path.write_text(YAML.replace(old, new, 1))
    with pytest.raises((InvalidProblemError, MissingProfileDataError), match=words):
        table.read_file(path)
