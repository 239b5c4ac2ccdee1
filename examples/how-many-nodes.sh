#!/usr/bin/env bash
# Days and dollars of a whole training run over a range of cluster sizes.
set -euo pipefail

meshwright plan llama-3.1-8b --cluster dgx-h100 --nodes 1..64 --seq-len 8192 --global-batch 512 \
    --tokens 15T --price 2.10 --objective cost
