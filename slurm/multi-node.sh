#!/bin/bash
# A worker for each GPU of several nodes, each a task of srun's:
#   sbatch slurm/multi-node.sh CONFIG [a.b=c ...]
#SBATCH --nodes=4
#SBATCH --gpus-per-node=8
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=8:00:00
#SBATCH --open-mode=append
#SBATCH --signal=USR1@120

srun --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" distdl train "$@" --resume
code=$?

if [ "$code" -eq 75 ]; then # stopped by the signal two minutes before the limit, and saved
  scontrol requeue "$SLURM_JOB_ID" && sleep 60
fi
exit "$code"
