"""How well a head and an embedding split over p stages scale, against arXiv 2411.05288, Table 3.

``python benchmarks/vocabulary_scaling.py vocab_layer_scaling_factor.csv`` prints the share of linear scaling (whole
time over p times a shard's) that the cost model gives for the paper's models at a vocabulary of 256k, beside the
printed one. Nothing is fitted to the table.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

from meshwright.costmodels.load_software import software_for_run  # noqa: E402
from meshwright.costmodels.model_dims import model_from_dims  # noqa: E402
from meshwright.costmodels.parallel import ParallelConfig, VocabParallel  # noqa: E402
from meshwright.costmodels.stage_time import embedding_time, head_time  # noqa: E402
from meshwright.costmodels.workload import Workload  # noqa: E402
from meshwright.hardware_profiles.load import cluster_from_gpu, load_gpu, resolve_gpu  # noqa: E402

HIDDEN = {8: 3072, 16: 4096, 32: 5120}
HEADS = {8: 24, 16: 32, 32: 40}
KINDS = {"output vocab-1": VocabParallel.TWO_BARRIERS, "output vocab-2": VocabParallel.ONE_BARRIER}


def share(layer: str, gpus: int, seq: int) -> float:
    """Per cent of linear scaling."""
    gpu = load_gpu(resolve_gpu("A100-SXM", 80.0))
    cluster = cluster_from_gpu(gpu, n_gpus=gpus, gpus_per_node=8)
    hidden = HIDDEN[gpus]
    model, _ = model_from_dims(
        name="paper", n_layers=32, hidden=hidden, n_heads=HEADS[gpus], ffn_hidden=4 * hidden, vocab=256000, seq_len=seq
    )
    work = Workload(seq_len=seq, global_batch=128, precision="fp16")
    software, _, _ = software_for_run("", 2024, gpu.architecture, "", ("eager",))
    if layer == "input":  # every stage looks all tokens up
        whole = sum(float(t) for t in embedding_time(cluster, model, work, ParallelConfig()))
        return 100.0 * whole / (gpus * whole)
    plain = head_time(cluster, model, work, software, ParallelConfig(pp=gpus))
    split = head_time(cluster, model, work, software, ParallelConfig(pp=gpus, vocab_parallel=KINDS[layer]))
    return 100.0 * float(plain[0] + plain[1]) / (gpus * float(split[0] + split[1]))


def main() -> None:
    """Print one line for every row of the table."""
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    with Path(sys.argv[1]).open(newline="") as file:
        rows = list(csv.DictReader(file))
    print("layer            seq   8 GPUs: table model   16: table model   32: table model")
    for row in rows:
        cells = [
            f"{float(row[f'pct_of_linear_{n}gpu']):11.1f} {share(row['layer'], n, int(row['seq_len'])):5.1f}"
            for n in HIDDEN
        ]
        print(f"{row['layer']:15s} {row['seq_len']:>5s}  {'  '.join(cells)}")


if __name__ == "__main__":
    main()
