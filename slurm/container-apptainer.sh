#!/bin/bash
# The workers in a container, by Apptainer:
#   sbatch slurm/container-apptainer.sh CONFIG [a.b=c ...]
# The script itself stays outside, where scontrol is.
#SBATCH --nodes=2
#SBATCH --gpus-per-node=8
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=8:00:00
#SBATCH --open-mode=append
#SBATCH --signal=USR1@120

image=${IMAGE:-/images/distdl.sif}

srun --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" \
  apptainer exec --nv --bind "$PWD:$PWD" --pwd "$PWD" "$image" \
  distdl train "$@" --resume
code=$?

if [ "$code" -eq 75 ]; then
  scontrol requeue "$SLURM_JOB_ID" && sleep 60
fi
exit "$code"
