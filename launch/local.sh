#!/usr/bin/env bash
# One training as several processes on this machine, joined over loopback.
#
#     launch/local.sh [--dry-run] PROCESSES COMMAND...
#     launch/local.sh 2 t2i train configs/emoji/vae.py --run runs/two
#
# The first process that fails ends the others; its exit code is this script's.
set -euo pipefail

usage() {
    echo "usage: launch/local.sh [--dry-run] PROCESSES COMMAND..." >&2
    exit 64
}

dry=""
if [[ ${1:-} == --dry-run ]]; then
    dry=yes
    shift
fi
[[ ${1:-} =~ ^[1-9][0-9]*$ && $# -ge 2 ]] || usage
processes=$1
shift

port=${T2I_PORT:-$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')}
export T2I_COORDINATOR=127.0.0.1:$port T2I_PROCESSES=$processes

if [[ -n $dry ]]; then
    for ((i = 0; i < processes; i++)); do
        echo "T2I_COORDINATOR=$T2I_COORDINATOR T2I_PROCESSES=$processes T2I_PROCESS=$i $*"
    done
    exit 0
fi

children=() stopped=""
trap 'stopped=yes; kill -TERM "${children[@]}" 2>/dev/null || true' TERM INT
for ((i = 0; i < processes; i++)); do
    T2I_PROCESS=$i "$@" &
    children+=($!)
done
[[ -z $stopped ]] || kill -TERM "${children[@]}" 2>/dev/null || true # the last of them were not there to be told

# Looked at one by one: what `wait -n` returns, 127 or 143, may be a child's own code or none at all.
left=("${children[@]}") code=0
while ((${#left[@]} > 0)); do
    still=()
    for child in "${left[@]}"; do
        ended=0
        if kill -0 "$child" 2>/dev/null; then
            still+=("$child")
        else
            wait "$child" || ended=$?
        fi
        if ((ended != 0 && code == 0)); then
            code=$ended
            # Once is enough: who was told to stop and is saving shall not be told again.
            [[ -n $stopped ]] || kill -TERM "${children[@]}" 2>/dev/null || true
        fi
    done
    ((${#still[@]} > 0)) || break
    left=("${still[@]}")
    sleep 0.5 || true # Ctrl-C ends it too
done
exit "$code"
