#!/usr/bin/env bash
# deepseek-like on 32 x 8 test-gpu (test-cluster), megatron-lm 0.19; plan 1 by meshwright.
# tp 2 with sequence parallelism, ep 32, expert tp 1, pp 4, dp 32, ZeRO 1, micro-batch 1, recompute none, fp8.
# 4096 tokens a sequence, 512 sequences a step, 16 micro-batches a pipeline.
# Predicted: 12.3 s a step, 60.9 GiB on the fullest GPU.
# Note: set --rotary-base and rope scaling to the model's own values before a real run.
# Note: mock data and a null tokenizer; pass --data-path and --tokenizer for a real run.
# Note: --lr, --min-lr and --train-iters are placeholders.
set -euo pipefail

# Where things are; every one of these can be set from outside.
NNODES="${NNODES:-32}"
GPUS_PER_NODE="${GPUS_PER_NODE:-8}"
MASTER_ADDR="${MASTER_ADDR:-127.0.0.1}"
MASTER_PORT="${MASTER_PORT:-29500}"
JOB_ID="${JOB_ID:-meshwright}"
MEGATRON_DIR="${MEGATRON_DIR:-Megatron-LM}"

if (( NNODES * GPUS_PER_NODE != 256 )); then
  echo "this plan needs 256 GPUs, but NNODES * GPUS_PER_NODE is $(( NNODES * GPUS_PER_NODE ))" >&2
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
  --num-layers 61
  --hidden-size 7168
  --ffn-hidden-size 18432
  --num-attention-heads 128
  --multi-latent-attention
  --q-lora-rank 1536
  --kv-lora-rank 512
  --qk-head-dim 128
  --qk-pos-emb-head-dim 64
  --v-head-dim 128
  --seq-length 4096
  --max-position-embeddings 4096
  --position-embedding-type rope
  --rope-type yarn
  --rotary-scaling-factor 1.0
  --normalization RMSNorm
  --swiglu
  --disable-bias-linear
  --untie-embeddings-and-output-weights
  --attention-dropout 0.0
  --hidden-dropout 0.0
  --mtp-num-layers 1
)

MOE_ARGS=(
  --num-experts 256
  --moe-router-topk 8
  --moe-ffn-hidden-size 2048
  --moe-shared-expert-intermediate-size 2048
  --moe-layer-freq '([0]*3+[1]*58)'
  --moe-router-score-function sigmoid
  --moe-router-enable-expert-bias
  --moe-router-load-balancing-type aux_loss
  --moe-aux-loss-coeff 1e-3
  --moe-router-dtype fp32
  --moe-grouped-gemm
  --moe-permute-fusion
  --moe-token-dispatcher-type alltoall
)

PARALLEL_ARGS=(
  --tensor-model-parallel-size 2
  --sequence-parallel
  --pipeline-model-parallel-size 4
  --pipeline-model-parallel-layout 'Et*15|t*16|t*16|t*14mL'
  --context-parallel-size 1
  --expert-model-parallel-size 32
  --expert-tensor-parallel-size 1
  --use-distributed-optimizer
  --overlap-grad-reduce
  --overlap-param-gather
)

MEMORY_ARGS=(
  --use-precision-aware-optimizer
  --exp-avg-dtype bf16
  --exp-avg-sq-dtype bf16
)

PRECISION_ARGS=(
  --bf16
  --fp8-format hybrid
  --fp8-recipe tensorwise
  --moe-router-padding-for-quantization
  --accumulate-allreduce-grads-in-fp32
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
  --vocab-size 129280
  --make-vocab-size-divisible-by 128
  --mock-data
)

exec torchrun \
  "${TORCHRUN_ARGS[@]}" \
  "$MEGATRON_DIR/pretrain_gpt.py" \
  "${MODEL_ARGS[@]}" \
  "${MOE_ARGS[@]}" \
  "${PARALLEL_ARGS[@]}" \
  "${MEMORY_ARGS[@]}" \
  "${PRECISION_ARGS[@]}" \
  "${TRAINING_ARGS[@]}" \
  "${DATA_ARGS[@]}" \
  "$@"
