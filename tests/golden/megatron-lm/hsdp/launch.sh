#!/usr/bin/env bash
# llama-like-8b on 8 x 8 test-gpu (test-cluster), megatron-lm 0.19; plan 1 by meshwright.
# tp 1, pp 1, dp 64, ZeRO 3, micro-batch 1, recompute none, mxfp8.
# 4096 tokens a sequence, 512 sequences a step, 8 micro-batches a pipeline.
# Predicted: 12.3 s a step, 60.9 GiB on the fullest GPU.
# Note: set --rotary-base and rope scaling to the model's own values before a real run.
# Note: mock data and a null tokenizer; pass --data-path and --tokenizer for a real run.
# Note: --lr, --min-lr and --train-iters are placeholders.
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
# Megatron-FSDP refuses 1: gathers must run beside compute.
unset CUDA_DEVICE_MAX_CONNECTIONS
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
  --num-layers 32
  --hidden-size 4096
  --ffn-hidden-size 14336
  --num-attention-heads 32
  --kv-channels 128
  --group-query-attention
  --num-query-groups 8
  --seq-length 4096
  --max-position-embeddings 8192
  --position-embedding-type rope
  --normalization RMSNorm
  --swiglu
  --disable-bias-linear
  --untie-embeddings-and-output-weights
  --attention-dropout 0.0
  --hidden-dropout 0.0
)

PARALLEL_ARGS=(
  --tensor-model-parallel-size 1
  --pipeline-model-parallel-size 1
  --context-parallel-size 1
  --use-distributed-optimizer
  --use-megatron-fsdp
  --data-parallel-sharding-strategy optim_grads_params
  --no-gradient-accumulation-fusion
  --ckpt-format fsdp_dtensor
  --init-model-with-meta-device
  --num-distributed-optimizer-instances 8
  --outer-dp-sharding-strategy no_shard
  --overlap-grad-reduce
  --overlap-param-gather
)

PRECISION_ARGS=(
  --bf16
  --fp8-format e4m3
  --fp8-recipe mxfp8
  --megatron-fsdp-main-grads-dtype fp32
  --megatron-fsdp-grad-comm-dtype fp32
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
  "${PRECISION_ARGS[@]}" \
  "${TRAINING_ARGS[@]}" \
  "${DATA_ARGS[@]}" \
  "$@"
