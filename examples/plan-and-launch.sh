#!/usr/bin/env bash
# The main job: rank the ways to train Llama 3.1 70B on eight DGX H100, then write the launch files of the best.
set -euo pipefail
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

meshwright plan llama-3.1-70b --cluster dgx-h100 --nodes 8 --seq-len 8192 --global-batch 512 --out "$out/plan.json"
meshwright explain "$out/plan.json" --rank 1
meshwright compare "$out/plan.json:1" "$out/plan.json:2"
meshwright export "$out/plan.json" --rank 1 --to megatron-lm --out "$out/launch"
bash -n "$out/launch/launch.sh"

# What does an existing launch script do, and what is better?
meshwright check "$out/launch/launch.sh" --cluster dgx-h100 --nodes 8
