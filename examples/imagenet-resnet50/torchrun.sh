#!/usr/bin/env bash
# Usage: torchrun.sh HEAD MACHINES, on every machine; HEAD is any one of them.
set -euo pipefail
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(($(nproc) / 2))}
torchrun --nnodes "$2" --nproc-per-node 2 --rdzv-backend c10d --rdzv-endpoint "$1:29500" \
    -m caffeio.cli train solver_init.prototxt solver_cyc1.prototxt solver_cyc2.prototxt \
    solver_cyc3.prototxt solver_collapse.prototxt \
    --metrics train.jsonl
