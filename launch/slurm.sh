#!/usr/bin/env bash
# The same run on nodes of Slurm's, now and here, to look on while it trains:
#   launch/slurm.sh NODES GPUS-PER-NODE CONFIG [a.b=c ...]
# For what is to run for hours use `distdl submit`, or a script in slurm/.
set -euo pipefail
[ $# -gt 2 ] || { echo "usage: launch/slurm.sh NODES GPUS-PER-NODE CONFIG [a.b=c ...]" >&2; exit 2; }
nodes=$1 gpus=$2 config=$3
shift 3
exec srun --nodes="$nodes" --gpus-per-node="$gpus" --ntasks-per-node="$gpus" distdl train "$config" "$@" --resume
