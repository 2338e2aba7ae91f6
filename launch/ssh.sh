#!/usr/bin/env bash
# The same run on several machines, by ssh alone. On one of them, or on any other that reaches them:
#   launch/ssh.sh node-a:8,node-b:8 CONFIG [a.b=c ...]
# `ssh node-a true` has to work without a password, and distdl to be installed at the same place; options of ssh's own:
#   DISTDL_SSH='ssh -p 2222 -i key' launch/ssh.sh hosts.txt CONFIG
set -euo pipefail
[ $# -gt 1 ] || { echo "usage: launch/ssh.sh HOSTS CONFIG [a.b=c ...]" >&2; exit 2; }
hosts=$1 config=$2
shift 2
exec distdl train "$config" "$@" --hosts "$hosts" --max-restarts 3 --resume
