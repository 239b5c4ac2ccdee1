#!/usr/bin/env bash
# Three runs of your own on your own cluster (figures made up here), and plans with what they taught.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

meshwright calibrate my-runs.csv --cluster ./my-cluster.yaml -o "$out/mine.yaml"
meshwright plan llama-3.1-8b --cluster ./my-cluster.yaml --seq-len 8192 --global-batch 128 --software "$out/mine.yaml"
