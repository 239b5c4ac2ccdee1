#!/usr/bin/env bash
# A launch as teams have them lying around: 8 billion parameters on four nodes, chosen by hand.
# What does it do, does it fit, and is there a better neighbour?
#     meshwright check examples/launch/existing-run.sh --cluster dgx-h100
set -euo pipefail
export CUDA_DEVICE_MAX_CONNECTIONS=1

NODES=${NODES:-4}
TP=4
PP=2
MICRO_BATCH=1

LAUNCHER=(torchrun --nnodes "$NODES" --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint "${HEAD:-localhost}:29500")

NETWORK=(
  --num-layers 32 --hidden-size 4096 --ffn-hidden-size 14336
  --num-attention-heads 32 --group-query-attention --num-query-groups 8
  --seq-length 8192 --max-position-embeddings 8192
  --position-embedding-type rope --normalization RMSNorm --swiglu
  --disable-bias-linear --untie-embeddings-and-output-weights
  --attention-dropout 0 --hidden-dropout 0
)
LAYOUT=(
  --tensor-model-parallel-size "$TP" --sequence-parallel
  --pipeline-model-parallel-size "$PP"
  --use-distributed-optimizer --overlap-grad-reduce --overlap-param-gather
  --recompute-granularity full --recompute-method uniform --recompute-num-layers 1
)
RUN=(
  --micro-batch-size "$MICRO_BATCH" --global-batch-size $((128 * MICRO_BATCH))
  --train-iters 1000 --lr 3e-4 --bf16
  --tokenizer-type NullTokenizer --vocab-size 128256 --mock-data
)

"${LAUNCHER[@]}" Megatron-LM/pretrain_gpt.py "${NETWORK[@]}" "${LAYOUT[@]}" "${RUN[@]}"
