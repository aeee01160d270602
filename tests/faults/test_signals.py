"""SIGTERM saves one common step and says so by its exit code; a process that dies takes the others along."""

import os
import random
import signal
import time

import pytest

from t2i_jax.training import EXIT_STOPPED
from tests.faults.driver import Life
from tests.faults.nursery import digest, reached, saved, until

SLOW = tuple((process, 1, "slow") for process in range(4))
SEED = 2


def counts(small, full):
    return pytest.mark.parametrize("times", [small, pytest.param(full, marks=pytest.mark.stress)])


@counts(1, 50)
def test_sigterm_ends_a_single_process_with_its_step_saved(nursery, straight, fresh, tmp_path, times):
    rng, took, number, root, finished = random.Random(SEED), [], 0, None, 0
    _, wanted = straight(steps=24)
    for _ in range(times):
        root = root or fresh(f"run{finished}")
        life = dict(root=str(root), log=str(tmp_path / "log"), steps=24)
        pid = nursery.start(Life(**life, faults=SLOW))
        at = number + rng.randint(1, 6)
        until(lambda root=root, at=at: reached(root) >= at, 300, "a step")
        began = time.monotonic()
        os.kill(pid, signal.SIGTERM)
        assert nursery.wait(pid, 120) == EXIT_STOPPED
        took.append(time.monotonic() - began)
        number = max(saved(root))
        assert number == reached(root)
        if number > 16 or len(took) == times:
            assert nursery.run(Life(**life)) == 0
            assert digest(root) == wanted
            root, number, finished = None, 0, finished + 1
    print(f"\n{times} SIGTERM to one process, seed {SEED}: longest {max(took):.2f} s, {finished} runs bit-equal")


@pytest.mark.parametrize("number, processes, times", [
    (signal.SIGINT, 2, 1),  # becomes a SIGTERM
    pytest.param(signal.SIGTERM, 3, 20, marks=pytest.mark.stress),
])  # fmt: skip
def test_a_signal_to_one_of_several_ends_all_after_one_step(nursery, fresh, tmp_path, number, processes, times):
    rng, took = random.Random(SEED), []
    for turn in range(times):
        root = fresh(f"run{turn}")
        life = dict(root=str(root), log=str(tmp_path / f"log{turn}"), steps=400, every=50)
        pids = nursery.group(Life(**life, faults=SLOW), processes)
        until(lambda root=root: reached(root) >= 3, 300, "a step")
        began = time.monotonic()
        os.kill(rng.choice(pids), number)
        codes = [nursery.wait(pid, 300) for pid in pids]
        took.append(time.monotonic() - began)
        print(f"turn {turn + 1}: all gone {took[-1]:.1f} s after the signal", flush=True)
        assert codes == [EXIT_STOPPED] * processes
        assert saved(root)[-1:] == [reached(root)]
    print(f"\n{times} {number.name} to one of {processes}, seed {SEED}: longest {max(took):.2f} s")


HEARTBEAT = 5


@pytest.mark.parametrize("times", [1, pytest.param(20, marks=pytest.mark.stress)])
def test_a_killed_process_takes_the_others_along_and_all_go_on_bit_equal(nursery, fresh, tmp_path, times):
    rng, took, wanted = random.Random(SEED), [], {}
    for turn in range(times):
        processes = 2 + turn % 3
        root = fresh(f"run{turn}")
        life = dict(root=str(root), log=str(tmp_path / f"log{turn}"), steps=8, heartbeat=HEARTBEAT)
        if processes not in wanted:
            alone = fresh(f"straight{processes}")
            pids = nursery.group(Life(**life | {"root": str(alone)}), processes)
            assert [nursery.wait(pid, 300) for pid in pids] == [0] * processes
            wanted[processes] = digest(alone)
        victim = rng.randrange(processes)
        pids = nursery.group(Life(**life, faults=(*SLOW, (victim, rng.randint(2, 6), "kill"))), processes)
        assert nursery.wait(pids.pop(victim), 300) == -signal.SIGKILL
        began = time.monotonic()
        assert 0 not in [nursery.wait(pid, 300) for pid in pids]
        took.append(time.monotonic() - began)
        print(f"turn {turn + 1}: all gone {took[-1]:.1f} s after the signal", flush=True)
        pids = nursery.group(Life(**life), processes)
        assert [nursery.wait(pid, 300) for pid in pids] == [0] * processes
        assert digest(root) == wanted[processes]
    print(
        f"\n{times} times one of 2 to 4 killed, seed {SEED}, heartbeat {HEARTBEAT} s: survivors gone within "
        f"{max(took):.1f} s, all {times} bit-equal after the new start"
    )
