#!/bin/bash
# A run for each learning rate, at most two at a time:
#   sbatch slurm/array.sh CONFIG [a.b=c ...]
# and then: distdl runs --sort best --columns optim.lr,top1
#SBATCH --array=0-3%2
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=4:00:00
#SBATCH --open-mode=append
#SBATCH --signal=USR1@120

rates=(0.05 0.1 0.2 0.4)
rate=${rates[$SLURM_ARRAY_TASK_ID]}
name=$(basename "$1" .yaml)-lr-$rate

srun --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" distdl train "$@" "optim.lr=$rate" --name "$name" --resume
code=$?

if [ "$code" -eq 75 ]; then
  scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID" && sleep 60  # of the last one, SLURM_JOB_ID is all
fi
exit "$code"
