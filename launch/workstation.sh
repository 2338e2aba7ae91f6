#!/usr/bin/env bash
# Trains on every GPU of this machine; without one, on two CPU workers. Run it again to go on with a run that was stopped.
#   launch/workstation.sh CONFIG [a.b=c ...]
set -euo pipefail
[ $# -gt 0 ] || { echo "usage: launch/workstation.sh CONFIG [a.b=c ...]" >&2; exit 2; }
config=$1
shift
gpus=$(find /dev -maxdepth 1 -name "nvidia[0-9]*" | wc -l)
exec distdl train "$config" "$@" --nproc "$((gpus > 0 ? gpus : 2))" --resume
