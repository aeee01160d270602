"""The test's side of driver.py: starts lives, kills them, waits for them with a limit, leaves none behind."""

import contextlib
import hashlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from t2i_jax.training.checkpoint import load_params, steps_saved
from tests.faults.driver import Life
from tests.quick import QUICK

ROOT = Path(__file__).parents[2]


class Nursery:
    """``with Nursery(cache) as nursery``: ``cache`` is a folder for compiled programs, shared by all lives."""

    def __init__(self, cache: Path):
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu", "XLA_FLAGS": QUICK, "PYTHONPATH": str(ROOT),
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
        }  # fmt: skip
        command = [sys.executable, "-m", "tests.faults.driver"]
        self._driver = subprocess.Popen(
            command, env=environment, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self._alive: set[int] = set()
        assert self._answer(600) == "ready"

    def start(self, life: Life) -> int:
        """The pid of a process that begins ``life``."""
        self._driver.stdin.write(json.dumps({"life": asdict(life)}) + "\n")
        pid = int(self._answer(120))
        self._alive.add(pid)
        return pid

    def wait(self, pid: int, timeout: float) -> int:
        """Its exit code; a process that takes longer than ``timeout`` seconds is killed, and that is an error."""
        self._driver.stdin.write(json.dumps({"wait": pid}) + "\n")
        code = self._answer(timeout, pid)
        self._alive.discard(pid)
        return int(code)

    def run(self, life: Life, timeout: float = 300) -> int:
        return self.wait(self.start(life), timeout)

    def group(self, life: Life, processes: int) -> list[int]:
        """The pids of so many processes that train together."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        names = {"T2I_COORDINATOR": f"127.0.0.1:{port}", "T2I_PROCESSES": str(processes)}
        return [
            self.start(replace(life, log=f"{life.log}.{i}", environment=names | {"T2I_PROCESS": str(i)}))
            for i in range(processes)
        ]

    def _answer(self, timeout: float, pid: int | None = None) -> str:
        ready, _, _ = select.select([self._driver.stdout], [], [], timeout)
        if not ready and pid:
            os.kill(pid, signal.SIGKILL)
            self._driver.stdout.readline()
            self._alive.discard(pid)
        assert ready, f"no end within {timeout} s"
        return self._driver.stdout.readline().strip()

    def __enter__(self) -> "Nursery":
        return self

    def __exit__(self, *_: object) -> None:
        for pid in self._alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._driver.kill()
        self._driver.wait()


def leaves(root: Path, stage: str = "toy", step: int | None = None) -> dict[str, np.ndarray]:
    """Every leaf of a checkpoint's state by name: parameters, average, moments, counts, step. The newest's."""
    ema, step = load_params(root / stage, step)
    reader = ocp.PyTreeCheckpointHandler()
    path = epath.Path(root / stage / "checkpoints" / str(step) / "train")
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), reader.metadata(path).tree)
    train = reader.restore(path, args=ocp.args.PyTreeRestore(restore_args=as_numpy))
    found = jax.tree_util.tree_leaves_with_path({"ema": ema, "train": train})
    return {jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf) for path, leaf in found}


def digest(root: Path, stage: str = "toy", step: int | None = None, but: str = "") -> str:
    """SHA-256 over every bit of a checkpoint's state, less the leaf named ``but``."""
    found = hashlib.sha256()
    for name, leaf in leaves(root, stage, step).items():
        if name != but:
            found.update(f"{name} {leaf.dtype} {leaf.shape}".encode() + leaf.tobytes())
    return found.hexdigest()


def until(true, timeout: float, what: str) -> None:
    """Wait until ``true()``."""
    end = time.monotonic() + timeout
    while not true():
        assert time.monotonic() < end, f"{what}: not within {timeout} s"
        time.sleep(0.002)


def reached(root: Path, stage: str = "toy") -> int:
    """The last step whose metrics are written."""
    path = root / stage / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    with contextlib.suppress(ValueError, IndexError):
        return json.loads(lines[-1])["step"]
    return 0


def saved(root: Path, stage: str = "toy") -> list[int]:
    return steps_saved(root / stage)
