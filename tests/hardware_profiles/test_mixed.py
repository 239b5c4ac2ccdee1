"""Clusters of pools: the file, what it refuses, the plain-data form."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from meshwright.hardware_profiles.errors import InvalidProblemError
from meshwright.hardware_profiles.load import load_cluster
from meshwright.hardware_profiles.load_mixed import is_mixed_file, load_mixed
from meshwright.hardware_profiles.mixed import Link, MixedCluster, mixed_from_dict, mixed_sha256, mixed_to_dict

EXAMPLES = [  # of clusters, with pools or without; links between nodes have files of their own
    path
    for path in sorted((Path(__file__).resolve().parents[2] / "examples").glob("*.yaml"))
    if path.name != "my-links.yaml"
]
POOLS = """name: two
pools:
  - {name: a, cluster: dgx-h100, nodes: 2}
  - {name: b, cluster: dgx-a100-80, nodes: 3, speed: 0.5}
"""
LINK = "between: {kind: ethernet, gbytes_per_s_per_gpu: 2, gbytes_per_s_total: 10, latency_us: 30}\n"


def load(tmp_path, text):
    path = tmp_path / "mix.yaml"
    path.write_text(text)
    return load_mixed(path)


def test_pools_links_and_speed(tmp_path):
    mix = load(tmp_path, POOLS + LINK)
    a, b = mix.pools
    assert mix.names == ("a", "b") and (a.n_gpus, b.n_gpus, mix.n_gpus) == (16, 24, 40)
    assert mix.link("b", "a") == Link(
        pools=("a", "b"), kind="ethernet", bytes_per_s=2e9, total_bytes_per_s=1e10, latency_s=pytest.approx(3e-5)
    )
    healthy = load_cluster("dgx-a100-80", nodes=3).gpu
    assert b.gpu.peak("bf16") == healthy.peak("bf16") / 2 and b.gpu.hbm_bytes_per_s == healthy.hbm_bytes_per_s / 2
    assert b.gpu.memory_bytes == healthy.memory_bytes and mix.speeds == (1.0, 0.5)
    assert a == replace(load_cluster("dgx-h100", nodes=2), name="a")


def test_a_shared_link_divides_among_senders():
    link = Link(pools=("a", "b"), kind="ethernet", bytes_per_s=2e9, total_bytes_per_s=1e10)
    assert link.rate(1) == link.rate(5) == 2e9 and link.rate(10) == 1e9
    assert replace(link, total_bytes_per_s=0.0).rate(1000) == 2e9


def test_a_pool_may_be_written_in_place(tmp_path):
    text = """name: two
pools:
  - {name: a, cluster: dgx-h100, nodes: 1}
  - name: b
    gpu: a100-sxm-80gb
    gpus_per_node: 4
    nodes: 2
    tiers:
      - {kind: nvlink, domain_gpus: 4, gbytes_per_s_per_gpu: 300}
      - {kind: roce, gbytes_per_s_per_gpu: 12.5}
"""
    b = load(tmp_path, text + LINK).pools[1]
    assert (b.n_gpus, b.gpus_per_node, b.tiers[-1].kind, b.tiers[-1].domain_gpus) == (8, 4, "roce", 8)


def test_a_link_without_pools_stands_for_the_rest(tmp_path):
    text = (
        POOLS
        + "  - {name: c, cluster: dgx-h100, nodes: 1}\n"
        + (
            "between:\n  - {pools: [c, a], kind: infiniband, gbytes_per_s_per_gpu: 50}\n"
            "  - {kind: roce, gbytes_per_s_per_gpu: 5}\n"
        )
    )
    mix = load(tmp_path, text)
    assert [(link.pools, link.kind) for link in mix.between] == [
        (("a", "b"), "roce"), (("a", "c"), "infiniband"), (("b", "c"), "roce"),
    ]  # fmt: skip


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.name)
def test_examples_load_and_come_back_from_plain_data(path):
    if not is_mixed_file(str(path)):
        load_cluster(str(path))
        return
    mix = load_mixed(path)
    data = json.loads(json.dumps(mixed_to_dict(mix)))
    assert mixed_from_dict(data) == mix and mixed_sha256(mixed_from_dict(data)) == mixed_sha256(mix)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (POOLS, "key between is missing"),
        (POOLS + "between: []\n", "link between pools a and b is unknown"),
        (POOLS + "between: {kind: string, gbytes_per_s_per_gpu: 2}\n", "no link kind"),
        (POOLS + "between:\n  - {pools: [a, x], kind: roce, gbytes_per_s_per_gpu: 2}\n", "names 'x'"),
        (POOLS + "between:\n  - {pools: [a, a], kind: roce, gbytes_per_s_per_gpu: 2}\n", "with itself"),
        (POOLS + "between:\n  - {pools: [a], kind: roce, gbytes_per_s_per_gpu: 2}\n", "does not name two pools"),
        (POOLS + "between: {kind: roce, gbytes_per_s_per_gpu: 0}\n", "more than zero"),
        (POOLS.replace("name: b", "name: a") + LINK, "two pools named 'a'"),
        (POOLS.replace("speed: 0.5", "speed: 1.5") + LINK, "at most 1"),
        (POOLS.replace("nodes: 3", "nodes: 0") + LINK, "nodes"),
        (POOLS.replace("dgx-a100-80", "dgx-a100-81") + LINK, "Unknown cluster 'dgx-a100-81'"),
        (POOLS.replace("speed", "sped") + LINK, "unknown key pools[1].sped"),
        ("name: one\npools:\n  - {name: a, cluster: dgx-h100, nodes: 2}\n" + LINK, "has one pool"),
        ("name: none\npools: []\n" + LINK, "is empty"),
    ],
)
def test_refusals_name_the_place(tmp_path, text, said):
    with pytest.raises(InvalidProblemError) as error:
        load(tmp_path, text)
    assert said in str(error.value)


def test_a_plain_command_says_that_pools_need_plan(tmp_path):
    path = tmp_path / "mix.yaml"
    path.write_text(POOLS + LINK)
    assert is_mixed_file(str(path)) and not is_mixed_file("dgx-h100") and not is_mixed_file(str(tmp_path / "no.yaml"))
    with pytest.raises(InvalidProblemError, match="is for `meshwright plan` only"):
        load_cluster(str(path))


def test_every_pair_needs_a_link():
    pool = load_cluster("dgx-h100", nodes=1)
    pools = tuple(replace(pool, name=name) for name in "abc")
    one = Link(pools=("a", "b"), kind="roce", bytes_per_s=1e9)
    with pytest.raises(InvalidProblemError, match="between pools a and c is unknown"):
        MixedCluster(name="m", pools=pools, between=(one,))
    mix = MixedCluster(name="m", pools=pools[:2], between=(one,))
    with pytest.raises(InvalidProblemError, match="has no pool 'z'"):
        mix.pool("z")
    broken = mixed_to_dict(mix)
    with pytest.raises(InvalidProblemError, match="speeds"):
        mixed_from_dict({**broken, "speeds": [1.0]})
