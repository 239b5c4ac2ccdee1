"""TorchTitan: degrees, splits and refusals; its own parser where MESHWRIGHT_TORCHTITAN_PYTHON has it."""

from __future__ import annotations

import json
import os
import subprocess

import pytest
from sample_plans import LLAMA, MIXTRAL, plan_set

from meshwright.costmodels.load_model import load_model
from meshwright.costmodels.parallel import ParallelConfig, Recompute, Schedule
from meshwright.planner.emitters import LaunchOptions, get
from meshwright.planner.emitters.torchtitan import CHECKPOINTING, registry_entry, titan_flags, titan_split
from meshwright.planner.plan import Plan, PlanSet

PYTHON = os.environ.get("MESHWRIGHT_TORCHTITAN_PYTHON", "")
SELECTIVE = int(Recompute.NORM | Recompute.FFN_ACTIVATION)


def made(model: object = LLAMA, **config: object) -> tuple[PlanSet, Plan]:
    stages = config.pop("stages", None)
    full = ParallelConfig(**{"zero_stage": 3, **config})  # type: ignore[arg-type]
    return plan_set(model, full, framework="torchtitan", stage_layers=stages)  # type: ignore[arg-type]


def options_of(ps: PlanSet, plan: Plan) -> dict[str, str]:
    return {f[0]: " ".join(f[1:]) for f in titan_flags(ps, plan, LaunchOptions())}


def test_degrees() -> None:
    got = options_of(*made(dp=8, cp=2, tp=2, dp_shard=8, sequence_parallel=1))
    assert got["--parallelism.data_parallel_shard_degree"] == "4"
    assert got["--parallelism.data_parallel_replicate_degree"] == "2"
    assert got["--parallelism.context_parallel_degree"] == "2"
    assert got["--training.local_batch_size"] == "1"
    assert got["--training.global_batch_size"] == "64"
    assert "--training.disable_cuda_graphs" not in got


def test_pipeline_feeds_the_whole_local_batch() -> None:
    got = options_of(*made(dp=2, pp=4, vp=2))
    assert got["--training.local_batch_size"] == "8"
    assert got["--parallelism.pipeline_parallel_microbatch_size"] == "1"
    assert got["--parallelism.pipeline_parallel_schedule"] == "Interleaved1F1B"
    assert got["--parallelism.pipeline_parallel_layers_per_stage"] == "4"
    assert "--training.disable_cuda_graphs" in got


def test_split_rule() -> None:
    assert titan_split(32, 4, 0, 0) == (8, 8, 8, 8)
    assert titan_split(32, 4, 1, 1) == (8, 9, 8, 7)
    got = options_of(*made(dp=2, pp=4, stages=(7, 9, 9, 7)))
    assert got["--parallelism.pipeline_parallel_first_stage_less_layers"] == "2"
    assert got["--parallelism.pipeline_parallel_last_stage_less_layers"] == "1"
    assert titan_split(32, 4, 2, 1) == (7, 9, 9, 7)


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ({"dp": 8, "zero_stage": 1}, "ZeRO 1"),
        ({"dp": 8, "recompute": Recompute.CORE_ATTENTION}, "checkpointing"),
        ({"dp": 8, "recompute": Recompute.FULL, "recompute_layers": 2}, "checkpointing"),
        ({"dp": 2, "pp": 4, "stages": (2, 10, 10, 10)}, "2, 10, 10, 10"),
        ({"dp": 2, "pp": 2, "schedule": Schedule.ZERO_BUBBLE_V}, "ZERO_BUBBLE_V"),
        ({"dp": 4, "tp": 2, "tp_overlap": 1}, "sequence parallelism"),
        ({"dp": 4, "cp": 2, "dp_shard": 1}, "dp_shard"),
    ],
)
def test_refusals(config: dict[str, object], word: str) -> None:
    assert word in str(get("torchtitan").refuse(*made(**config)))


def test_model_without_a_configuration_is_asked_for() -> None:
    ps, plan = made(MIXTRAL, dp=8)
    bundle = get("torchtitan").emit(ps, plan, LaunchOptions())
    assert "${TORCHTITAN_CONFIG:?" in bundle.files["launch.sh"]
    assert any("TORCHTITAN_CONFIG" in note for note in json.loads(bundle.files["launch.json"])["notes"])


PARSE = """
import json, sys
from torchtitan.config import ConfigManager
from torchtitan.distributed.parallel_dims import ParallelDims
from torchtitan.distributed.pipeline_parallel import _generate_llm_fqn_per_model_part, _get_pipeline_metadata
for line in sys.stdin:
    request = json.loads(line)
    c = ConfigManager().parse_args(request["argv"])
    d = ParallelDims.from_config(c.parallelism, request["world"])
    stages = []
    if d.pp > 1:
        n, layers, first, last = _get_pipeline_metadata(d, c.parallelism, c.model_spec.model)
        parts = _generate_llm_fqn_per_model_part(n, layers, first, last)
        stages = [sum(name.startswith("layers") for name in part) for part in parts]
    kind = type(c.activation_checkpoint).__qualname__.split(".")[0]
    print("ANSWER" + json.dumps([d.dp_replicate, d.dp_shard, d.cp, d.tp, d.pp, d.ep, kind, stages]))
"""


@pytest.mark.skipif(not PYTHON, reason="MESHWRIGHT_TORCHTITAN_PYTHON names no interpreter with torchtitan 0.3.0")
def test_its_own_parser_agrees() -> None:
    llama, moe = load_model("llama-3.1-8b"), load_model("qwen3-30b-a3b")
    plans = [
        made(llama, dp=8),
        made(llama, dp=4, tp=2, sequence_parallel=1, recompute=Recompute.FULL, tp_overlap=1, zero_stage=2),
        made(llama, dp=8, cp=2, dp_shard=8, recompute=SELECTIVE),
        made(llama, dp=2, pp=4, vp=2),
        made(llama, dp=2, pp=4, stages=(7, 9, 9, 7)),
        made(llama, dp=2, pp=2, vp=2, schedule=Schedule.ZERO_BUBBLE_V),
        made(moe, dp=8, ep=8, optimizer_offload=1),
    ]
    lines = []
    for ps, plan in plans:
        assert get("torchtitan").refuse(ps, plan) is None
        module, config = registry_entry(ps, LaunchOptions())
        argv = ["--module", module, "--config", config]
        argv += [word for f in titan_flags(ps, plan, LaunchOptions()) for word in f]
        argv.append(f"activation-checkpoint:{CHECKPOINTING[int(plan.config.recompute)]}")
        lines.append(json.dumps({"argv": argv, "world": plan.config.world_size}))
    run = subprocess.run(
        [PYTHON, "-c", PARSE], input="\n".join(lines), capture_output=True, text=True, timeout=300, check=True
    )
    answers = [json.loads(line.removeprefix("ANSWER")) for line in run.stdout.splitlines() if line.startswith("ANSWER")]
    kinds = {0: "NoneType", SELECTIVE: "SelectiveAC", int(Recompute.FULL): "FullAC"}
    for (_, plan), (replicate, shard, cp, tp, pp, ep, kind, stages) in zip(plans, answers, strict=True):
        c = plan.config
        assert (replicate * shard, shard * cp, cp, tp, pp, ep) == (c.dp, c.dp_shard, c.cp, c.tp, c.pp, c.ep)
        assert kind == kinds[int(c.recompute)]
        if pp > 1:
            assert sum(stages) == sum(plan.stage_layers)
            assert len(stages) == c.pp * c.vp
            if c.vp == 1:
                assert tuple(stages) == plan.stage_layers
