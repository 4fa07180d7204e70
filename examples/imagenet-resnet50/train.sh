#!/usr/bin/env bash
# One machine: a worker on each GPU, or two on the cores where there is none.
set -euo pipefail
workers=(-gpu all)
command -v nvidia-smi >/dev/null || workers=(--device cpu --nproc 2)
caffeio lint . || test $? = 1 # 1: it found something, which is worth reading
caffeio train solver_init.prototxt solver_cyc1.prototxt solver_cyc2.prototxt \
    solver_cyc3.prototxt solver_collapse.prototxt \
    "${workers[@]}" --metrics train.jsonl
