#!/usr/bin/env bash
# GPT-3 175B on 1,024 A100 as in "Efficient Large-Scale Language Model Training on GPU Clusters" (arXiv 2104.04473),
# with and without recomputation.
set -euo pipefail

for recompute in full selective; do
    meshwright estimate gpt3-175b --cluster dgx-a100-80 --nodes 128 --seq-len 2048 --global-batch 1536 \
        --tp 8 --pp 8 --micro-batch 1 --recompute "$recompute"
done
