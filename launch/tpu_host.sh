#!/usr/bin/env bash
# What `launch/tpu_pod.sh NAME install` does on every host of a slice, in the copy that this script is in: installs it
# and what it needs in .venv.
#
# It takes the newest Python of 3.11 to 3.13 that makes virtual environments; a host without one (Ubuntu 22.04 has 3.10)
# gets 3.11 from apt.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

choose() {
    local python
    for python in python3.13 python3.12 python3.11; do
        if "$python" -c 'import ensurepip, venv' 2>/dev/null; then
            echo "$python"
            return
        fi
    done
    return 1
}

if ! python=$(choose); then
    sudo apt-get -q update || true # it may know enough already
    # A host that has just started installs updates, and holds apt's lock.
    sudo apt-get -q -y -o DPkg::Lock::Timeout=300 install python3.11 python3.11-venv || true
    if ! python=$(choose); then
        echo "launch/tpu_host.sh: no Python of 3.11 to 3.13 with venv here, and apt-get can't install python3.11 and" \
            "python3.11-venv; let PREPARE install one" >&2
        exit 64
    fi
fi
"$python" -m venv .venv
version=${python#python}
.venv/bin/pip install -q -c "constraints/py${version/./}.txt" -e '.[tpu]'
