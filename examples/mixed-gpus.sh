#!/usr/bin/env bash
# 16 H100 and 32 A100 in one pipeline: from a cluster file with pools to launch files.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

meshwright hardware ./h100-and-a100.yaml
meshwright plan llama-3.1-70b --cluster ./h100-and-a100.yaml --seq-len 8192 --global-batch 256 --out "$out/plan.json"

# Megatron-LM: node ranks ordered by pool, a Slurm job with one component for each pool.
meshwright export "$out/plan.json" --rank 1 --wrap slurm --partition h100:hopper,a100:ampere --out "$out/launch"
bash -n "$out/launch/launch.sh"
bash -n "$out/launch/job.sbatch"

# FlagScale: a process mesh for each pool.
meshwright export "$out/plan.json" --rank 1 --to flagscale --out "$out/flagscale"
