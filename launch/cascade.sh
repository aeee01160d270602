#!/usr/bin/env bash
# The reference run: every stage of a folder of configs, each after those that it reads, each started again until done.
#
#     launch/cascade.sh [--dry-run] CONFIGS RUN [OPTIONS of every stage ...]
#     launch/cascade.sh configs/dalle2 /mnt/shared/dalle2 --data.dataset laion
#
# On every host of a slice: `t2i train` finds the other hosts. On one machine with CPUs alone, `t2i train CONFIGS` is
# faster: it trains two stages side by side. SIGTERM and Ctrl-C save what trains and end with its exit code. With
# IN_VAIN=5 in the environment five attempts in a row at a stage that end within ten minutes are enough (exit code 69);
# without it a stage is tried a thousand times.
set -euo pipefail

dry=()
if [[ ${1:-} == --dry-run ]]; then
    dry=(--dry-run)
    shift
fi
if (($# < 2)); then
    echo "usage: launch/cascade.sh [--dry-run] CONFIGS RUN [OPTIONS ...]" >&2
    exit 64
fi
configs=$1 run=$2
shift 2

# A shell that waits for a command in the foreground hears no signal, and the first process of a container ignores it.
stage_runs="" stopped=""
tell() {
    stopped=yes
    [[ -z $stage_runs ]] || kill -TERM "$stage_runs" 2>/dev/null || true
}
trap tell TERM INT

supervised() { # a command; returns its exit code
    local code=0
    python3 "$here/supervise.py" ${IN_VAIN:+--in-vain "$IN_VAIN"} "${dry[@]}" -- "$@" &
    stage_runs=$!
    [[ -z $stopped ]] || tell # it was not there to be told
    while kill -0 "$stage_runs" 2>/dev/null; do
        sleep 0.5 || true # Ctrl-C ends it too
    done
    wait "$stage_runs" || code=$?
    stage_runs=""
    return "$code"
}

here=$(dirname "${BASH_SOURCE[0]}")
found=0
for stage in vae clip prior decoder upsampler upsampler256 upsampler1024 polish; do
    if [[ -f $configs/$stage.py ]]; then
        found=1
        [[ -z $stopped ]] || exit 75
        supervised t2i train "$configs/$stage.py" --run "$run" "$@"
    fi
done
if ((found == 0)); then
    echo "launch/cascade.sh: no config of a stage in $configs" >&2
    exit 64
fi
