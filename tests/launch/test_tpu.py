"""``launch/tpu_pod.sh`` against a stand-in of gcloud, and ``tpu_host.sh`` against those of Python and apt."""

import os
import shutil
import signal
import subprocess
import tarfile
import time
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[2] / "launch"


def run(*command, **environment):
    both = os.environ | environment
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=30, env=both)


def train(environment, *options):
    return run(LAUNCH / "tpu_pod.sh", *options, "mine", "all", "t2i", "train", **environment)


GCLOUD = """#!/bin/sh
echo "$*" >> {root}/calls
next() {{ head -n 1 {root}/$1; sed -i 1d {root}/$1; }}
case "$*" in
    *describe*)
        state=$(next states)
        case $state in
            NOT_FOUND) state="(gcloud.compute.tpus.queued-resources.describe) NOT_FOUND: Resource 'x' was not found." ;;
            OFFLINE) state="gcloud crashed (TransportError): no route to host" ;;
            *) echo "$state"; state="" ;;
        esac
        echo "${{state:+ERROR: }}${{state:-WARNING: updates are available}}" >&2
        [ -z "$state" ] ;;
    *"queued-resources create"*) exit "$(next asks)" ;;
    *scp*) exit "$(next copies)" ;;
    *tpu_host.sh*) exit "$(next installs)" ;;
    *"t2i train"*) exit "$(next codes)" ;;
esac
"""
VERBS = ("create", "describe", "scp", "tpu_run.sh true", "t2i train", "tpu_host.sh", "mount", "delete")
TPU = {"ZONE": "us-west4-a", "TYPE": "v5litepod-256", "RUNTIME": "v2-alpha-tpuv5-lite", "POLL": "0"}


@pytest.fixture
def gcloud(tmp_path):
    """A folder for the PATH with a ``gcloud`` that answers from lists of states and exit codes; a clean checkout."""
    checkout = tmp_path / "checkout"
    git = lambda *words: run("git", "-C", checkout, "-c", "user.name=a", "-c", "user.email=a@b", *words)
    checkout.mkdir()
    (checkout / "file").write_text("committed")
    for words in (["init", "-q"], ["add", "file"], ["commit", "-q", "-m", "it"]):
        assert git(*words).returncode == 0

    def prepare(states, codes, asks=(), copies=(), installs=()):
        (tmp_path / "gcloud").write_text(GCLOUD.format(root=tmp_path))
        (tmp_path / "gcloud").chmod(0o755)
        (tmp_path / "states").write_text("".join(f"{state}\n" for state in states))
        rest = [0] * 20
        lists = {"codes": codes, "asks": [*asks, *rest], "copies": [*copies, *rest], "installs": [*installs, *rest]}
        for name, given in lists.items():
            (tmp_path / name).write_text("".join(f"{code}\n" for code in given))
        return {"PATH": f"{tmp_path}:{os.environ['PATH']}", "CHECKOUT": str(checkout)} | TPU

    prepare.checkout, prepare.git = checkout, git
    prepare.calls = lambda: [
        next(verb for verb in VERBS if verb in line) for line in (tmp_path / "calls").read_text().splitlines()
    ]
    prepare.called = (tmp_path / "calls").exists
    prepare.text = lambda: (tmp_path / "calls").read_text()
    return prepare


def test_a_preempted_slice_is_asked_for_again_and_given_back_at_the_end(gcloud):
    environment = gcloud(["PROVISIONING", "ACTIVE", "SUSPENDED", "ACTIVE"], [255, 0])
    done = run(LAUNCH / "tpu_pod.sh", "mine", "all", "t2i", "train", "a config", **environment)
    assert done.returncode == 0, done.stderr
    once = ["create", "describe", "scp", "tpu_host.sh", "t2i train"]
    again = [*once[:1], "describe", *once[1:], "describe", "delete"]
    assert gcloud.calls() == [*again, *once, "delete"]
    assert "mine is SUSPENDED (last exit code 255)" in done.stderr
    assert r"t2i train a\ config" in gcloud.text() and "--worker=all" in gcloud.text()


def test_a_program_that_ends_on_a_living_slice_is_started_there_again(gcloud):
    environment = gcloud(["ACTIVE", "ACTIVE"], [1, 0])
    assert train(environment).returncode == 0
    assert gcloud.calls() == [
        "create",
        "describe",
        "scp",
        "tpu_host.sh",
        "t2i train",
        "describe",
        "t2i train",
        "delete",
    ]


@pytest.mark.parametrize("code", [64, 65, 69])
def test_what_will_not_get_better_is_not_tried_again(gcloud, code):
    environment = gcloud(["ACTIVE"], [code])
    assert train(environment).returncode == code
    assert gcloud.calls() == ["create", "describe", "scp", "tpu_host.sh", "t2i train", "delete"]


def test_a_network_that_fails_takes_no_slice_away(gcloud):
    environment = gcloud(["OFFLINE", "PROVISIONING", "OFFLINE", "ACTIVE", "OFFLINE", "OFFLINE", "ACTIVE"], [255, 0])
    done = train(environment)
    assert done.returncode == 0 and done.stderr.count("no route to host") == 4
    once = ["create", *["describe"] * 4, "scp", "tpu_host.sh", "t2i train"]
    assert gcloud.calls() == [*once, *["describe"] * 3, "t2i train", "delete"]


def test_a_slice_that_was_taken_away_is_asked_for_again(gcloud):
    environment = gcloud(["ACTIVE", "NOT_FOUND", "ACTIVE"], [255, 0])
    done = train(environment)
    assert done.returncode == 0 and "mine is NONE (last exit code 255)" in done.stderr
    once = ["create", "describe", "scp", "tpu_host.sh", "t2i train"]
    assert gcloud.calls() == [*once, "describe", "delete", *once, "delete"]


@pytest.mark.parametrize("state", ["NOT_FOUND", "OFFLINE"])
def test_a_slice_that_gcloud_refuses_ends_it(gcloud, state):
    environment = gcloud([state] * 3, [], asks=[1, 1, 1])
    done = train(environment)
    assert done.returncode == 64 and "mine can't be asked for" in done.stderr and "v5litepod-256" in done.stderr
    assert gcloud.calls() == ["create", "describe"] * 3


def test_a_slice_that_fails_before_it_is_there_is_asked_for_three_times(gcloud):
    environment = gcloud(["FAILED", "FAILED", "ACTIVE", "SUSPENDED", "FAILED", "FAILED", "FAILED"], [255])
    done = train(environment)
    assert done.returncode == 64 and "mine FAILED three times" in done.stderr
    failed, once = ["create", "describe", "delete"], ["create", "describe", "scp", "tpu_host.sh", "t2i train"]
    assert gcloud.calls() == [*failed, *failed, *once, "describe", "delete", *failed, *failed, *failed[:2]]


def test_a_slice_of_an_earlier_call_is_used_once_what_that_started_has_ended(gcloud):
    environment = gcloud(["ACTIVE", "ACTIVE"], [0], asks=[1])
    assert train(environment).returncode == 0
    ended = "tpu_run.sh true"
    assert gcloud.calls() == ["create", "describe", "describe", ended, "scp", "tpu_host.sh", "t2i train", "delete"]


def test_what_an_earlier_call_started_ends_before_its_files_are_replaced(gcloud):
    environment = gcloud(["ACTIVE"] * 7, [0], asks=[1]) | {"SHORT": "0"}
    stand_in = Path(environment["PATH"].split(":")[0]) / "gcloud"
    stand_in.write_text(stand_in.read_text().replace("    *scp*)", "    *tpu_run.sh*true*) exit 70 ;;\n    *scp*)"))
    assert train(environment).returncode == 70
    assert "scp" not in gcloud.calls() and gcloud.calls()[-1] == "delete"


def test_on_a_host_without_an_earlier_call_there_is_nothing_to_end(gcloud, tmp_path):
    train(gcloud(["ACTIVE", "ACTIVE"], [0], asks=[1]))
    line = next(line for line in gcloud.text().splitlines() if "tpu_run.sh true" in line)
    command = line.split("--command=")[1]
    script = tmp_path / "t2i_jax" / "launch" / "tpu_run.sh"
    bare = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=os.environ | {"HOME": str(tmp_path)}, check=False)
    assert bare.returncode == 0
    script.parent.mkdir(parents=True)
    script.write_text("echo $1; exit 70")
    found = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, check=False)
    assert (found.returncode, found.stdout) == (70, b"true\n")


def test_nothing_runs_where_it_was_not_installed(gcloud):
    environment = gcloud(["ACTIVE", "ACTIVE"], [0], copies=[1])
    assert train(environment).returncode == 0
    once = ["create", "describe", "scp"]
    assert gcloud.calls() == [*once, "describe", "scp", "tpu_host.sh", "t2i train", "delete"]


def test_every_slice_runs_the_command(gcloud):
    environment = gcloud([], [0, 0]) | {"SLICES": "2"}
    assert run(LAUNCH / "tpu_pod.sh", "mine", "run", "t2i", "train", **environment).returncode == 0
    assert "ssh mine-0 " in gcloud.text() and "ssh mine-1 " in gcloud.text()


def test_a_missing_zone_is_named():
    environment = {name: value for name, value in os.environ.items() if name != "ZONE"}
    done = subprocess.run([LAUNCH / "tpu_pod.sh", "mine", "delete"], capture_output=True, text=True, env=environment)
    assert done.returncode and "set ZONE" in done.stderr


@pytest.mark.parametrize("codes, installs, attempt", [
    ([1, 1, 1, 1, 137], [], ["t2i train", "describe"]), ([], [1, 1, 1, 1, 137], ["scp", "tpu_host.sh", "describe"]),
])  # fmt: skip
def test_what_fails_at_once_five_times_in_a_row_gives_the_slice_back(gcloud, codes, installs, attempt):
    done = train(gcloud(["ACTIVE"] * 6, codes, installs=installs))
    assert done.returncode == 137 and "five attempts in a row" in done.stderr
    before = ["create", "describe"] + ["scp", "tpu_host.sh"] * bool(codes)
    assert gcloud.calls() == before + attempt * 5 + ["delete"]


def test_a_training_that_ends_after_a_while_is_started_again_without_end(gcloud):
    assert train(gcloud(["ACTIVE"] * 10, [1] * 9 + [0]) | {"SHORT": "0"}).returncode == 0


def test_a_preemption_is_no_failure(gcloud):
    assert train(gcloud(["ACTIVE", "SUSPENDED"] * 4 + ["ACTIVE"] * 2, [255] * 4 + [1, 0])).returncode == 0


def test_a_longer_attempt_forgives_those_before(gcloud):
    failing = [1, 1, 1, 1, 0]  # four that could not be installed; what is installed counts as long
    states = ["ACTIVE"] * 5 + ["SUSPENDED"] + ["ACTIVE"] * 5
    assert train(gcloud(states, [255, 0], installs=failing * 2) | {"SHORT": "0"}).returncode == 0


def test_every_new_host_is_prepared_before_it_is_installed(gcloud):
    environment = gcloud(["ACTIVE", "SUSPENDED", "ACTIVE"], [255, 0]) | {"PREPARE": "sudo mount 10.0.0.2:/share /mnt"}
    assert train(environment).returncode == 0
    once = ["create", "describe", "mount", "scp", "tpu_host.sh", "t2i train"]
    assert gcloud.calls() == [*once, "describe", "delete", *once, "delete"]
    assert "--worker=all --command=sudo mount 10.0.0.2:/share /mnt\n" in gcloud.text()
    assert r"--command=sudo\ mount\ 10.0.0.2:/share\ /mnt" in train(environment, "--dry-run").stdout


@pytest.mark.parametrize("file", ["file", "new"])
@pytest.mark.parametrize("verb", [["install"], ["all", "t2i", "train"]])
def test_what_is_not_committed_is_refused_before_anything_is_asked_for(gcloud, file, verb):
    environment = gcloud([], [])
    (gcloud.checkout / file).write_text("not committed")
    done = run(LAUNCH / "tpu_pod.sh", "mine", *verb, **environment)
    assert done.returncode == 64 and f" {file}\n" in done.stderr and "commit them" in done.stderr
    dry = run(LAUNCH / "tpu_pod.sh", "--dry-run", "mine", *verb, **environment)
    assert dry.returncode == 0 and f" {file}\n" in dry.stderr and "tpu_host.sh" in dry.stdout
    assert not gcloud.called()


def test_a_folder_without_commits_is_refused(gcloud, tmp_path):
    done = train(gcloud([], []) | {"CHECKOUT": str(tmp_path)})
    assert done.returncode == 64 and "set CHECKOUT" in done.stderr and not gcloud.called()


def test_a_later_slice_gets_the_commit_of_the_first(gcloud, tmp_path):
    environment = gcloud(["ACTIVE", "SUSPENDED", "ACTIVE"], [255, 0])
    gcloud.git("config", "user.name", "a"), gcloud.git("config", "user.email", "a@b")
    work = f'cp "$5" {tmp_path}/copied; cd {gcloud.checkout}; echo x >> file; git commit -qam more; echo x >> file;'
    script = tmp_path / "gcloud"
    script.write_text(script.read_text().replace("*scp*)", f"*scp*) {work} cd {tmp_path};"))
    done = train(environment)
    assert done.returncode == 0 and gcloud.calls().count("scp") == 2, done.stderr
    with tarfile.open(tmp_path / "copied") as archive:
        assert archive.extractfile("file").read() == b"committed"


PYTHON = """#!/bin/sh
[ "$1" = -m ] || exit {code}
mkdir -p .venv/bin
printf '#!/bin/sh\necho "$*" > installed\n' > .venv/bin/pip
chmod +x .venv/bin/pip
"""


@pytest.fixture
def host(tmp_path):
    """Runs ``tpu_host.sh`` where there are these Pythons ({version: makes environments}) and this apt."""
    (tmp_path / "launch").mkdir()
    shutil.copy(LAUNCH / "tpu_host.sh", tmp_path / "launch")
    path = tmp_path / "bin"
    path.mkdir()
    for name in ("chmod", "dirname", "mkdir", "cp"):
        (path / name).symlink_to(shutil.which(name))

    def program(name, text):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)

    def install(pythons, apt):
        program("python", PYTHON.format(code=0))
        for version, whole in pythons.items():
            program(f"bin/python{version}", PYTHON.format(code=0 if whole else 1))
        program("bin/sudo", f'#!/bin/sh\necho "$*" >> {tmp_path}/asked\ncase "$*" in *" install "*) {apt} ;; esac\n')
        done = run(shutil.which("bash"), tmp_path / "launch/tpu_host.sh", PATH=str(path))
        installed, asked = tmp_path / "installed", tmp_path / "asked"
        return done, *(file.read_text() if file.exists() else "" for file in (installed, asked))

    return install


@pytest.mark.parametrize("pythons, chosen", [
    ({"3.11": True, "3.12": True, "3.13": True, "3": True}, "313"),
    ({"3.11": True, "3.12": True, "3.13": False}, "312"),
    ({"3.10": True, "3.11": True, "3.14": True}, "311"),
])  # fmt: skip
def test_a_host_takes_its_newest_python_that_the_package_runs_on(host, pythons, chosen):
    done, installed, asked = host(pythons, apt="exit 1")
    assert done.returncode == 0, done.stderr
    assert installed.startswith(f"install -q -c constraints/py{chosen}.txt") and not asked


def test_a_host_with_an_older_python_gets_one_from_apt(host, tmp_path):
    done, installed, asked = host({"3": True, "3.10": True}, apt=f"cp {tmp_path}/python {tmp_path}/bin/python3.11")
    assert done.returncode == 0, done.stderr
    assert "constraints/py311.txt" in installed and "install python3.11 python3.11-venv" in asked


def test_a_host_that_gets_no_python_ends_it(host, gcloud):
    done, installed, _ = host({"3": True, "3.10": True}, apt="exit 100")
    assert done.returncode == 64 and "python3.11-venv" in done.stderr and not installed
    assert train(gcloud(["ACTIVE"], [], installs=[64])).returncode == 64
    assert gcloud.calls() == ["create", "describe", "scp", "tpu_host.sh", "delete"]


@pytest.mark.parametrize("words", [["bash", "{}"], ["bash", "-c", "bash {} && echo never; exit 75"]])
def test_a_command_that_an_earlier_call_left_is_stopped_and_waited_for(tmp_path, words):
    first, told = tmp_path / "first.sh", tmp_path / "told"
    first.write_text(
        f"trap 'echo told; sleep 1; echo saved >> {told}; exit 75' TERM\necho up\nwhile :; do sleep 0.05; done\n"
    )
    alone = ["bash", LAUNCH / "tpu_run.sh"]
    command, home = [*alone, *(word.format(first) for word in words)], os.environ | {"HOME": str(tmp_path)}
    left = subprocess.Popen(command, env=home, stdout=subprocess.PIPE, text=True)
    waits = None
    try:
        assert left.stdout.readline() == "up\n"
        waits = subprocess.Popen([*alone, "sh", "-c", f"echo orphan >> {told}"], env=home)
        assert left.stdout.readline() == "told\n"
        done = run(*alone, "sh", "-c", f"echo again >> {told}", HOME=str(tmp_path))
        assert done.returncode == 0 and left.wait(5) and waits.wait(5) == -signal.SIGTERM
        assert told.read_text() == "saved\nagain\n" and "never" not in left.stdout.read()
        assert run(*alone, "sh", "-c", "exit 7", HOME=str(tmp_path)).returncode == 7
    finally:
        for process in filter(None, (left, waits)):
            process.kill()
            process.wait()


def test_waiting_in_vain_for_an_earlier_command_is_no_long_attempt(gcloud):
    done = train(gcloud(["ACTIVE"] * 6, [70] * 5) | {"SHORT": "0"})
    assert done.returncode == 70 and gcloud.calls()[-1] == "delete"


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_says_that_the_slice_stays(gcloud, tmp_path, number, code):
    environment = gcloud(["ACTIVE"], [])
    waits = GCLOUD.format(root=tmp_path).replace('exit "$(next codes)"', "exec sleep 50")
    (tmp_path / "gcloud").write_text(waits)
    words = [LAUNCH / "tpu_pod.sh", "mine", "all", "t2i", "train"]
    process = subprocess.Popen(words, env=os.environ | environment, stderr=subprocess.PIPE, text=True)
    try:
        end = time.monotonic() + 30
        while not (tmp_path / "calls").exists() or "t2i train" not in gcloud.text():
            assert time.monotonic() < end and process.poll() is None
            time.sleep(0.05)
        process.send_signal(number)
        _, said = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == code and "launch/tpu_pod.sh mine delete gives it back" in said
    assert "delete" not in gcloud.calls()


def test_a_slice_that_does_not_come_is_said(gcloud):
    done = run(LAUNCH / "tpu_pod.sh", "mine", "create", **gcloud(["FAILED"], []))
    assert done.returncode == 1 and "mine is FAILED" in done.stderr
