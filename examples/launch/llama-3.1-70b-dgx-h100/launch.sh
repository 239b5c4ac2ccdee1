#!/usr/bin/env bash
# llama-3.1-70b on 8 x 8 h100-sxm-80gb (dgx-h100), megatron-lm 0.19; plan 1 by meshwright.
# tp 4 with sequence parallelism, cp 2, pp 2 (vp 3), dp 4, ZeRO 1, micro-batch 1, recompute norm, bf16.
# 8192 tokens a sequence, 512 sequences a step, 128 micro-batches a pipeline.
# Predicted: 52.4 s a step, 69.5 GiB on the fullest GPU.
# Note: set --rotary-base and rope scaling to the model's own values before a real run.
# Note: mock data and a null tokenizer; pass --data-path and --tokenizer for a real run.
# Note: --lr, --min-lr and --train-iters are placeholders.
# Note: --tp-comm-overlap needs Transformer Engine with user buffers.
set -euo pipefail

# Where things are; every one of these can be set from outside.
NNODES="${NNODES:-8}"
GPUS_PER_NODE="${GPUS_PER_NODE:-8}"
MASTER_ADDR="${MASTER_ADDR:-127.0.0.1}"
MASTER_PORT="${MASTER_PORT:-29500}"
JOB_ID="${JOB_ID:-meshwright}"
MEGATRON_DIR="${MEGATRON_DIR:-Megatron-LM}"

if (( NNODES * GPUS_PER_NODE != 64 )); then
  echo "this plan needs 64 GPUs, but NNODES * GPUS_PER_NODE is $(( NNODES * GPUS_PER_NODE ))" >&2
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
  --rdzv-backend c10d
  --rdzv-endpoint "$MASTER_ADDR:$MASTER_PORT"
  --rdzv-id "$JOB_ID"
)

MODEL_ARGS=(
  --num-layers 80
  --hidden-size 8192
  --ffn-hidden-size 28672
  --num-attention-heads 64
  --kv-channels 128
  --group-query-attention
  --num-query-groups 8
  --seq-length 8192
  --max-position-embeddings 131072
  --position-embedding-type rope
  --normalization RMSNorm
  --swiglu
  --disable-bias-linear
  --untie-embeddings-and-output-weights
  --attention-dropout 0.0
  --hidden-dropout 0.0
)

PARALLEL_ARGS=(
  --tensor-model-parallel-size 4
  --sequence-parallel
  --tp-comm-overlap
  --pipeline-model-parallel-size 2
  --pipeline-model-parallel-layout 'Et*13|t*14|t*14|t*13|t*13|t*13L'
  --context-parallel-size 2
  --cp-comm-type p2p
  --use-distributed-optimizer
  --overlap-grad-reduce
  --overlap-param-gather
)

MEMORY_ARGS=(
  --recompute-granularity selective
  --recompute-modules layernorm
)

PRECISION_ARGS=(
  --bf16
  --grad-reduce-in-bf16
)

TRAINING_ARGS=(
  --micro-batch-size 1
  --global-batch-size 512
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
  --vocab-size 128256
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
