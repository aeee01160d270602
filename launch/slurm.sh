#!/usr/bin/env bash
# A training on SLURM: one process a node, which has all of its GPUs and finds the others.
#
#     launch/slurm.sh [--dry-run] NODES COMMAND...
#     SBATCH_PARTITION=gpu SBATCH_GPUS_PER_NODE=8 launch/slurm.sh 4 t2i train configs/dalle2/decoder.py --run /shared/run
#
# sbatch reads its own SBATCH_* variables. A node that fails ends the job; SLURM then queues it again, and the training
# goes on from its last checkpoint. Ten minutes before the time limit the training is told to save and stop.
set -euo pipefail

dry=""
if [[ ${1:-} == --dry-run ]]; then
    dry=yes
    shift
fi
if ! [[ ${1:-} =~ ^[1-9][0-9]*$ && $# -ge 2 ]]; then
    echo "usage: launch/slurm.sh [--dry-run] NODES COMMAND..." >&2
    exit 64
fi
nodes=$1
shift

printf -v command '%q ' "$@"
submit=(
    sbatch --job-name=t2i --nodes="$nodes" --ntasks-per-node=1 --requeue --open-mode=append --signal=TERM@600
    --wrap="srun --kill-on-bad-exit=1 ${command% }"
)
if [[ -n $dry ]]; then
    printf '%q ' "${submit[@]}"
    echo
else
    "${submit[@]}"
fi
