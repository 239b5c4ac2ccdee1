#!/usr/bin/env bash
# llama-like-8b on 2 x 8 test-gpu (test-cluster), accelerate 1.15; plan 1 by meshwright.
# tp 2, pp 1, dp 8, ZeRO 3, micro-batch 1, recompute none, bf16.
# 4096 tokens a sequence, 64 sequences a step, 8 micro-batches a pipeline.
# Predicted: 12.3 s a step, 60.9 GiB on the fullest GPU.
# Note: the options of the script are those of Transformers' TrainingArguments; a script of another kind must
# read them itself.
# Note: the script must fail if Accelerate reports another distributed type than FSDP (it falls back in
# silence on a machine without GPUs).
# Note: tensor parallelism needs a Transformers model with a tp_plan, loaded on Accelerate's mesh.
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

SCRIPT_ARGS=(
  --per_device_train_batch_size 1
  --gradient_accumulation_steps 8
  --max_steps 50
  --learning_rate 0.0003
  --bf16
)

exec accelerate launch \
  --config_file "$HERE/accelerate.yaml" \
  --num_machines "$NNODES" --num_processes "$(( NNODES * GPUS_PER_NODE ))" \
  --main_process_ip "$MASTER_ADDR" --main_process_port "$MASTER_PORT" \
  --rdzv_backend c10d --rdzv_conf "id=$JOB_ID" \
  "$TRAIN_SCRIPT" "${SCRIPT_ARGS[@]}" "$@"
