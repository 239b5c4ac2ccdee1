#!/usr/bin/env bash
# a model, plan 1
# Source this on every node: it sets the node's rank by its host name.
HOST="${MESHWRIGHT_HOST:-$(hostname -s)}"
case "$HOST" in
  n07) NODE_RANK=0; ;;
  n01.cluster.local|n01) NODE_RANK=1; ;;
  n03) NODE_RANK=2; CUDA_VISIBLE_DEVICES='2,3,0,1'; export CUDA_VISIBLE_DEVICES; ;;
  *) echo "$HOST is not among the placed hosts" >&2; exit 2 ;;
esac
MASTER_ADDR="${MASTER_ADDR:-n07}"
MASTER_PORT="${MASTER_PORT:-29500}"
NNODES=3
GPUS_PER_NODE=4
export NODE_RANK MASTER_ADDR MASTER_PORT NNODES GPUS_PER_NODE
PLACED_TORCHRUN_ARGS=(
  --nnodes "$NNODES" --nproc-per-node "$GPUS_PER_NODE" --node-rank "$NODE_RANK"
  --master-addr "$MASTER_ADDR" --master-port "$MASTER_PORT"
)
echo "node $NODE_RANK of $NNODES: torchrun ${PLACED_TORCHRUN_ARGS[*]}" >&2
