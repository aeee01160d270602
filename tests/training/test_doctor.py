"""The doctor names the host that differs, and what a process could not do."""

import dataclasses
import errno
import os
import socket
import sys
import time

import jax
import pytest

from t2i_jax.cli import main
from t2i_jax.parallel.mesh import Mesh
from t2i_jax.training import train
from t2i_jax.training.commit import NoRename, check_renames
from t2i_jax.training.doctor import bandwidth, compare, examine, look
from tests.together import together
from tests.training.test_loop import FIRST


@pytest.fixture
def well(tmp_path):
    return look(FIRST, tmp_path / "run") | {"disk": 2**40, "clock": time.time()}


def test_machines_that_agree_have_nothing_wrong(well):
    assert compare([well, well | {"host": "other", "clock": well["clock"] + 1}]) == []


@pytest.mark.parametrize("change, says", [
    ({"versions": {"jax": "0.1"}}, "versions of process 1 on other is jax 0.1"),
    ({"config": "abc"}, "config of process 1 on other is abc"),
    ({"data": "abc"}, "data of process 1 on other"),
    ({"devices": "4 x TPU v5e"}, "devices of process 1 on other is 4 x TPU v5e"),
    ({"disk": 2**30}, "process 1 on other has 1.0 GiB of disk left"),
    ({"failed": ["cannot read"]}, "process 1 on other cannot read"),
])  # fmt: skip
def test_what_differs_is_named_with_its_host(well, change, says):
    (text,) = compare([well, well | {"host": "other"} | change])
    assert says in text


def test_a_clock_that_is_off_is_named(well):
    (text,) = compare([well, well | {"host": "other", "clock": well["clock"] - 60}])
    assert "clock of process 1 on other is -60 s" in text


def test_a_run_that_cannot_be_written_and_data_that_are_not_there_are_said(tmp_path):
    (tmp_path / "file").write_text("in the way")
    data = dataclasses.replace(FIRST.data, dataset=str(tmp_path / "nothing"))
    failed = look(dataclasses.replace(FIRST, data=data), tmp_path / "file" / "run")["failed"]
    assert len(failed) == 2 and "nothing" in failed[0] and "cannot write the run directory" in failed[1]


def test_a_file_system_that_cannot_rename_folders_is_refused_by_doctor_and_a_training(tmp_path, monkeypatch):
    rename = os.rename
    refused = [errno.EMFILE]  # what gcsfuse answers, on a bucket without a hierarchical namespace

    def flat(source, target):
        if os.path.isdir(source) and os.listdir(source):
            raise OSError(refused[0], os.strerror(refused[0]))
        rename(source, target)

    monkeypatch.setattr(os, "rename", flat)
    (text,) = look(FIRST, tmp_path / "run")["failed"]
    assert text.startswith(f"the file system of {tmp_path / 'run'} can't rename folders (Too many open files)")
    with pytest.raises(NoRename, match=f"the file system of {tmp_path / 'run' / 'toy' / 'checkpoints'} can't rename"):
        train(FIRST, tmp_path / "run")
    assert not list((tmp_path / "run" / "toy" / "checkpoints").iterdir()) and not list((tmp_path / "run").glob("tmp*"))
    refused[0] = errno.ENOSPC
    check_renames(tmp_path)
    monkeypatch.undo()
    assert not look(FIRST, tmp_path / "run")["failed"]


def test_every_axis_is_measured(tmp_path, capsys):
    examine(FIRST, tmp_path)
    text = capsys.readouterr().out
    assert "process 0 on " in text and "8 x cpu" in text and "clock +0.0 s" in text
    assert "all-reduce over data (2)" in text and "all-reduce over model (4)" in text
    assert "over replica" not in text and bandwidth(Mesh(data=8).build(jax.devices()), "data", 2**10) > 0


def test_the_command_says_whether_all_is_well(tmp_path, monkeypatch):
    monkeypatch.setattr("t2i_jax.training.doctor.DISK", 0)
    assert main(["doctor", "configs/emoji/vae.py", "--run", str(tmp_path)]) == 0
    monkeypatch.setattr("t2i_jax.training.doctor.DISK", 2**60)
    assert main(["doctor", "configs/emoji/vae.py", "--run", str(tmp_path)]) == 1


UNLIKE = """
import dataclasses, sys, time
from t2i_jax.parallel.hosts import join
from t2i_jax.parallel.mesh import Mesh
from t2i_jax.training import doctor
from tests.training.test_loop import FIRST
join()
doctor.CLOCK, doctor.DISK, look, second = 2, 0, doctor.look, sys.argv[2] == "1"
def slow(*args):
    found = look(*args)
    time.sleep(4 * second)
    return found
doctor.look = slow
doctor.examine(dataclasses.replace(FIRST, mesh=Mesh(replica=2, data=2) if second else Mesh(data=4)), sys.argv[1])
"""


def test_hosts_whose_configs_differ_are_named_and_a_slow_one_has_the_right_time(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "2", "XLA_FLAGS": "", "T2I_PROCESSES": "2"}
    shared |= {"PYTHONPATH": os.getcwd(), "T2I_COORDINATOR": f"127.0.0.1:{port}"}
    command = [sys.executable, "-c", UNLIKE, str(tmp_path)]
    two = [([*command, str(i)], shared | {"T2I_PROCESS": str(i)}) for i in range(2)]
    (text, errors, code), (silence, _, other) = together(two, 120)
    assert "process 1 on" in text, errors[-2000:]
    assert "WRONG: config of process 1" in text and text.endswith("1 thing(s) to mend\n") and not silence
    assert "all-reduces are not tried" in text and code == other == 0
