#!/usr/bin/env bash
# The same run, started by torchrun: for clusters whose tools expect it. On one machine:
#   launch/torchrun.sh CONFIG [a.b=c ...]
# On several, once on each, with torchrun's own variables for where they meet:
#   PET_NNODES=2 PET_NODE_RANK=0 PET_MASTER_ADDR=node-a PET_MASTER_PORT=29500 launch/torchrun.sh CONFIG
set -euo pipefail
[ $# -gt 0 ] || { echo "usage: launch/torchrun.sh CONFIG [a.b=c ...]" >&2; exit 2; }
config=$1
shift
gpus=$(find /dev -maxdepth 1 -name "nvidia[0-9]*" | wc -l)
export PET_NPROC_PER_NODE=${PET_NPROC_PER_NODE:-$((gpus > 0 ? gpus : 2))}
exec torchrun -m distdl train "$config" "$@" --resume
