#!/usr/bin/env bash
# Twelve hosts in three racks, one of them slow: which eight run the plan, and in which order.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

meshwright plan llama-3.1-70b --cluster dgx-h100 --nodes 8 --seq-len 8192 --global-batch 512 \
    --pin tp=8,pp=4,vp=1 --out "$out/plan.json"
meshwright place "$out/plan.json" --links my-links.yaml --out "$out/hosts" --plot "$out/links.png"
bash -n "$out/hosts/node_env.sh"

# The same for link-seconds in all instead of seconds on the critical path, as JSON
meshwright place "$out/plan.json" --links my-links.yaml --objective sum --json
