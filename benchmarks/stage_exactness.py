"""Where three kinds of stage (first, middle, last) are not the whole truth, and by how much.

Run: ``python benchmarks/stage_exactness.py``. Even layouts priced stage by stage against ``estimate`` on 32 nodes of
H100: middle stages of unequal layers, sliding windows that fall unevenly on stages, dense and sparse layers of which a
part recomputes. Differences are exact over estimated, of step and peak.
"""

from __future__ import annotations

from meshwright.costmodels.load_model import load_model
from meshwright.costmodels.load_software import default_software
from meshwright.costmodels.parallel import LayerSplit, ParallelConfig, Recompute
from meshwright.costmodels.stage_layout import even_layout
from meshwright.costmodels.stage_pricing import price_stages
from meshwright.costmodels.training import estimate
from meshwright.costmodels.workload import Workload
from meshwright.hardware_profiles.load import load_cluster

LAYOUT, FULL = int(LayerSplit.LAYOUT), int(Recompute.FULL)
CASES = (
    ("unequal middle stages", "llama-3.1-405b", 8192, {"tp": 8, "pp": 8, "dp": 2}),
    ("unequal middle stages", "llama-3.1-8b", 4096, {"tp": 8, "pp": 7, "dp": 2}),
    ("windows, 2 layers a stage", "gpt-oss-20b", 8192, {"pp": 12, "dp": 8}),
    ("windows, 3 layers a stage", "gpt-oss-20b", 8192, {"pp": 8, "dp": 8}),
    ("windows, 3 layers a stage", "gpt-oss-20b", 32768, {"pp": 8, "dp": 8}),
    ("windows, 1 layer a stage", "gpt-oss-20b", 32768, {"pp": 24, "dp": 8}),
    ("dense first, all recompute", "deepseek-v3", 4096, {"ep": 8, "pp": 16, "dp": 16, "recompute": FULL}),
    ("dense first, 2 a stage do", "deepseek-v3", 4096, {"ep": 8, "pp": 4, "dp": 16, "recompute": FULL,
                                                        "recompute_layers": 2}),
    ("dense first, 8 of 61 do", "deepseek-v3", 4096, {"ep": 8, "dp": 16, "recompute": FULL, "recompute_layers": 8}),
)  # fmt: skip


def main() -> None:
    cluster = load_cluster("dgx-h100", nodes=32)
    software = default_software("megatron-lm", cluster.gpu)
    print(f"{'case':28} {'model':15} {'tokens':>6} {'pp':>3} {'step':>8} {'peak':>8}")
    for name, model_name, seq_len, fields in CASES:
        model, workload = load_model(model_name), Workload(seq_len=seq_len, global_batch=512)
        config = ParallelConfig(layer_split=LAYOUT, **fields)
        about = estimate(model, workload, config, cluster, software)
        _, exact = price_stages(model, workload, cluster, software, config, even_layout(model, config))
        step = float(exact.step_s) / float(about.step_s) - 1.0
        peak = float(exact.peak_bytes) / float(about.peak_bytes) - 1.0
        print(f"{name:28} {model_name:15} {seq_len:6} {config.pp:3} {step:+8.3%} {peak:+8.3%}")


if __name__ == "__main__":
    main()
