#!/usr/bin/env bash
# A training on a Cloud TPU slice (or several), through queued resources: made, prepared once, run on every host, made
# again when it was preempted, and taken down at the end.
#
#     export ZONE=us-west4-a TYPE=v5litepod-256 RUNTIME=v2-alpha-tpuv5-lite
#     export PREPARE='sudo mkdir -p /mnt/shared; mountpoint -q /mnt/shared || sudo mount -o nolock 10.0.0.2:/share /mnt/shared'
#     launch/tpu_pod.sh NAME all t2i train configs/dalle2/decoder.py --run /mnt/shared/dalle2
#
#     launch/tpu_pod.sh [--dry-run] NAME create           ask for the slice and wait until it is there
#     launch/tpu_pod.sh [--dry-run] NAME install          copy the last commit to every host and install it
#     launch/tpu_pod.sh [--dry-run] NAME run COMMAND...   run it on every host
#     launch/tpu_pod.sh [--dry-run] NAME all COMMAND...   all of it, again after every preemption, then delete
#     launch/tpu_pod.sh [--dry-run] NAME delete           give the slice back
#
# PREPARE is a shell command that every host runs before the installation, those after a preemption too: the mount of
# --run (docs/tpu.md). Also read: PROJECT (default: gcloud's own), SLICES (1), SPOT=1 for preemptible ones, POLL (30
# seconds between looks), SHORT (600 seconds), CHECKOUT (a clone; default: the one that this script is in).
#
# A command that ends with 64 (a wrong config), 65 (diverged) or 69 (launch/cascade.sh: a stage failed five times in a
# row) is not tried again. A slice that gcloud refuses, or that fails three times before it is there, is 64 too. On a
# slice that is there, five attempts in a row that end within SHORT seconds or can't be installed are enough: it is given
# back, and the last one's code is the script's. A command that goes on where the connection broke is stopped (a training
# saves) before it is started again. Ctrl-C ends this script alone: the slice stays, and the same call takes it up again.
set -euo pipefail

usage() {
    sed -n '/^set /q; 2,$s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
    exit 64
}

dry=""
if [[ ${1:-} == --dry-run ]]; then
    dry=yes
    shift
fi
(($# >= 2)) || usage
name=$1 verb=$2
shift 2
: "${ZONE:?set ZONE, the zone of the TPUs, e.g. us-west4-a}"
slices=${SLICES:-1} poll=${POLL:-30} short=${SHORT:-600} checkout=${CHECKOUT:-$(dirname "${BASH_SOURCE[0]}")/..}
place=(--zone="$ZONE" ${PROJECT:+--project="$PROJECT"})

call() { # a command, or with --dry-run its words
    if [[ -n $dry ]]; then
        printf '%q ' "$@"
        echo
    else
        "$@"
    fi
}

look() { # the state; NONE where there is no such queued resource, UNKNOWN where gcloud can't say (its word is on stderr)
    local errors now=""
    errors=$(mktemp)
    if now=$(gcloud compute tpus queued-resources describe "$name" "${place[@]}" --format='value(state.state)' 2>"$errors"); then
        echo "${now:-UNKNOWN}"
    elif grep -q NOT_FOUND "$errors"; then
        echo NONE
    else
        cat "$errors" >&2
        echo UNKNOWN
    fi
    rm -f "$errors"
}

state() { # as soon as gcloud can say: a network that fails takes no slice away
    local now
    while now=$(look) && [[ $now == UNKNOWN ]]; do sleep "$poll"; done
    echo "$now"
}

ask() { # for the slice, three times at most: a wrong type or zone, or no quota, ends with 64
    local tries=0
    until call gcloud compute tpus queued-resources create "$name" "${place[@]}" "$@"; do
        case $(look) in
        NONE | UNKNOWN) ;;
        *)
            earlier=yes # it is there, from an earlier call, and what that started may run on it
            return 0
            ;;
        esac
        tries=$((tries + 1))
        if ((tries == 3)); then
            echo "launch/tpu_pod.sh: $name can't be asked for; gcloud says above why (zone $ZONE, type $TYPE)" >&2
            return 64
        fi
        sleep "$poll"
    done
}

create() {
    : "${TYPE:?set TYPE, the accelerator type, e.g. v5litepod-256}" "${RUNTIME:?set RUNTIME, e.g. v2-alpha-tpuv5-lite}"
    local nodes=(--node-id="$name")
    if ((slices > 1)); then
        nodes=(--node-count="$slices" --node-prefix="$name")
    fi
    ask "${nodes[@]}" --accelerator-type="$TYPE" --runtime-version="$RUNTIME" ${SPOT:+--spot} || return
    [[ -z $dry ]] || return 0
    while true; do
        now=$(state)
        case $now in
        ACTIVE) return 0 ;;
        FAILED | SUSPENDED | SUSPENDING | NONE)
            echo "launch/tpu_pod.sh: $name is $now: gcloud compute tpus queued-resources describe $name ${place[*]}" >&2
            return 1
            ;;
        esac
        sleep "$poll"
    done
}

each_slice() { # NAME of one node after the other
    if ((slices > 1)); then
        for ((i = 0; i < slices; i++)); do echo "$name-$i"; done
    else
        echo "$name"
    fi
}

on_all() { # a shell command on every host of every slice at once; the first bad exit code counts
    local node code=0 ended children=() ssh
    while read -r node; do
        ssh=(gcloud compute tpus tpu-vm ssh "$node" "${place[@]}" --worker=all --command="$1")
        if [[ -n $dry ]]; then
            call "${ssh[@]}"
        else
            "${ssh[@]}" </dev/null & # itself, so that a signal can be told to it
            children+=($!)
        fi
    done < <(each_slice)
    for child in "${children[@]}"; do
        ended=0
        wait "$child" || ended=$?
        ((code != 0)) || code=$ended
    done
    return "$code"
}

pin() { # the commit that the hosts get, also those of a later slice; refused where it is not what the files say
    local changed
    if ! { commit=$(git -C "$checkout" rev-parse HEAD) && changed=$(git -C "$checkout" status --porcelain); }; then
        echo "launch/tpu_pod.sh: the hosts get a commit, and git can't read $checkout; set CHECKOUT to a clone" >&2
        return 64
    fi
    [[ -n $changed ]] || return 0
    echo "launch/tpu_pod.sh: the hosts get the last commit of $checkout, without these files; commit them:" >&2
    echo "$changed" >&2
    [[ -n $dry ]] || return 64
}

install() {
    local node archive code=0
    [[ -z ${PREPARE:-} ]] || on_all "$PREPARE" || return
    archive=$(mktemp --suffix=.tar.gz) || return
    call git -C "$checkout" archive --format=tar.gz --output="$archive" "$commit" || return
    while read -r node; do
        call gcloud compute tpus tpu-vm scp "$archive" "$node:t2i_jax.tar.gz" "${place[@]}" --worker=all </dev/null || code=$?
    done < <(each_slice)
    rm -f "$archive"
    ((code == 0)) || return "$code"
    on_all 'mkdir -p t2i_jax && tar -xzf t2i_jax.tar.gz -C t2i_jax && bash t2i_jax/launch/tpu_host.sh'
}

settle() { # what an earlier call started saves and ends, before its files are replaced
    on_all 'if [[ -e t2i_jax/launch/tpu_run.sh ]]; then bash t2i_jax/launch/tpu_run.sh true; fi'
}

run() {
    local words
    printf -v words '%q ' "$@"
    on_all "cd t2i_jax && IN_VAIN=5 PATH=\$PWD/.venv/bin:\$PATH ${words% }"
}

stop() { # Ctrl-C or SIGTERM, during all
    trap - INT TERM
    jobs -pr | xargs -r kill 2>/dev/null || true
    echo "launch/tpu_pod.sh: stopped. $name stays, asked for or paid for, and so does what runs on it. The same call" \
        "takes it up again; launch/tpu_pod.sh $name delete gives it back" >&2
    exit "$1"
}

delete() { call gcloud compute tpus queued-resources delete "$name" "${place[@]}" --force --quiet; }

give_back() { delete || echo "launch/tpu_pod.sh: $name is not given back; try: launch/tpu_pod.sh $name delete" >&2; }

case $verb in
create | delete) "$verb" ;;
install)
    pin
    install
    ;;
run)
    (($# > 0)) || usage
    run "$@"
    ;;
all)
    (($# > 0)) || usage
    pin
    trap 'stop 130' INT
    trap 'stop 143' TERM
    failed=0 vain=0
    while true; do
        code=0 installed="" now="" earlier=""
        create || code=$?
        ((code != 64)) || exit 64
        if [[ $code != 0 && $now == FAILED ]]; then
            failed=$((failed + 1))
        else
            failed=0
        fi
        if ((failed == 3)); then
            echo "launch/tpu_pod.sh: $name FAILED three times before it was there; it is left for you to look at:" \
                "gcloud compute tpus queued-resources describe $name ${place[*]}" >&2
            exit 64
        fi
        while ((code == 0)); do
            [[ -n $installed ]] || { { [[ -z $earlier ]] || settle; } && install && installed=yes; } || code=$?
            long=""
            if [[ -n $installed ]]; then
                SECONDS=0
                run bash launch/tpu_run.sh "$@" || code=$?
                # 70: it waited in vain for an earlier command to end
                ((SECONDS < short || code == 70)) || long=yes
            fi
            if [[ -n $dry ]] || ((code == 0 || code == 64 || code == 65 || code == 69)); then
                give_back
                exit "$code"
            fi
            [[ -z $long ]] || vain=0
            now=$(state)
            [[ $now == ACTIVE ]] || break # a preemption is nobody's failure
            [[ -n $long ]] || vain=$((vain + 1))
            if ((vain == 5)); then
                echo "launch/tpu_pod.sh: five attempts in a row ended within $short seconds or were not installed," \
                    "the last with exit code $code; $name is given back" >&2
                give_back
                exit "$code"
            fi
            code=0
            sleep "$poll" # it ended, the slice is there: again, from the last checkpoint
        done
        echo "launch/tpu_pod.sh: $name is ${now:-$(state)} (last exit code $code); asking for it again" >&2
        delete || true
        sleep "$poll"
    done
    ;;
*) usage ;;
esac
