#!/usr/bin/env bash
# The same run, started by DeepSpeed's launcher: where its hostfiles (one `name slots=N` a line) are what one has.
#   [HOSTFILE=hosts] launch/deepspeed.sh CONFIG [a.b=c ...]
# Without HOSTFILE it takes the GPUs of this machine, and with N=2 so many workers of it.
set -euo pipefail
[ $# -gt 0 ] || { echo "usage: [HOSTFILE=hosts | N=2] launch/deepspeed.sh CONFIG [a.b=c ...]" >&2; exit 2; }
config=$1
shift
exec deepspeed ${HOSTFILE:+--hostfile "$HOSTFILE"} ${N:+--num_gpus "$N"} --no_local_rank --module distdl train "$config" "$@" --resume
