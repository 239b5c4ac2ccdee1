#!/usr/bin/env bash
# Two halls with different adapters, Ethernet between them, one degraded node: what crosses the slow link?
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

meshwright plan llama-3.1-8b --cluster ./two-rooms.yaml --seq-len 8192 --global-batch 256 --top 5

# Without the restriction to what Megatron-LM runs: every pool with its own degrees and share of the batch.
meshwright plan llama-3.1-8b --cluster ./two-rooms.yaml --seq-len 8192 --global-batch 256 --top 5 --framework any
