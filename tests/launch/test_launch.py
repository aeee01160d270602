"""The launch scripts, run: against real processes on this machine, or against a stand-in of a platform's command."""

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[2] / "launch"
SCRIPTS = sorted(LAUNCH.glob("*.sh"))


def run(*command, **environment):
    both = os.environ | environment
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=30, env=both)


def supervised(*options, command):
    return run(sys.executable, LAUNCH / "supervise.py", *options, "--", *command)


@pytest.fixture
def recorder(tmp_path):
    """A folder for the PATH in which these commands write down how they were called."""
    for name in ("sbatch", "t2i", "gcloud"):
        (tmp_path / name).write_text(f'#!/bin/sh\nfor a in "$0" "$@"; do echo "$a"; done >> {tmp_path}/calls\n')
        (tmp_path / name).chmod(0o755)
    return tmp_path


def test_processes_are_told_of_each_other():
    done = run(LAUNCH / "local.sh", 3, "sh", "-c", "echo $T2I_COORDINATOR $T2I_PROCESSES $T2I_PROCESS")
    rows = sorted(line.split() for line in done.stdout.splitlines())
    assert done.returncode == 0 and [row[1:] for row in rows] == [["3", "0"], ["3", "1"], ["3", "2"]]
    assert len({row[0] for row in rows}) == 1 and rows[0][0].startswith("127.0.0.1:")


def test_the_first_that_fails_ends_the_others():
    began = time.monotonic()
    done = run(LAUNCH / "local.sh", 3, "sh", "-c", "[ $T2I_PROCESS = 1 ] && exit 7; exec sleep 50")
    assert done.returncode == 7 and time.monotonic() - began < 30


@pytest.mark.parametrize("code", [127, 143, 255])
def test_any_code_is_a_childs_own(code, tmp_path):
    script = f"[ $T2I_PROCESS = 1 ] && exit {code}; echo $$ > {tmp_path}/other; exec sleep 50"
    assert run(LAUNCH / "local.sh", 2, "sh", "-c", script).returncode == code
    other = tmp_path / "other"
    assert not other.exists() or not Path(f"/proc/{other.read_text().strip()}").exists()


def test_a_command_that_is_not_there_fails():
    assert run(LAUNCH / "local.sh", 2, "t2i-misspelt").returncode == 127


def test_a_signal_reaches_every_process_once_and_their_code_comes_back():
    # The second is still saving when the first has ended, which must not bring it a second signal.
    script = "trap 'echo saved; sleep $T2I_PROCESS; exit 75' TERM; echo up; while :; do sleep 0.05; done"
    process = subprocess.Popen([LAUNCH / "local.sh", "2", "bash", "-c", script], stdout=subprocess.PIPE, text=True)
    assert [process.stdout.readline() for _ in range(2)] == ["up\n"] * 2
    process.send_signal(signal.SIGTERM)
    text, _ = process.communicate(timeout=30)
    assert text == "saved\n" * 2 and process.returncode == 75


def test_a_command_is_started_again_until_it_is_done(tmp_path):
    script = f"echo x >> {tmp_path}/tries; [ $(wc -l < {tmp_path}/tries) = 3 ]"
    done = supervised("--wait", "0", command=["sh", "-c", script])
    assert done.returncode == 0 and (tmp_path / "tries").read_text() == "x\n" * 3
    assert done.stderr.count("ended with 1") == 2


@pytest.mark.parametrize("code, tries, last", [
    ("exit 64", 1, 64),
    ("exit 65", 1, 65),
    ("exit 75", 3, 75),
    ("exit 79", 3, 79),
    ("kill -9 $$", 3, 137),
])  # fmt: skip
def test_the_exit_code_decides_whether_to_try_again(code, tries, last, tmp_path):
    script = f"echo x >> {tmp_path}/tries; {code}"
    done = supervised("--wait", "0", "--restarts", "2", command=["sh", "-c", script])
    assert done.returncode == last and (tmp_path / "tries").read_text() == "x\n" * tries


def test_a_log_on_a_full_disk_does_not_end_the_supervision(tmp_path):
    script = f"echo x >> {tmp_path}/tries; [ $(wc -l < {tmp_path}/tries) = 3 ] || exit 74"
    command = [sys.executable, LAUNCH / "supervise.py", "--wait", "0", "--", "sh", "-c", script]
    with open("/dev/full", "w") as full:
        assert subprocess.run(command, stderr=full, timeout=30).returncode == 0


def test_short_attempts_in_a_row_are_enough_where_so_many_are_said(tmp_path, recorder):
    done = supervised("--wait", "0", "--in-vain", "3", command=["sh", "-c", f"echo x >> {tmp_path}/tries; exit 1"])
    assert done.returncode == 69 and (tmp_path / "tries").read_text() == "x\n" * 3
    assert "3 attempts in a row ended early, the last with 1" in done.stderr
    (recorder / "t2i").write_text(f"#!/bin/sh\necho $2 >> {tmp_path}/stages; exit 1\n")
    path = f"{recorder}:{os.environ['PATH']}"
    done = run(LAUNCH / "cascade.sh", "configs/dalle2", "RUN", PATH=path, IN_VAIN="1")
    assert done.returncode == 69 and (tmp_path / "stages").read_text() == "configs/dalle2/vae.py\n"


def test_a_signal_goes_to_the_command_and_ends_the_supervision():
    script = "trap 'exit 75' TERM; echo up; while :; do sleep 0.05; done"
    command = [sys.executable, str(LAUNCH / "supervise.py"), "--wait", "0", "--", "bash", "-c", script]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "up\n"
    process.send_signal(signal.SIGTERM)
    text, _ = process.communicate(timeout=30)
    assert process.returncode == 75 and text == ""


LISTENER = """
import signal, sys, time
told = []
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: told.append(signal.Signals(number).name))
print("up", flush=True)
while len(told) < int(sys.argv[1]):
    time.sleep(0.05)
time.sleep(1)  # for one too many
sys.stdout.write(" ".join(["told", *told]) + "\\n")  # at once, for two of them share a screen
sys.exit(75)
"""


TAKE = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execvp(sys.argv[1], sys.argv[1:])
"""


@contextlib.contextmanager
def in_a_terminal(*command):
    """A command in a terminal of its own: (process, file descriptor of the keyboard and screen)."""
    ours, theirs = os.openpty()
    taken = [sys.executable, "-c", TAKE, *command]  # by itself: a function between fork and exec may hang under JAX
    process = subprocess.Popen(taken, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    try:
        yield process, ours
    finally:
        process.kill()
        with contextlib.suppress(OSError):  # a test may have closed it
            os.close(ours)


def screen(keyboard, until, times=1):
    """Wait until the screen has shown ``until`` so many times."""
    seen, end = "", time.monotonic() + 30
    while seen.count(until) < times:
        assert select.select([keyboard], [], [], max(0, end - time.monotonic()))[0], seen
        seen += os.read(keyboard, 1000).decode()


@pytest.mark.parametrize("keys, told", [(1, "SIGTERM"), (2, "SIGTERM SIGINT")])
def test_a_ctrl_c_reaches_the_command_once_and_a_second_as_such(keys, told):
    command = [sys.executable, "-c", LISTENER, str(keys)]
    with in_a_terminal(sys.executable, LAUNCH / "supervise.py", "--", *command) as (process, keyboard):
        screen(keyboard, "up")
        for _ in range(keys):
            os.write(keyboard, b"\x03")
            time.sleep(0.2)
        screen(keyboard, f"told {told}\r\n")
        assert process.wait(30) == 75


def test_a_terminal_that_closes_is_a_signal_to_save(tmp_path):
    script = f"trap 'echo saved > {tmp_path}/saved; exit 75' TERM; echo up; while :; do sleep 0.05; done"
    with in_a_terminal(sys.executable, LAUNCH / "supervise.py", "--", "bash", "-c", script) as (process, keyboard):
        screen(keyboard, "up")
        os.close(keyboard)
        assert process.wait(30) == 75 and (tmp_path / "saved").exists()


def test_ctrl_c_asks_every_process_of_a_machine_to_save():
    with in_a_terminal(LAUNCH / "local.sh", "2", sys.executable, "-c", LISTENER, "1") as (process, keyboard):
        screen(keyboard, "up", 2)
        os.write(keyboard, b"\x03")
        screen(keyboard, "told ", 2)
        assert process.wait(30) == 75


def test_slurm_gets_one_process_a_node_and_the_command_as_it_was(recorder):
    path = f"{recorder}:{os.environ['PATH']}"
    assert run(LAUNCH / "slurm.sh", 4, "t2i", "train", "my config.py", PATH=path).returncode == 0
    calls = (recorder / "calls").read_text().splitlines()
    assert {"--nodes=4", "--ntasks-per-node=1", "--requeue", "--signal=TERM@600"} <= set(calls)
    assert calls[-1] == r"--wrap=srun --kill-on-bad-exit=1 t2i train my\ config.py"


def test_the_cascade_is_trained_in_order(recorder):
    path = f"{recorder}:{os.environ['PATH']}"
    done = run(LAUNCH / "cascade.sh", "configs/dalle2", "RUN", "--data.dataset", "laion", PATH=path)
    assert done.returncode == 0, done.stderr
    calls = (recorder / "calls").read_text().split(f"{recorder}/t2i\n")[1:]
    order = [call.splitlines()[1] for call in calls]
    names = ("vae", "clip", "prior", "decoder", "upsampler256", "upsampler1024")
    assert order == [f"configs/dalle2/{name}.py" for name in names]
    assert all(call.splitlines()[2:] == ["--run", "RUN", "--data.dataset", "laion"] for call in calls)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_cascade_with_its_stage_saved(tmp_path, number):
    script = f"""#!/bin/bash
trap 'sleep 1; echo saved >> {tmp_path}/calls; exit 75' TERM
echo "$2" >> {tmp_path}/calls
while :; do sleep 0.05; done
"""
    (tmp_path / "t2i").write_text(script)
    (tmp_path / "t2i").chmod(0o755)
    command = [LAUNCH / "cascade.sh", "configs/dalle2", "RUN"]
    process = subprocess.Popen(command, env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    try:
        end = time.monotonic() + 30
        while not (tmp_path / "calls").exists():
            assert time.monotonic() < end and process.poll() is None
            time.sleep(0.05)
        process.send_signal(number)
        assert process.wait(30) == 75
        assert (tmp_path / "calls").read_text().splitlines() == ["configs/dalle2/vae.py", "saved"]
    finally:
        process.kill()


@pytest.mark.parametrize("command, says", [
    (["local.sh", "0", "true"], "usage"), (["local.sh", "2"], "usage"), (["slurm.sh"], "usage"),
    (["cascade.sh", "RUN"], "usage"), (["cascade.sh", "tests", "RUN"], "no config of a stage"),
])  # fmt: skip
def test_a_wrong_call_says_what_is_right(command, says):
    done = run(LAUNCH / command[0], *command[1:])
    assert done.returncode == 64 and says in done.stderr


@pytest.mark.parametrize("command", [
    ["local.sh", "--dry-run", "2", "t2i", "train"], ["slurm.sh", "--dry-run", "2", "t2i", "train"],
    ["cascade.sh", "--dry-run", "configs/emoji", "RUN"], ["tpu_pod.sh", "--dry-run", "mine", "all", "t2i", "train"],
])  # fmt: skip
def test_a_dry_run_starts_nothing(command, recorder):
    tpu = {"ZONE": "us-west4-a", "TYPE": "v5litepod-256", "RUNTIME": "v2-alpha-tpuv5-lite"}
    done = run(LAUNCH / command[0], *command[1:], **tpu, PATH=f"{recorder}:{os.environ['PATH']}")
    assert done.returncode == 0 and "t2i" in done.stdout and "train" in done.stdout
    assert not (recorder / "calls").exists()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_has_nothing_to_say(script):
    done = run(Path(sys.executable).parent / "shellcheck", script)
    assert done.returncode == 0, done.stdout
