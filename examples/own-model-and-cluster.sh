#!/usr/bin/env bash
# Your own model (a Hugging Face config.json) on your own cluster (a YAML file), at long context, as JSON.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

meshwright models ./my-model/config.json
meshwright hardware ./my-cluster.yaml
meshwright plan ./my-model/config.json --cluster ./my-cluster.yaml --seq-len 32768 --global-batch 256 \
    --framework torchtitan --pin tp=4 --top 20 --json
