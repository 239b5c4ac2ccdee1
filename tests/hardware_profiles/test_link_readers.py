import os
from pathlib import Path

import numpy as np
import pytest

from meshwright.hardware_profiles.errors import InvalidProblemError
from meshwright.hardware_profiles.link_matrix import LinkMatrix
from meshwright.hardware_profiles.link_readers import read_links
from meshwright.hardware_profiles.load import load_cluster

DATA = Path(os.environ.get("MESHWRIGHT_DATA", Path(__file__).resolve().parents[2].parent / "shared" / "data"))

MPIGRAPH = (
    "some line of a launcher\nSTART mpiGraph v1.5\nMsgSize\t1048576\nTimes\t10\nWindow\t10\nProcs\t3\n\n"
    "1 of 3 (33.3%)\n2 of 3 (66.7%)\nGathering results\n\nSend max\t2000.000000\nSend avg\t1500.000000\n\n"
    "Send\tn1:0\tn2:1\tn-3:2\t\n"
    "n1:0 to\t0.000\t1000.000\t2000.000\t\nn2:1 to\t1100.000\t0.000\t500.000\t\n"
    "n-3:2 to\t1900.000\t600.000\t0.000\t\n\n"
    "Recv max\t1.0\nRecv avg\t1.0\n\nRecv\tn1:0\tn2:1\tn-3:2\t\nn1:0 from\t0.000\t1.000\t1.000\t\nEND mpiGraph\n"
)


def nccl_log(a, b, rates=(20.5, 40.0), tag="", wrong="0"):
    rows = "".join(
        f"{tag}{8 << (20 + 4 * i):>12}  {1 << (20 + 4 * i):>12}     float    none      -1"
        f"   {100.5 * (i + 1):.2f}   {r:.2f}   {r:.2f}    N/A    99.0   1.00   1.00    {wrong}\n"
        for i, r in enumerate(rates)
    )
    return (
        f"{tag}# nThread 1 nGpus 1 minBytes 8388608 maxBytes 134217728 step: 16(factor) warmup iters: 5\n{tag}#\n"
        f"{tag}# Using devices\n"
        f"{tag}#  Rank  0 Group  0 Pid   2001 on         {a} device  0 [0000:0f:00] NVIDIA H100 80GB HBM3\n"
        f"{tag}#  Rank  1 Group  0 Pid   2002 on         {b} device  0 [0000:0f:00] NVIDIA H100 80GB HBM3\n"
        f"{tag}#\n{tag}#                                                out-of-place                in-place\n"
        f"{tag}#       size         count      type   redop    root     time   algbw   busbw  #wrong     time   algbw"
        f"   busbw  #wrong\n{tag}#        (B)    (elements)                               (us)  (GB/s)  (GB/s)\n"
        f"{rows}{tag}# Out of bounds values : 0 OK\n{tag}# Avg bus bandwidth    : 30.1\n"
    )


def write(folder, name, text):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_matrix_of_a_csv_keeps_direction_racks_and_unit(tmp_path):
    links = read_links(write(tmp_path, "m.csv", "gbit_per_s,rack,a,b\na,r1,0,80\nb,r2,40,\n"))
    assert links.nodes == ("a", "b") and links.racks == ("r1", "r2")
    assert links.bytes_per_s[0, 1] == 10e9 and links.bytes_per_s[1, 0] == 5e9
    assert np.isinf(links.bytes_per_s[0, 0]) and not links.symmetric and links.measured


def test_a_list_of_pairs_counts_both_ways(tmp_path):
    text = "from,to,latency_ms,gbytes_per_s\na,b,1,10\na,c,1,20\nb,c,1,30\nc,b,1,5\n"
    links = read_links(write(tmp_path, "m.csv", text))
    assert links.bytes_per_s[1, 0] == 10e9 and links.bytes_per_s[1, 2] == 30e9 and links.bytes_per_s[2, 1] == 5e9


def test_mpigraph_is_mib_and_its_rows_send(tmp_path):
    links = read_links(write(tmp_path, "mpiGraph.out", MPIGRAPH))
    assert links.nodes == ("n1", "n2", "n-3")
    assert links.bytes_per_s[0, 2] == 2000 * 2**20 and links.bytes_per_s[2, 0] == 1900 * 2**20


def test_nccl_logs_of_a_folder_give_busbw_of_the_largest_message(tmp_path):
    write(tmp_path, "a-b.log", nccl_log("a", "b"))
    write(tmp_path, "a-c.log", nccl_log("a", "c", rates=(1.0, 20.0), tag="[1,0]<stdout>:"))
    write(tmp_path, "b-c.log", nccl_log("b", "c", rates=(30.0,)))
    write(tmp_path, "notes.txt", "nothing of ours")
    links = read_links(tmp_path)
    assert links.nodes == ("a", "b", "c") and links.symmetric
    assert links.bytes_per_s[0].tolist() == [np.inf, 40e9, 20e9] and links.bytes_per_s[2, 1] == 30e9


def test_nccl_runs_one_after_another_in_one_log(tmp_path):
    text = nccl_log("a", "b") + nccl_log("a", "c") + nccl_log("b", "c", rates=(7.0,))
    links = read_links(write(tmp_path, "all.log", text))
    assert links.bytes_per_s[1, 2] == 7e9


YAML = """
links:
  racks: {r1: "n[01-02]", r2: [n03, n04], r3: [m5]}
  pods: {p1: [r1, r2], p2: r3}
  gbit_per_s: {rack: 400, pod: 200, cluster: {value: 100, source: the bill}}
  degraded: {n03: 0.5}
"""


def test_tiers_and_degraded_nodes_of_a_yaml_file(tmp_path):
    links = read_links(write(tmp_path, "links.yaml", YAML))
    assert links.nodes == ("n01", "n02", "n03", "n04", "m5") and links.racks[2] == "r2" and links.pods[4] == "p2"
    gbit = links.bytes_per_s * 8e-9
    assert gbit[0, 1] == 400 and gbit[0, 3] == 200 and gbit[0, 4] == 100 and gbit[2, 3] == 200 and gbit[2, 4] == 50
    assert links.degraded == {"n03": 0.5} and not links.measured and links.rack_order() == (0, 1, 2, 3, 4)


def test_the_links_of_a_cluster_file_do_not_disturb_the_cluster(tmp_path):
    text = (
        "name: mine\ngpu: h100-sxm-80gb\ngpus_per_node: 8\nnodes: 5\n"
        "tiers:\n  - {kind: nvlink, domain_gpus: 8, gbytes_per_s_per_gpu: 450}\n"
        "  - {kind: infiniband, gbytes_per_s_per_gpu: 50}\n"
    )
    path = write(tmp_path, "mine.yaml", text + YAML)
    assert load_cluster(str(path)).nodes == 5 and len(read_links(path).nodes) == 5


def test_order_by_rack_keeps_the_racks_together_and_reordering_moves_everything():
    links = LinkMatrix(
        nodes=("a", "b", "c", "d"), bytes_per_s=np.arange(1.0, 17).reshape(4, 4), racks=("x", "y", "x", "y")
    )
    assert links.rack_order() == (0, 2, 1, 3)
    moved = links.reordered(links.rack_order())
    assert moved.nodes == ("a", "c", "b", "d") and moved.racks == ("x", "x", "y", "y")
    assert moved.bytes_per_s[1, 2] == links.bytes_per_s[2, 1]


def test_equal_links_are_called_equal():
    assert LinkMatrix(nodes=("a", "b", "c"), bytes_per_s=np.full((3, 3), 5.0)).equal
    assert not LinkMatrix(nodes=("a", "b"), bytes_per_s=np.array([[1, 2], [3, 4]])).equal
    assert LinkMatrix(nodes=("a",), bytes_per_s=np.ones((1, 1))).equal


def test_per_node_bandwidth_is_shared_by_the_gpus():
    links = LinkMatrix(nodes=("a", "b"), bytes_per_s=np.full((2, 2), 80.0), per="node")
    assert links.per_gpu(8)[0, 1] == 10 and links.seconds_per_byte(8)[0].tolist() == [0, 0.1]


BAD = {
    "gone.csv": (None, "no such file"),
    "empty.csv": ("", "holds no links"),
    "text.txt": ("hello\n", "neither"),
    "one.csv": ("gbps,a\n", "holds no links"),
    "unit.csv": ("furlongs,a,b\na,0,1\nb,1,0\n", "names the unit"),
    "names.csv": ("gbps,a,b\na,0,1\nc,1,0\n", "same nodes"),
    "short.csv": ("gbps,a,b\na,0\nb,1,0\n", "has 2 cells"),
    "word.csv": ("gbps,a,b\na,0,x\nb,1,0\n", "'x'"),
    "zero.csv": ("gbps,a,b\na,0,0\nb,1,0\n", "positive"),
    "nan.csv": ("gbps,a,b\na,0,nan\nb,1,0\n", "positive"),
    "twice.csv": ("gbps,a,a\na,0,1\na,1,0\n", "stands there twice"),
    "missing.csv": ("from,to,gbps\na,b,1\na,c,1\n", "1 of 3 pairs are missing"),
    "double.csv": ("from,to,gbps\na,b,1\na,b,1\n", "a second time"),
    "self.csv": ("from,to,gbps\na,a,1\na,b,1\n", "paired with itself"),
    "nounit.csv": ("from,to,speed\na,b,1\n", "exactly one bandwidth column"),
    "tasks.out": (MPIGRAPH.replace("n2:", "n1:"), "more than one task"),
    "cut.out": (MPIGRAPH[: MPIGRAPH.index("n2:1 to")], "cut short"),
    "none.out": ("START mpiGraph v1.5\n", "no Send table"),
    "three.log": (
        nccl_log("a", "b").replace("#\n#  ", "#  Rank  2 Group  0 Pid 3 on c device  0 [x] y\n#\n#  ", 1),
        "3 h",
    ),
    "norows.log": (nccl_log("a", "b", rates=()), "no row of results"),
    "again.log": (nccl_log("a", "b") + nccl_log("b", "a"), "measured twice"),
    "nolinks.yaml": ("name: x\n", "no section links"),
    "typo.yaml": ("links: {rcks: {}}\n", "Did you mean racks"),
    "level.yaml": ("links: {racks: {a: [x], b: [y]}, gbps: 1}\n", "gbps"),
    "tier.yaml": ("links: {racks: {a: [x], b: [y]}, gbit_per_s: {rack: 1}}\n", "cluster is missing"),
    "node.yaml": (YAML.replace("{n03: 0.5}", "{n3: 0.5}"), "no node of the racks"),
    "factor.yaml": (YAML.replace("0.5", "1.5"), "at most 1"),
    "pod.yaml": (YAML.replace("p2: r3", "p2: r4"), "has no nodes"),
    "podless.yaml": (YAML.replace(", p2: r3", ""), "leaves rack r3 out"),
    "range.yaml": (YAML.replace("n[01-02]", "n[02-01]"), "runs backwards"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_sentence_that_names_the_file(tmp_path, name):
    text, words = BAD[name]
    path = tmp_path / name
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(InvalidProblemError) as caught:
        read_links(path)
    message = str(caught.value)
    assert words in message and (name in message) and "\n" not in message


def test_a_folder_without_logs_and_a_pair_measured_in_two_files(tmp_path):
    with pytest.raises(InvalidProblemError, match="holds no log"):
        read_links(tmp_path)
    write(tmp_path, "1.log", nccl_log("a", "b"))
    write(tmp_path, "2.log", nccl_log("b", "a"))
    with pytest.raises(InvalidProblemError, match="measured already"):
        read_links(tmp_path)


def test_measured_links_between_cloud_regions():
    table = DATA / "paper_tables" / "skippipe_gcp_links.csv"
    if not table.is_file():
        pytest.skip(f"no measured tables at {DATA}; set MESHWRIGHT_DATA")
    links = read_links(table)
    assert len(links.nodes) == 12 and links.symmetric
    slowest = np.unravel_index(np.argmin(links.bytes_per_s), links.bytes_per_s.shape)
    assert {links.nodes[i] for i in slowest} == {"NL", "London"}
