#!/usr/bin/env bash
# The same run over MPI, on the machines of a hostfile (one `name slots=N` a line), or on this one:
#   HOSTFILE=hosts launch/mpirun.sh N CONFIG [a.b=c ...]
set -euo pipefail
[ $# -gt 1 ] || { echo "usage: [HOSTFILE=hosts] launch/mpirun.sh N CONFIG [a.b=c ...]" >&2; exit 2; }
n=$1 config=$2
shift 2
options=()
case $(mpirun --version) in
  *"Open MPI"*) options=(--bind-to none ${HOSTFILE:+--hostfile "$HOSTFILE"}) ;;
  *) options=(${HOSTFILE:+-f "$HOSTFILE"}) ;;
esac
exec mpirun "${options[@]}" -n "$n" distdl train "$config" "$@" --resume
