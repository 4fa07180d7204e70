#!/usr/bin/env bash
# Usage: score.sh SNAPSHOT... A collapse after each cycle (SNAPSHOT: what the cycle left), then the
# scores of all collapsed models and of their ensemble.
set -euo pipefail
models=()
for snapshot in "$@"; do
    prefix=${snapshot%.caffemodel}_collapsed
    caffeio train solver_collapse.prototxt --weights "$snapshot" --set snapshot_prefix="$prefix"
    found=("$prefix"_iter_*.caffemodel) # the collapse writes one
    models+=("${found[-1]}")
done
(IFS=,; caffeio test train_val_noaug.prototxt --weights "${models[*]}" --iterations 1000)
