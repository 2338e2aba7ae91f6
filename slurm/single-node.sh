#!/bin/bash
# A worker for each GPU of one node:
#   sbatch slurm/single-node.sh CONFIG [a.b=c ...]
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=8:00:00
#SBATCH --open-mode=append
#SBATCH --signal=USR1@120

# distdl starts the workers itself, and starts them again after a failure.
srun --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" distdl train "$@" --resume --max-restarts 3
code=$?

if [ "$code" -eq 75 ]; then # stopped by the signal two minutes before the limit, and saved
  scontrol requeue "$SLURM_JOB_ID" && sleep 60
fi
exit "$code"
