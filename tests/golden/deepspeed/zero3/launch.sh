#!/usr/bin/env bash
# llama-like-8b on 2 x 8 test-gpu (test-cluster), deepspeed 0.19; plan 1 by meshwright.
# tp 1, pp 1, dp 16, ZeRO 3, micro-batch 1, recompute full, bf16.
# 4096 tokens a sequence, 128 sequences a step, 8 micro-batches a pipeline.
# Predicted: 12.3 s a step, 60.9 GiB on the fullest GPU.
# Note: the script must call deepspeed.initialize with ds_config.json and build the model of the plan.
# Note: --gradient-checkpointing: recompute every layer.
set -euo pipefail

NNODES="${NNODES:-2}"
GPUS_PER_NODE="${GPUS_PER_NODE:-8}"
MASTER_ADDR="${MASTER_ADDR:-127.0.0.1}"
MASTER_PORT="${MASTER_PORT:-29500}"
JOB_ID="${JOB_ID:-meshwright}"
TRAIN_SCRIPT="${TRAIN_SCRIPT:-train.py}"
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

if (( NNODES * GPUS_PER_NODE != 16 )); then
  echo "this plan needs 16 GPUs, but NNODES * GPUS_PER_NODE is $(( NNODES * GPUS_PER_NODE ))" >&2
  exit 2
fi
if (( NNODES > 1 )) && [[ "$MASTER_ADDR" == 127.0.0.1 ]]; then
  echo "set MASTER_ADDR to the name of the first node, the same on every node" >&2
  exit 2
fi

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

SCRIPT_ARGS=(
  --model llama-like-8b
  --seq-length 4096
  --train-iters 50
  --gradient-checkpointing
)

exec torchrun \
  "${TORCHRUN_ARGS[@]}" \
  "$TRAIN_SCRIPT" \
  --deepspeed_config "$HERE/ds_config.json" \
  "${SCRIPT_ARGS[@]}" \
  "$@"
