#!/usr/bin/env bash
# What `launch/tpu_pod.sh NAME all COMMAND...` does on every host of a slice: runs the command, alone.
#
# A connection that breaks leaves its command running there. The next call stops it with SIGTERM, so that a training
# saves, and waits, ten minutes at most (exit code 70). The lock ends with the last process that the command started.
set -euo pipefail
lock=$HOME/t2i_jax.running
exec 9>>"$lock"
if ! flock -n 9; then
    for process in /proc/[0-9]*; do # who holds the lock, and an earlier call that waits for it
        if [[ ${process#/proc/} != "$$" && $process/fd/9 -ef $lock ]]; then
            kill -TERM "${process#/proc/}" 2>/dev/null || true
        fi
    done
    if ! flock -w 600 9; then
        echo "launch/tpu_run.sh: what an earlier call started does not end on $(hostname)" >&2
        exit 70
    fi
fi
exec "$@"
