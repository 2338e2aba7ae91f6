#!/bin/bash
# On nodes that others may take away: SIGTERM at any time, SIGKILL after the partition's GraceTime.
#   sbatch --partition=preempt slurm/preemptible.sh CONFIG [a.b=c ...]
# A run that gets no time to save goes on from its last checkpoint: give it checkpoint.every.
#SBATCH --nodes=2
#SBATCH --gpus-per-node=8
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=USR1@120

echo "start number ${SLURM_RESTART_COUNT:-0} on $SLURM_JOB_NODELIST"
srun --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" distdl train "$@" 'checkpoint.every=10 min' --resume
code=$?

# Where Slurm itself queues the job again (PreemptMode=REQUEUE), this does no harm.
if [ "$code" -eq 75 ]; then
  scontrol requeue "$SLURM_JOB_ID" && sleep 60
fi
exit "$code"
