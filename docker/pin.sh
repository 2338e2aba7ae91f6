#!/bin/sh
# Writes docker/constraints.txt: the versions that a fresh install takes today. Look at the difference before you commit it.
set -eu
cd "$(dirname "$0")/.."
python3 -m venv /tmp/distdl-pins
/tmp/distdl-pins/bin/pip install --quiet "torch==$(sed -n 's/^ARG TORCH=//p' docker/Dockerfile.cpu)" '.[wandb,s3,audio,mpich]'
{
  sed -n 1p docker/constraints.txt
  /tmp/distdl-pins/bin/pip freeze --exclude torch --exclude triton | grep -v -E '^(distdl|nvidia|cuda)' | tr 'A-Z_' 'a-z-' | sort
} > docker/constraints.new
mv docker/constraints.new docker/constraints.txt
rm -r /tmp/distdl-pins
