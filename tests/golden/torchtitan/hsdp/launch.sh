#!/usr/bin/env bash
# llama-like-8b on 2 x 8 test-gpu (test-cluster), torchtitan 0.3; plan 1 by meshwright.
# tp 1, pp 1, dp 16, ZeRO 3, micro-batch 1, recompute full, bf16.
# 4096 tokens a sequence, 128 sequences a step, 8 micro-batches a pipeline.
# Predicted: 12.3 s a step, 60.9 GiB on the fullest GPU.
# Note: pass --tokenizer (a folder with the model's Hugging Face tokenizer files) for a real run.
# Note: the data set is the one of TorchTitan's configuration; pass --data-path for your own.
set -euo pipefail

NNODES="${NNODES:-2}"
GPUS_PER_NODE="${GPUS_PER_NODE:-8}"
MASTER_ADDR="${MASTER_ADDR:-127.0.0.1}"
MASTER_PORT="${MASTER_PORT:-29500}"
JOB_ID="${JOB_ID:-meshwright}"
TORCHTITAN_MODULE="${TORCHTITAN_MODULE:-llama3}"
TORCHTITAN_CONFIG="${TORCHTITAN_CONFIG:-llama3_8b}"

if (( NNODES * GPUS_PER_NODE != 16 )); then
  echo "this plan needs 16 GPUs, but NNODES * GPUS_PER_NODE is $(( NNODES * GPUS_PER_NODE ))" >&2
  exit 2
fi
if (( NNODES > 1 )) && [[ "$MASTER_ADDR" == 127.0.0.1 ]]; then
  echo "set MASTER_ADDR to the name of the first node, the same on every node" >&2
  exit 2
fi
export PYTORCH_CUDA_ALLOC_CONF="${PYTORCH_CUDA_ALLOC_CONF:-expandable_segments:True}"

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

TITAN_ARGS=(
  --training.local_batch_size 1
  --training.global_batch_size 128
  --training.seq_len 4096
  --training.steps 50
  --training.dtype float32
  --training.mixed_precision_param bfloat16
  --parallelism.data_parallel_replicate_degree 2
  --parallelism.data_parallel_shard_degree 8
  --parallelism.fsdp_reshard_after_forward always
  --parallelism.tensor_parallel_degree 1
  --parallelism.context_parallel_degree 1
  --parallelism.expert_parallel_degree 1
  --parallelism.pipeline_parallel_degree 1
)

# The subcommand comes last: TorchTitan reads no option of another section behind it.
exec torchrun \
  "${TORCHRUN_ARGS[@]}" \
  -m torchtitan.train \
  --module "$TORCHTITAN_MODULE" --config "$TORCHTITAN_CONFIG" \
  "${TITAN_ARGS[@]}" \
  "$@" \
  activation-checkpoint:full
