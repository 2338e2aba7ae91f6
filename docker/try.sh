#!/bin/bash
# Builds the CPU image, and trains a network in two containers of it that stand for two nodes, as a user who is not root.
#   docker/try.sh [OPTIONS OF BUILD...]     with docker, podman or, where there is none, buildah
set -euo pipefail
cd "$(dirname "$0")/.."
for engine in docker podman buildah none; do $engine info >/dev/null 2>&1 && break; done
if [ $engine = none ]; then echo "no docker, podman or buildah works here"; exit 2; fi
work=$(mktemp -d)
trap 'jobs -p | xargs -r kill; rm -rf "$work"' EXIT

build=($engine build --file docker/Dockerfile.cpu --tag distdl:cpu "$@")
if [ $engine = podman ] || [ $engine = buildah ]; then build+=(--format docker); fi # the other one has no HEALTHCHECK
"${build[@]}" .

mkdir "$work/runs"
chown -R 1000:1000 "$work"

# node NUMBER: its worker, and the address of the first node. Containers of buildah share the network of the machine.
train=(-m distdl train configs/digits/lenet5.yaml --name two-nodes)
torchrun=(-m torch.distributed.run --nnodes 2 --nproc-per-node 1 --master-port 29517)
node() {
  if [ $engine = buildah ]; then
    container=$(buildah from distdl:cpu)
    buildah run --user 1000:1000 --hostname "node$1" --volume "$work/runs:/train/runs" "$container" -- \
      env OMP_NUM_THREADS=1 bash -c 'cd /train; id -u > runs/uid-'"$1"'; exec python3 "$@"' node \
      "${torchrun[@]}" --master-addr 127.0.0.1 --node-rank "$1" "${train[@]}"
    buildah rm "$container" >/dev/null
  else
    $engine run --rm --network distdl-try --name "distdl-node$1" --hostname "distdl-node$1" --volume "$work/runs:/train/runs" \
      --env OMP_NUM_THREADS=1 --entrypoint bash distdl:cpu -c 'id -u > runs/uid-'"$1"'; exec python3 "$@"' node \
      "${torchrun[@]}" --master-addr distdl-node0 --node-rank "$1" "${train[@]}"
  fi
}
if [ $engine != buildah ]; then $engine network create distdl-try >/dev/null; fi
node 1 &
node 0
wait $!
if [ $engine != buildah ]; then $engine network rm distdl-try >/dev/null; fi

echo "users in the containers: $(cat "$work"/runs/uid-*)"
grep -h -o '"top1": [0-9.]*' "$work/runs/two-nodes/final.json" | tail -n 1
grep -o '"host": "[^"]*"' "$work/runs/two-nodes/environment.json"
$engine images distdl:cpu
