"""A build by several processes, or killed and begun again, gives the bytes of one process that nobody disturbs."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from t2i_jax.data import load_dataset
from t2i_jax.data.build import Duplicates, build
from t2i_jax.data.runners import Processes
from tests.data.conftest import picture
from tests.data.test_sources import sample, tar_of

CODE = """
import sys
from t2i_jax.data.build import Duplicates, build
from t2i_jax.data.runners import Processes
if __name__ == "__main__":
    build(sys.argv[1], sys.argv[2], "x", holdout=0.2, duplicates=Duplicates(near=2), shard_mb=0,
          run=Processes(int(sys.argv[3])))
"""


@pytest.fixture(scope="module")
def tars(tmp_path_factory) -> Path:
    """Twelve tars of 15 pictures, with repetitions within and across tars, and with rubbish."""
    home = tmp_path_factory.mktemp("tars")
    for tar in range(12):
        files = {}
        for i in range(15):
            files |= sample(100 * tar + i)
        again = f"{100 * tar + 20:09d}"
        files |= {f"{again}.jpg": picture(100 * max(0, tar - 3) + 4, kind="JPEG"), f"{again}.txt": "again"}
        files |= {f"{again}0.jpg": b"rubbish", f"{again}0.txt": "rubbish"}
        tar_of(home / f"{tar:05d}.tar", files)
    return home


@pytest.fixture(scope="module")
def alone(tars, tmp_path_factory) -> Path:
    """What one process makes of them."""
    out = tmp_path_factory.mktemp("alone") / "x"
    options = {"holdout": 0.2, "duplicates": Duplicates(near=2), "shard_mb": 0}
    manifest = build(tars, out, "x", **options)
    assert manifest["skipped"] == {"not a picture": 12, "duplicate": 12}
    return out


def content(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def start(tars: Path, out: Path, workers: int) -> subprocess.Popen:
    code = out.parent / "code.py"
    code.write_text(CODE)
    command = [sys.executable, str(code), str(tars), str(out), str(workers)]
    return subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True)


def progress(out: Path) -> int:
    """Files that a build under way has left: units, then files of the data set."""
    part = out / ".1.0.0.part"
    return len(list(part.glob("units/*.json"))) + len(list(part.glob("whole/*")))


def test_two_processes_give_the_bytes_of_one(tars, alone, tmp_path):
    with start(tars, tmp_path / "x", 2) as process:
        said = process.communicate(timeout=120)[1]
        assert process.returncode == 0, said
    assert content(tmp_path / "x") == content(alone)


def punish(tars: Path, alone: Path, home: Path, seed: int, kills: int) -> None:
    """Kill a build at drawn moments, and let it end."""
    rng, out = random.Random(seed), home / "x"
    workers = rng.choice([1, 2])
    for _ in range(kills):
        target = progress(out) + rng.randrange(1, 60)
        with start(tars, out, workers) as process:
            deadline = time.monotonic() + 120
            while process.poll() is None and progress(out) < target and time.monotonic() < deadline:
                time.sleep(0.001)
            os.kill(process.pid, signal.SIGKILL) if process.poll() is None else None
            process.wait(30)
            deadline = time.monotonic() + 30
            while _lives(process.pid):  # its workers end with it
                assert time.monotonic() < deadline, "workers outlive their parent"
                time.sleep(0.01)
        if (out / "1.0.0").exists():
            break
        with pytest.raises(ValueError, match="neither a data set"):
            load_dataset(out)
    if not (out / "1.0.0").exists():
        with start(tars, out, workers) as process:
            said = process.communicate(timeout=120)[1]
            assert process.returncode == 0, said
    else:
        with pytest.raises(FileExistsError):
            build(tars, out, "x")
    assert content(out) == content(alone)


def _lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_build_killed_at_any_moment_goes_on_and_ends_with_the_same_bytes(tars, alone, tmp_path):
    punish(tars, alone, tmp_path, seed=0, kills=2)


@pytest.mark.stress
@pytest.mark.parametrize("seed", range(1, 26))
def test_25_builds_killed_three_times_each_end_with_the_same_bytes(seed, tars, alone, tmp_path):
    punish(tars, alone, tmp_path, seed, kills=3)


def test_what_was_done_is_not_done_again(tars, tmp_path):
    def stop(function, tasks):
        for task in tasks[:5]:
            function(task)
        raise KeyboardInterrupt

    class Stopping(Processes):
        def __call__(self, function, tasks):
            stop(function, list(tasks))

    class Counting(Processes):
        def __call__(self, function, tasks):
            counts.append(len(tasks))
            super().__call__(function, tasks)

    counts = []
    with pytest.raises(KeyboardInterrupt):
        build(tars, tmp_path / "x", run=Stopping())
    build(tars, tmp_path / "x", run=Counting())
    assert counts == [7, 1]


def test_a_build_with_other_settings_or_of_a_changed_source_begins_anew(tars, tmp_path):
    class Stopping(Processes):
        def __call__(self, function, tasks):
            done.append(len(list(tasks)))
            super().__call__(function, list(tasks)[:5])
            raise KeyboardInterrupt

    done = []
    source = tmp_path / "in"
    source.mkdir()
    for path in sorted(tars.iterdir()):
        (source / path.name).write_bytes(path.read_bytes())
    for holdout in (0.1, 0.1, 0.2):
        with pytest.raises(KeyboardInterrupt):
            build(source, tmp_path / "x", holdout=holdout, run=Stopping())
    tar_of(source / "00003.tar", sample(1))
    with pytest.raises(KeyboardInterrupt):
        build(source, tmp_path / "x", holdout=0.2, run=Stopping())
    assert done == [12, 7, 12, 12]


def test_two_builds_of_one_data_set_at_once_are_refused(tars, tmp_path):
    class Inner(Processes):
        def __call__(self, function, tasks):
            with pytest.raises(BlockingIOError, match="another process is building .*x; wait for it"):
                build(tars, tmp_path / "x")
            super().__call__(function, tasks)

    build(tars, tmp_path / "x", run=Inner())


def test_a_killed_worker_is_reported_and_the_command_goes_on(tars, tmp_path):
    with start(tars, tmp_path / "x", 2) as process:
        children: list[int] = []
        while process.poll() is None and (len(children) < 1 or progress(tmp_path / "x") < 1):
            listed = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            children = [pid for pid in map(int, listed) if b"spawn_main" in _command(pid)]
            time.sleep(0.002)
        os.kill(children[0], signal.SIGKILL)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert "a process of the build was killed" in said
    build(tars, tmp_path / "x", "x")


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
