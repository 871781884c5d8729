#!/bin/bash
# One run on several hosts under SLURM: `sbatch slurm.sh`. Each host runs one torchrun, which starts a process for each of
# its GPUs. SLURM asks for a checkpoint two minutes before it ends the job, and a job that is started again goes on from it.
# `--signals-to-handle` needs torch 2.10.
#SBATCH --job-name=veneer
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=08:00:00
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

first_host=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

# The folder of the run is on a disk that all hosts see, so that a job that is started elsewhere finds its checkpoints.
srun torchrun \
  --nnodes "$SLURM_NNODES" \
  --nproc-per-node 8 \
  --rdzv-id "$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}" \
  --rdzv-backend c10d \
  --rdzv-endpoint "$first_host:29500" \
  --max-restarts 3 \
  --signals-to-handle SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 \
  -m veneer train --model MODEL --data rows.jsonl --output my-adapter --resume --set train.lanes=16
