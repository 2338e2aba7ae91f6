#!/usr/bin/env bash
# Trains on every GPU of this machine; without one, on two CPU workers. Run it again to go on with a run that was stopped.
#   launch/workstation.sh CONFIG [a.b=c ...]
set -euo pipefail
config=${1:?usage: launch/workstation.sh CONFIG [a.b=c ...]}
shift
gpus=$(ls -d /dev/nvidia[0-9]* 2>/dev/null | wc -l)
exec distdl train "$config" "$@" --nproc "$((gpus > 0 ? gpus : 2))" --resume
