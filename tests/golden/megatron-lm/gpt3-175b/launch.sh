#!/usr/bin/env bash
# gpt3-like-175b on 128 x 8 test-gpu (test-cluster), megatron-lm 0.19; plan 1 by meshwright.
# tp 8 with sequence parallelism, pp 8 (vp 3), dp 16, ZeRO 1, micro-batch 1, recompute full, bf16.
# 2048 tokens a sequence, 384 sequences a step, 24 micro-batches a pipeline.
# Predicted: 12.3 s a step, 60.9 GiB on the fullest GPU.
# Note: mock data and a null tokenizer; pass --data-path and --tokenizer for a real run.
# Note: --lr, --min-lr and --train-iters are placeholders.
set -euo pipefail

# Where things are; every one of these can be set from outside.
NNODES="${NNODES:-128}"
GPUS_PER_NODE="${GPUS_PER_NODE:-8}"
MASTER_ADDR="${MASTER_ADDR:-127.0.0.1}"
MASTER_PORT="${MASTER_PORT:-29500}"
JOB_ID="${JOB_ID:-meshwright}"
MEGATRON_DIR="${MEGATRON_DIR:-Megatron-LM}"

if (( NNODES * GPUS_PER_NODE != 1024 )); then
  echo "this plan needs 1024 GPUs, but NNODES * GPUS_PER_NODE is $(( NNODES * GPUS_PER_NODE ))" >&2
  exit 2
fi
if (( NNODES > 1 )) && [[ "$MASTER_ADDR" == 127.0.0.1 ]]; then
  echo "set MASTER_ADDR to the name of the first node, the same on every node" >&2
  exit 2
fi

# Environment of the training processes.
# One queue keeps TP and CP collectives ahead of the GEMMs (before Blackwell).
export CUDA_DEVICE_MAX_CONNECTIONS=1
# Less fragmentation of the caching allocator.
PYTORCH_CUDA_ALLOC_CONF="${PYTORCH_CUDA_ALLOC_CONF:-expandable_segments:True}"
export PYTORCH_CUDA_ALLOC_CONF

TORCHRUN_ARGS=(
  --nnodes "$NNODES"
  --nproc-per-node "$GPUS_PER_NODE"
)
NODE_RANK="${NODE_RANK:-${SLURM_NODEID:-${PET_NODE_RANK:-${SKYPILOT_NODE_RANK:-}}}}"
if [[ -n "$NODE_RANK" ]]; then
  TORCHRUN_ARGS+=(--node-rank "$NODE_RANK" --master-addr "$MASTER_ADDR" --master-port "$MASTER_PORT")
else
  TORCHRUN_ARGS+=(--rdzv-backend c10d --rdzv-endpoint "$MASTER_ADDR:$MASTER_PORT" --rdzv-id "$JOB_ID")
fi

MODEL_ARGS=(
  --num-layers 96
  --hidden-size 12288
  --ffn-hidden-size 49152
  --num-attention-heads 96
  --kv-channels 128
  --seq-length 2048
  --max-position-embeddings 2048
  --position-embedding-type learned_absolute
  --normalization LayerNorm
  --attention-dropout 0.1
  --hidden-dropout 0.1
)

PARALLEL_ARGS=(
  --tensor-model-parallel-size 8
  --sequence-parallel
  --pipeline-model-parallel-size 8
  --num-virtual-stages-per-pipeline-rank 3
  --context-parallel-size 1
  --use-distributed-optimizer
  --overlap-grad-reduce
  --overlap-param-gather
)

MEMORY_ARGS=(
  --recompute-granularity full
  --recompute-method uniform
  --recompute-num-layers 1
)

PRECISION_ARGS=(
  --bf16
  --accumulate-allreduce-grads-in-fp32
)

TRAINING_ARGS=(
  --micro-batch-size 1
  --global-batch-size 384
  --train-iters 50
  --lr 0.0003
  --min-lr 3e-05
  --lr-decay-style cosine
  --lr-warmup-iters 5
  --weight-decay 0.1
  --adam-beta1 0.9
  --adam-beta2 0.95
  --clip-grad 1.0
  --init-method-std 0.02
  --transformer-impl transformer_engine
  --log-interval 1
  --log-throughput
  --eval-iters 0
  --eval-interval 1000000
  --distributed-timeout-minutes 60
)

DATA_ARGS=(
  --tokenizer-type NullTokenizer
  --vocab-size 50257
  --make-vocab-size-divisible-by 128
  --mock-data
)

exec torchrun \
  "${TORCHRUN_ARGS[@]}" \
  "$MEGATRON_DIR/pretrain_gpt.py" \
  "${MODEL_ARGS[@]}" \
  "${PARALLEL_ARGS[@]}" \
  "${MEMORY_ARGS[@]}" \
  "${PRECISION_ARGS[@]}" \
  "${TRAINING_ARGS[@]}" \
  "${DATA_ARGS[@]}" \
  "$@"
