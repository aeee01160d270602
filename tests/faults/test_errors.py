"""An error in one of several processes is said at once and ends them all; none waits for what will never come."""

import random
import time

import pytest

from tests.faults.driver import Life
from tests.faults.nursery import digest, saved

HEARTBEAT = 5
SEED = 5


@pytest.mark.parametrize("times", [1, pytest.param(10, marks=pytest.mark.stress)])
def test_an_error_in_one_process_is_said_and_ends_all_and_they_go_on_bit_equal(nursery, fresh, tmp_path, times):
    rng, took, wanted, processes = random.Random(SEED), [], "", 2
    for turn in range(times):
        root, victim = fresh(f"run{turn}"), (1 + turn) % processes
        life = dict(root=str(root), log=str(tmp_path / f"log{turn}"), steps=8, heartbeat=HEARTBEAT)
        if not wanted:
            alone = fresh("straight")
            pids = nursery.group(Life(**life | {"root": str(alone)}), processes)
            assert [nursery.wait(pid, 300) for pid in pids] == [0] * processes
            wanted = digest(alone)
        step = rng.randint(3, 6)
        pids = nursery.group(Life(**life, faults=((victim, step, "raise"),)), processes)
        log = tmp_path / f"log{turn}.{victim}"
        began = time.monotonic()
        codes = [nursery.wait(pid, 150) for pid in pids]  # less than the processes wait for each other at a barrier
        took.append(time.monotonic() - began)
        assert codes.pop(victim) == 1, log.read_text()[-3000:]
        assert 0 not in codes
        said = log.read_text()
        assert f"process {victim} of {processes} ends: RuntimeError: injected after step {step}" in said
        assert "Traceback" in said and saved(root)
        pids = nursery.group(Life(**life), processes)
        assert [nursery.wait(pid, 300) for pid in pids] == [0] * processes
        assert digest(root) == wanted
        print(f"turn {turn + 1}: process {victim} after step {step}, the other {codes}; {took[-1]:.1f} s", flush=True)
    print(f"\n{times} errors in one of {processes}, seed {SEED}: all ended within {max(took):.1f} s, then bit-equal")
