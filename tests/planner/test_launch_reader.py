"""Scripts as people write them, read into models, workloads and configurations."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshwright.costmodels.parallel import CpComm, LayerSplit, Recompute
from meshwright.hardware_profiles.errors import InvalidProblemError
from meshwright.planner.launch_reader import read_megatron_launch

GPT3 = r"""#!/bin/bash
# The large GPT on 128 machines, in the style of 2021.
#SBATCH --nodes=128 --exclusive
#SBATCH --ntasks-per-node=8 --job-name=gpt3

DIR=`pwd`
DATASET="0.5 part_a 0.5 part_b"
TP=8; PP=16
NHIDDEN=$((96 * 128))

options=" \
    --tensor-model-parallel-size $TP \
    --pipeline-model-parallel-size ${PP} \
    --num-layers-per-virtual-pipeline-stage 2 \
    --num-layers 96 --hidden-size $NHIDDEN \
    --num-attention-heads 96 \
    --seq-length 2048 \
    --max-position-embeddings 2048 \
    --micro-batch-size 1 \
    --global-batch-size 1536 \
    --train-samples 146484375 \
    --lr 6.0e-5 --min-lr 6.0e-6 \
    --vocab-file gpt2-vocab.json --merge-file gpt2-merges.txt \
    --tokenizer-type GPT2BPETokenizer \
    --data-path ${DATASET} \
    --split 98,2,0 \
    --recompute-granularity selective \
    --use-distributed-optimizer --overlap-grad-reduce \
    --sequence-parallel \
    --fp16 "

run_cmd="python -u ${DIR}/pretrain_gpt.py $@ ${options}"
srun -l \
     --output=$DIR/logs/%x_%j.log sh -c "${run_cmd}"
"""

LLAMA = r"""#!/usr/bin/env bash
export CUDA_DEVICE_MAX_CONNECTIONS=1
NUM_NODES=${NUM_NODES:-4}
GPUS_PER_NODE=8
MASTER_ADDR=localhost # change me
CHECKPOINT=${1:-"checkpoints/llama"}

if [ -z "$TP_SIZE" ]; then
  TP_SIZE=2
fi
CP_SIZE=2
MBS=1
GBS=$(( MBS * 64 ))

DISTRIBUTED_ARGS=(
    --nproc_per_node $GPUS_PER_NODE
    --nnodes $NUM_NODES
    --master_addr $MASTER_ADDR
)
MODEL_ARGS=(
    --num-layers 32          # depth
    --hidden-size 4096
    --ffn-hidden-size 14336
    --num-attention-heads 32
    --group-query-attention
    --num-query-groups 8
    --kv-channels 128
    --seq-length 8192
    --max-position-embeddings 8192
    --position-embedding-type rope
    --normalization RMSNorm
    --swiglu
    --disable-bias-linear
    --untie-embeddings-and-output-weights
    --attention-dropout 0.0
    --hidden-dropout 0.0
)
TRAINING_ARGS=(--micro-batch-size $MBS --global-batch-size=$GBS --train-iters 1000 --bf16 --cross-entropy-loss-fusion)
if [[ "$USE_FP8" == "1" ]]; then
  TRAINING_ARGS+=(--fp8-format hybrid)
fi
PARALLEL_ARGS=(--tensor-model-parallel-size $TP_SIZE --context-parallel-size $CP_SIZE)
PARALLEL_ARGS+=(--cp-comm-type a2a --sequence-parallel)
PARALLEL_ARGS+=(--use-distributed-optimizer --overlap-grad-reduce --overlap-param-gather)
DATA_ARGS=(--mock-data --tokenizer-type NullTokenizer --vocab-size 128256 --tiktoken-pattern v2)
[ ! -d data ] && mkdir -p data
for mod in "numpy" "torch"; do echo "have $mod"; done

torchrun "${DISTRIBUTED_ARGS[@]}" pretrain_gpt.py "${MODEL_ARGS[@]}" "${TRAINING_ARGS[@]}" \
    "${PARALLEL_ARGS[@]}" ${DATA_ARGS[*]} --some-future-option 3 2>&1 | tee log.txt
"""

MIXTRAL = r"""#!/bin/bash
set -e
WORLD_SIZE=$((8*2))
case ${MODEL:-mixtral} in
  llama) LAYERS=16; EXPERTS=0 ;;
  mixtral | moe)
    LAYERS=32
    EXPERTS=8 ;;
esac
MOE_ARGS="--num-experts $EXPERTS --moe-router-topk 2 --moe-grouped-gemm --moe-token-dispatcher-type alltoall"
MOE_ARGS+=" --expert-model-parallel-size 4 --expert-tensor-parallel-size 1"
python -m torch.distributed.launch --nproc-per-node=8 --nnodes=2 pretrain_gpt.py \
  --num-layers ${LAYERS} --hidden-size 4096 --ffn-hidden-size 14336 --num-attention-heads 32 \
  --group-query-attention --num-query-groups 8 --swiglu --disable-bias-linear --normalization RMSNorm \
  --use-rotary-position-embeddings --no-position-embedding --untie-embeddings-and-output-weights \
  --attention-dropout 0 --hidden-dropout 0 --vocab-size 32000 \
  --seq-length 4096 --max-position-embeddings 32768 $MOE_ARGS \
  --tensor-model-parallel-size 2 --sequence-parallel --pipeline-model-parallel-size 4 \
  --pipeline-model-parallel-layout "Et*7|t*8|t*8|t*9L" \
  --micro-batch-size 1 --global-batch-size 256 --use-distributed-optimizer \
  --recompute-granularity full --recompute-method block --recompute-num-layers 3 \
  --bf16 --fp8-format e4m3 --fp8-recipe mxfp8 --fp8-param-gather \
  --use-precision-aware-optimizer --exp-avg-dtype bf16 --exp-avg-sq-dtype bf16
"""

MINIMAL = """torchrun --nproc-per-node 8 pretrain_gpt.py --num-layers 24 --hidden-size 1024 --num-attention-heads 16 \\
  --seq-length 1024 --max-position-embeddings 1024 --micro-batch-size 4 --vocab-size 50257 {extra}
"""


def script(folder: Path, text: str, name: str = "run.sh") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_classic_gpt3(tmp_path: Path) -> None:
    read = read_megatron_launch(script(tmp_path, GPT3))
    c, m = read.config, read.model
    assert (c.tp, c.pp, c.vp, c.dp) == (8, 16, 3, 8)
    assert (read.nodes, read.gpus_per_node, read.n_gpus) == (128, 8, 1024)
    assert c.recompute == Recompute.CORE_ATTENTION
    assert (c.zero_stage, c.sequence_parallel, c.overlap_grad_reduce, c.overlap_param_gather) == (1, 1, 1, 0)
    assert (m.hidden, m.ffn_hidden, m.vocab, m.learned_positions) == (12288, 49152, 50257, 2048)
    assert m.ffn_bias and m.tied_embeddings and m.dropout and not m.gated_ffn
    assert abs(m.params() / 175e9 - 1) < 0.01
    assert (read.workload.seq_len, read.workload.global_batch, read.workload.precision) == (2048, 1536, "fp16")


def test_llama_with_arrays(tmp_path: Path) -> None:
    read = read_megatron_launch(script(tmp_path, LLAMA))
    c, m = read.config, read.model
    assert (c.tp, c.cp, c.pp, c.dp) == (2, 2, 1, 8)
    assert c.cp_comm == CpComm.ULYSSES
    assert (c.zero_stage, c.overlap_grad_reduce, c.overlap_param_gather) == (1, 1, 1)
    assert (m.attention.n_kv_heads, m.norm, m.gated_ffn, m.learned_positions) == (8, "rmsnorm", True, 0)
    assert abs(m.params() / 8.03e9 - 1) < 0.002
    assert (read.workload.global_batch, read.workload.precision) == (64, "bf16")
    assert any("--some-future-option" in note for note in read.notes)
    assert not any("--lr" in note for note in read.notes)


def test_environment_decides(tmp_path: Path) -> None:
    read = read_megatron_launch(script(tmp_path, LLAMA), env={"NUM_NODES": "1", "TP_SIZE": "4", "USE_FP8": "1"})
    assert (read.n_gpus, read.config.tp, read.config.dp) == (8, 4, 1)
    assert read.workload.precision == "fp8"


def test_mixtral(tmp_path: Path) -> None:
    read = read_megatron_launch(script(tmp_path, MIXTRAL))
    c, m = read.config, read.model
    assert (c.tp, c.pp, c.dp, c.ep, c.etp, c.vp) == (2, 4, 2, 4, 1, 1)
    assert c.layer_split == LayerSplit.LAYOUT
    assert read.stage_layers == (7, 8, 8, 9)
    assert (c.recompute, c.recompute_layers) == (Recompute.FULL, 3)
    assert m.moe is not None
    assert (m.moe.n_experts, m.moe.top_k, m.moe.n_moe_layers) == (8, 2, 32)
    assert abs(m.params() / 46.7e9 - 1) < 0.005
    assert (read.workload.precision, read.workload.optimizer, read.workload.fp8_params) == ("mxfp8", "adam_bf16", True)


def test_expert_tensor_degree_defaults_to_tp(tmp_path: Path) -> None:
    text = MIXTRAL.replace("--expert-tensor-parallel-size 1", "")
    assert read_megatron_launch(script(tmp_path, text)).config.etp == 2


def test_unknown_number_of_gpus(tmp_path: Path) -> None:
    text = MINIMAL.format(extra="").replace("torchrun --nproc-per-node 8", 'torchrun --nproc-per-node "$GPUS"')
    read = read_megatron_launch(script(tmp_path, text))
    assert (read.n_gpus, read.config.dp, read.workload.global_batch) == (None, 1, 4)
    assert any("number of GPUs" in note for note in read.notes)
    sixteen = read.with_n_gpus(16)
    assert (sixteen.config.dp, sixteen.config.dp_shard, sixteen.workload.global_batch) == (16, 16, 64)


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ("--use-megatron-fsdp", {"zero_stage": 3}),
        ("--use-megatron-fsdp --data-parallel-sharding-strategy optim_grads", {"zero_stage": 2}),
        ("--use-distributed-optimizer --num-distributed-optimizer-instances 2", {"zero_stage": 1, "dp_shard": 4}),
        ("--use-torch-fsdp2", {"zero_stage": 3}),
        ("--tensor_model_parallel_size 2 --sequence-parallel", {"tp": 2, "sequence_parallel": 1, "dp": 4}),
        ("--sequence-parallel", {"sequence_parallel": 0}),
        ("--recompute-activations", {"recompute": Recompute.CORE_ATTENTION}),
        ("--recompute-granularity full --recompute-method uniform --recompute-num-layers 1", {"recompute": 32}),
        (
            "--recompute-granularity selective --recompute-modules layernorm mlp",
            {"recompute": Recompute.NORM | Recompute.FFN},
        ),
        (
            "--pipeline-model-parallel-size 4 --decoder-first-pipeline-num-layers 3 "
            "--decoder-last-pipeline-num-layers 5",
            {"layer_split": LayerSplit.LAYOUT, "dp": 2},
        ),
        (
            "--pipeline-model-parallel-size 2 --num-virtual-stages-per-pipeline-rank 3 "
            "--recompute-granularity full --recompute-method block --recompute-num-layers 2",
            {"vp": 3, "recompute": 32, "recompute_layers": 6},
        ),
        ("--optimizer-cpu-offload", {"optimizer_offload": 1}),
    ],
)
def test_options(tmp_path: Path, extra: str, expected: dict[str, int]) -> None:
    config = read_megatron_launch(script(tmp_path, MINIMAL.format(extra=extra))).config
    assert {name: getattr(config, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (GPT3.replace("--hidden-size $NHIDDEN", ""), ["run.sh", "--hidden-size", "missing"]),
        (LLAMA.replace("--micro-batch-size $MBS", ""), ["--micro-batch-size"]),
        (MINIMAL.format(extra="--tensor-model-parallel-size two"), ["--tensor-model-parallel-size", "'two'"]),
        (MINIMAL.format(extra="--tensor-model-parallel-size $TP"), ["--tensor-model-parallel-size", "$TP"]),
        (MINIMAL.format(extra="--tensor-model-parallel-size 0"), ["--tensor-model-parallel-size", "at least 1"]),
        (MINIMAL.format(extra="--tensor-model-parallel-size 3"), ["8 GPUs", "3"]),
        (MINIMAL.format(extra="--pipeline-model-parallel-size 2 --num-layers 25"), ["--num-layers 25", "pp 2"]),
        (MINIMAL.format(extra="--moe-layer-freq x --num-experts 8"), ["--moe-layer-freq"]),
        (MINIMAL.format(extra="--normalization BatchNorm"), ["--normalization"]),
        ('echo "hello\n', ["run.sh", "quote"]),
        ("X=( a b\n", ["run.sh", "closed"]),
        ("echo hello\n", ["run.sh", "no command"]),
        ("", ["run.sh", "no command"]),
    ],
)
def test_broken_scripts_give_one_sentence(tmp_path: Path, text: str, words: list[str]) -> None:
    with pytest.raises(InvalidProblemError) as error:
        read_megatron_launch(script(tmp_path, text))
    message = str(error.value)
    assert all(word in message for word in words), message
    assert "\n" not in message
    assert message.endswith(".")


def test_command_in_a_here_document(tmp_path: Path) -> None:
    body = MINIMAL.format(extra="--bf16 ${MORE[@]}").replace("torchrun", "srun torchrun").replace("\\\n", "")
    text = f"MORE=(--tensor-model-parallel-size 2)\nsbatch <<EOF\n#!/bin/bash\n#SBATCH -N 3\n{body}EOF\nset +e\n"
    read = read_megatron_launch(script(tmp_path, text))
    assert (read.config.tp, read.nodes, read.n_gpus, read.workload.precision) == (2, 3, 24, "bf16")


def test_machines_can_be_given(tmp_path: Path) -> None:
    read = read_megatron_launch(script(tmp_path, MINIMAL.format(extra="")), nodes=4)
    assert (read.n_gpus, read.config.dp) == (32, 32)


def test_tokenizer_names_a_shipped_model(tmp_path: Path) -> None:
    tokenizer = "--tokenizer-type HuggingFaceTokenizer --tokenizer-model deepseek-ai/DeepSeek-V3"
    text = MINIMAL.format(extra=tokenizer).replace("--vocab-size 50257", "")
    assert read_megatron_launch(script(tmp_path, text)).model.vocab == 129280


def test_hybrid_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidProblemError, match="Mamba"):
        read_megatron_launch(script(tmp_path, MINIMAL.format(extra="--hybrid-layer-pattern M-M*")))


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidProblemError, match=r"nowhere\.sh"):
        read_megatron_launch(tmp_path / "nowhere.sh")


def test_binary_file(tmp_path: Path) -> None:
    (tmp_path / "x.sh").write_bytes(b"\xff\xfe\x00\x9f" * 20)
    with pytest.raises(InvalidProblemError, match="text"):
        read_megatron_launch(tmp_path / "x.sh")


def test_nothing_is_run(tmp_path: Path) -> None:
    text = f"touch {tmp_path}/ran\nX=$(touch {tmp_path}/ran)\n" + MINIMAL.format(extra="$X")
    read_megatron_launch(script(tmp_path, text))
    assert not (tmp_path / "ran").exists()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_garbled_scripts_never_crash(tmp_path: Path, data: st.DataObject) -> None:
    text = data.draw(st.sampled_from((GPT3, LLAMA, MIXTRAL)))
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(text) - 1))
        cut = data.draw(st.integers(0, 12))
        put = data.draw(
            st.sampled_from(('"', "'", "(", ")", "${", "$((", "}", "`", "\\", "<<E\n", "[[ ", "fi\n", "||", "0", "-1"))
        )
        text = text[:at] + put + text[at + cut :]
    try:
        read_megatron_launch(script(tmp_path, text))
    except InvalidProblemError as error:
        assert "\n" not in str(error)
