"""A training on TPU slices of a GKE cluster: fills in jobset.yaml and hands it to kubectl.

    gcloud storage buckets create gs://my-bucket --enable-hierarchical-namespace --uniform-bucket-level-access
    export IMAGE=us-docker.pkg.dev/my-project/t2i/t2i_jax BUCKET=my-bucket
    python launch/gke/submit.py [--dry-run] NAME TOPOLOGY COMMAND...
    python launch/gke/submit.py mine v5e:16x16 t2i train configs/dalle2/decoder.py --run /mnt/shared/dalle2

TOPOLOGY as for `t2i plan`: v5e:16x16, v6e:16x16, v5p:8x8x8, as the cluster's node pools have it. Also read: SLICES (1),
SPOT=1 for preemptible ones, ACCOUNT (default; a Kubernetes service account that may write the bucket), RESTARTS (100,
after a failure or a preemption; exit code 64, a wrong config, or 65, diverged, ends it at once). The bucket is
/mnt/shared in every pod, and needs a hierarchical namespace: gcsfuse can't rename directories of a flat one, and with a
rename a checkpoint counts. `kubectl delete jobset NAME` stops a training, which saves first; the same call goes on.
Needs nothing but Python.
"""

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from string import Template

USAGE = 64
ACCELERATORS = {"v5e": "tpu-v5-lite-podslice", "v5p": "tpu-v5p-slice", "v6e": "tpu-v6e-slice"}
CHIPS = 4
"""Chips of one host of a slice that has several."""


def main(args: list[str], environment: dict[str, str]) -> int:
    dry = args[:1] == ["--dry-run"]
    args = args[dry:]
    if len(args) < 3 or args[0].startswith("-"):
        print(__doc__, file=sys.stderr)
        return USAGE
    try:
        text = manifest(*args[:2], args[2:], environment)
    except ValueError as error:
        print(f"launch/gke/submit.py: {error}", file=sys.stderr)
        return USAGE
    if dry:
        print(text)
        return 0
    return subprocess.run(["kubectl", "apply", "-f", "-"], input=text, text=True, check=False).returncode


def manifest(name: str, topology: str, command: list[str], environment: dict[str, str]) -> str:
    """The JobSet as YAML. Raises ValueError for a name, topology or variable that can't be."""
    if not re.fullmatch(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?", name):
        raise ValueError(f"the name {name!r}: up to 40 lower-case letters, digits and dashes, a letter first")
    generation, _, shape = topology.partition(":")
    sizes = shape.split("x")
    if generation not in ACCELERATORS or not all(size.isdigit() and int(size) for size in sizes):
        raise ValueError(f"the topology {topology!r}: one of {', '.join(ACCELERATORS)} and a shape, such as v5e:16x16")
    chips = math.prod(map(int, sizes))
    if chips > CHIPS and chips % CHIPS:
        raise ValueError(f"the topology {topology!r} has {chips} chips, and a host of a slice has {CHIPS}")
    missing = [key for key in ("IMAGE", "BUCKET") if not environment.get(key)]
    if missing:
        raise ValueError(f"set {' and '.join(missing)}: the container's image, the bucket for data and runs")
    counts = {"slices": environment.get("SLICES") or "1", "restarts": environment.get("RESTARTS") or "100"}
    for key, value in counts.items():
        if not value.isdigit() or (key == "slices" and int(value) < 1):
            raise ValueError(f"{key.upper()}={value}: a whole number")
    text = {
        "account": environment.get("ACCOUNT") or "default", "image": environment["IMAGE"],
        "bucket": environment["BUCKET"], "accelerator": ACCELERATORS[generation], "topology": shape, "name": name,
    }  # fmt: skip
    return Template((Path(__file__).parent / "jobset.yaml").read_text()).substitute(
        {key: json.dumps(value) for key, value in text.items()},  # a JSON string is a YAML string
        **counts,
        command=json.dumps(command),
        hosts=max(1, chips // CHIPS),
        chips=min(chips, CHIPS),
        spot='cloud.google.com/gke-spot: "true"' if environment.get("SPOT") else "",
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], dict(os.environ)))
