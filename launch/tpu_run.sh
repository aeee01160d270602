#!/usr/bin/env bash
# What `launch/tpu_pod.sh NAME all COMMAND...` does on every host of a slice: runs the command, alone.
#
# A connection that breaks leaves its command running there. The next call stops it (SIGTERM: a training saves) and
# waits, ten minutes at most. The lock ends with the command.
set -euo pipefail
lock=$HOME/t2i_jax.running
exec 9>>"$lock"
told=""
until flock -n 9; do
    earlier=$(<"$lock")
    if [[ -z $told && /proc/$earlier/fd/9 -ef $lock ]]; then # not another process that got its number
        kill -TERM "$earlier" && told=yes
    fi
    if ((SECONDS > 600)); then
        echo "launch/tpu_run.sh: an earlier command (process $earlier) does not end on $(hostname)" >&2
        exit 1
    fi
    sleep 0.5
done
echo $$ >"$lock"
exec "$@"
