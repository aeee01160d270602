"""Looks at the machines before a run of weeks does: `t2i doctor CONFIG --run RUN`, on every host like the training.

Every process says what it is and has; process 0 compares, prints, and names the host that differs. Where nothing
differs, one all-reduce over each axis of the mesh then tells that the devices hear each other, and how fast; between
hosts whose configs or versions differ it would not end.
"""

import hashlib
import json
import os
import shutil
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from t2i_jax.data import load_data
from t2i_jax.parallel.hosts import TIMEOUT, barrier, exchange, leader
from t2i_jax.parallel.mesh import check_batch
from t2i_jax.training.checkpoint import versions
from t2i_jax.training.commit import NoRename, check_renames
from t2i_jax.training.experiment import Experiment
from t2i_jax.training.serialize import encode

Report = dict[str, Any]
ALIKE = ("versions", "devices", "config", "data")
"""What must be the same everywhere."""
CLOCK = 5.0
"""Seconds that clocks may differ by."""
DISK = 20 * 2**30
"""Bytes of free disk below which a run is warned of."""


def examine(experiment: Experiment, run: str | Path) -> list[str]:
    """Print every process's report and the speed of each axis; returns what is wrong, [] if nothing is.

    To be called by all processes, after ``join``. Raises ValueError where mesh or batch don't fit the devices.
    """
    reports = gather(look(experiment, Path(run)))
    wrong = compare(reports)
    for number, one in enumerate(reports):
        _print(
            f"process {number} on {one['host']}: {one['devices']}, {one['memory'] / 2**30:.0f} GiB of memory, "
            f"{one['disk'] / 2**30:.0f} GiB of disk free, clock {one['clock'] - reports[0]['clock']:+.1f} s, "
            f"jax {one['versions']['jax']}, data {one['data'][:12]}"
        )
    for text in wrong:
        _print(f"WRONG: {text}")
    if alike(reports):
        mesh = experiment.mesh.build()
        check_batch(experiment.data.batch, experiment.accumulate, mesh)
        for axis, size in mesh.shape.items():
            if size > 1:
                _print(f"all-reduce over {axis} ({size}): {bandwidth(mesh, axis) / 1e9:.2f} GB/s a device")
    else:
        _print("all-reduces are not tried before all processes are alike")
    _print(f"{len(wrong)} thing(s) to mend" if wrong else "nothing is wrong")
    barrier("doctor")
    return wrong


def look(experiment: Experiment, run: Path) -> Report:
    """What this process is and has, but for the clock; "failed" names what it could not do."""
    failed = []
    try:
        data = load_data(experiment.data)
        data.records(np.array([0]))
        digest = data.digest
    except (OSError, ValueError) as error:
        digest = ""
        failed.append(f"cannot read the data set {experiment.data.dataset}: {error}")
    try:
        run.mkdir(parents=True, exist_ok=True)
        probe = run / f".doctor-{jax.process_index()}"
        probe.write_text("here")
        probe.unlink()
        disk = shutil.disk_usage(run).free
    except OSError as error:
        disk = 0
        failed.append(f"cannot write the run directory {run}: {error}")
    else:
        try:
            stage = run / experiment.stage.name
            check_renames(stage if stage.is_dir() else run)
        except NoRename as error:
            failed.append(str(error))
    kinds = sorted({device.device_kind for device in jax.local_devices()})
    config = json.dumps(encode(experiment), sort_keys=True)
    return {
        "host": socket.gethostname(),
        "versions": versions(),
        "devices": f"{jax.local_device_count()} x {', '.join(kinds)}",
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "disk": disk,
        "config": hashlib.sha256(config.encode()).hexdigest(),
        "data": digest,
        "failed": failed,
    }


def compare(reports: Sequence[Report]) -> list[str]:
    """What is wrong with any report, or differs between them, each with its host."""
    name = lambda number: f"process {number} on {reports[number]['host']}"
    wrong = [f"{name(i)} {text}" for i, one in enumerate(reports) for text in one["failed"]]
    for i, one in enumerate(reports):
        for key in ALIKE:
            if one[key] != reports[0][key]:
                wrong.append(f"{key} of {name(i)} is {_short(one[key])}, of {name(0)} {_short(reports[0][key])}")
        apart = one["clock"] - reports[0]["clock"]
        if abs(apart) > CLOCK:
            wrong.append(f"the clock of {name(i)} is {apart:+.0f} s from that of {name(0)}")
        if 0 < one["disk"] < DISK:
            wrong.append(f"{name(i)} has {one['disk'] / 2**30:.1f} GiB of disk left for the run")
    return wrong


def alike(reports: Sequence[Report]) -> bool:
    """Whether the processes would run the same program."""
    return all(one[key] == reports[0][key] for one in reports for key in ALIKE)


def gather(report: Report) -> list[Report]:
    """Every process's report, in the order of their numbers, each with its clock at one common moment.

    No device takes part: this works where they don't.
    """
    barrier("doctor: all have looked")
    word = json.dumps(report | {"clock": time.time()})
    words = exchange("t2i/doctor", word, 1000 * TIMEOUT) if jax.process_count() > 1 else [word]
    return [json.loads(word) for word in words]


def bandwidth(mesh: Mesh, axis: str, size: int = 2**22, repeats: int = 3) -> float:
    """Bytes/s that a device sends in an all-reduce of ``size`` float32 over one axis, the best of some."""
    ways = mesh.shape[axis]
    split, whole = NamedSharding(mesh, PartitionSpec(axis)), NamedSharding(mesh, PartitionSpec())
    parts = jax.jit(lambda: jnp.ones((ways, size)), out_shardings=split)()
    total = jax.jit(lambda x: x.sum(0), out_shardings=whole)
    total(parts).block_until_ready()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        total(parts).block_until_ready()
        times.append(time.perf_counter() - began)
    return 2 * 4 * size * (ways - 1) / ways / min(times)


def _print(line: str) -> None:
    if leader():
        print(line, flush=True)


def _short(value: Any) -> str:
    return ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)[:60]
