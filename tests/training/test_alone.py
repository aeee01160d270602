"""Two trainings never share a directory, and one that is gone keeps nobody out."""

import errno
import fcntl
import os
import signal
import subprocess
import sys

import pytest

from t2i_jax.cli import main
from t2i_jax.training import EXIT_AT_WORK
from t2i_jax.training.alone import AtWork, alone

CONFIG = """
import dataclasses
from tests.training.test_loop import FIRST

def config():
    return dataclasses.replace(FIRST, steps=1)
"""
HOLD = "import sys, time; from pathlib import Path; from t2i_jax.training.alone import alone\n"
HOLD += "with alone(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"


def test_a_second_training_of_a_stage_says_so_and_touches_nothing_until_the_first_is_gone(tmp_path, capsys):
    (tmp_path / "config.py").write_text(CONFIG)
    args, stage = ["train", str(tmp_path / "config.py"), "--run", str(tmp_path / "run")], tmp_path / "run" / "toy"
    with alone(stage / "lock"):
        assert main(args) == EXIT_AT_WORK
        assert f"t2i train: another training is at work in {stage}: wait until it ends" in capsys.readouterr().err
        assert [path.name for path in (tmp_path / "run").rglob("*")] == ["toy", "lock"]
    assert main(args) == 0


def test_the_lock_of_a_process_that_is_killed_is_gone_with_it(tmp_path):
    path = tmp_path / "toy" / "lock"
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    process = subprocess.Popen([sys.executable, "-c", HOLD, path], env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(AtWork), alone(path):
            pass
        process.kill()
        assert process.wait() == -signal.SIGKILL
        with alone(path):
            pass
    finally:
        process.kill()
        process.wait()


def test_where_there_are_no_locks_a_training_goes_on_and_a_disk_that_fails_is_an_error(tmp_path, monkeypatch):
    def refusing(number):
        def flock(file, operation):
            raise OSError(number, os.strerror(number))

        return flock

    for number in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
        monkeypatch.setattr(fcntl, "flock", refusing(number))
        with alone(tmp_path / "lock"):
            pass
    monkeypatch.setattr(fcntl, "flock", refusing(errno.EIO))
    with pytest.raises(OSError, match="Input/output"), alone(tmp_path / "lock"):
        pass
