"""What runs when: stages as small programs that write the time at which they began and ended."""

import os
import signal
import subprocess
import sys
import time

import pytest

from t2i_jax.training import EXIT_STOPPED, cascade
from t2i_jax.training.cascade import train_all

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
STAGE = """
import os, pathlib, signal, sys, time
cores = len(getattr(os, "sched_getaffinity", lambda _: "")(0))
name, seconds, code = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
def stop(*_):
    global code
    code = 75
signal.signal(signal.SIGTERM, stop)
pathlib.Path(name + ".began").touch()
began = time.monotonic()
while time.monotonic() < began + seconds and code != 75:
    time.sleep(0.01)
pathlib.Path(name).write_text(f"{began} {time.monotonic()} {cores}")
sys.exit(code)
"""
READS = {"prior": ("clip",), "decoder": ("vae", "clip")}


def command(name, seconds=0.3, code=0):
    return [sys.executable, "-c", STAGE, name, str(seconds), str(code)]


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Reads what a stage wrote: began, ended, cores."""
    monkeypatch.chdir(tmp_path)
    return lambda name: tuple(map(float, (tmp_path / name).read_text().split()))


def test_a_stage_starts_when_all_that_it_reads_has_ended(written):
    assert train_all({name: command(name) for name in ("decoder", "prior", "vae", "clip")}, READS) == 0
    assert written("prior")[0] > written("clip")[1]
    assert written("decoder")[0] > max(written("clip")[1], written("vae")[1])


@pytest.mark.skipif(CORES < 2, reason="one core")
def test_stages_that_do_not_read_each_other_share_the_cores(written):
    assert train_all({"vae": command("vae", 2), "clip": command("clip", 2)}, READS) == 0
    assert written("clip")[0] < written("vae")[1] and written("vae")[0] < written("clip")[1]
    assert written("vae")[2] + written("clip")[2] == CORES == len(os.sched_getaffinity(0))


def test_without_cores_to_share_they_follow_each_other(written, monkeypatch):
    monkeypatch.setattr(cascade, "_lanes", lambda: [frozenset()])
    assert train_all({"vae": command("vae"), "clip": command("clip")}, READS) == 0
    assert written("clip")[0] > written("vae")[1]


@pytest.mark.skipif(CORES < 2, reason="one core")
def test_when_a_stage_fails_the_other_saves_and_nothing_more_starts(written, tmp_path):
    commands = {"vae": command("vae", 60), "clip": command("clip", 1, 64), "prior": command("prior")}
    assert train_all(commands, READS) == 64
    assert written("vae")[1] - written("vae")[0] < 30
    assert not (tmp_path / "prior").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])  # Ctrl-C, and a terminal that closes
def test_a_signal_is_passed_on_once_and_the_code_says_stopped(tmp_path, number):
    program = (
        "import sys; from t2i_jax.training.cascade import train_all; from tests.training.test_cascade import command\n"
        "sys.exit(train_all({'vae': command('vae', 60), 'prior': command('prior')}, {'prior': ('vae',)}))"
    )
    root = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
    env = os.environ | {"PYTHONPATH": root}
    process = subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path, env=env, start_new_session=True)
    end = time.monotonic() + 120
    while not (tmp_path / "vae.began").exists():
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, number)
    assert process.wait(30) == EXIT_STOPPED
    assert (tmp_path / "vae").exists() and not (tmp_path / "prior").exists()
