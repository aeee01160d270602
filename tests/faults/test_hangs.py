"""A process in which no step ends any more writes its stacks and exits, whatever it hangs in."""

import os
import random
import signal

import pytest

from t2i_jax.training import EXIT_HUNG
from tests.faults.driver import Life
from tests.faults.nursery import digest, reached, until

SEED = 3
WATCHDOG = 2.0


@pytest.mark.parametrize("times", [1, pytest.param(5, marks=pytest.mark.stress)])
def test_a_data_source_that_stands_still_is_seen_and_the_run_goes_on_bit_equal(
    nursery, straight, fresh, tmp_path, times
):
    rng, (_, wanted) = random.Random(SEED), straight(steps=24)
    for turn in range(times):
        root = fresh(f"run{turn}")
        life = dict(root=str(root), log=str(tmp_path / f"log{turn}"), steps=24)
        fault = (0, rng.randint(3, 20), "hang")
        assert nursery.run(Life(**life, watchdog_s=WATCHDOG, faults=(fault,))) == EXIT_HUNG
        for text in ((root / "toy" / "stacks-0.txt").read_text(), (tmp_path / f"log{turn}").read_text()):
            assert "no step ended for" in text
            assert "in __next__" in text and "in train" in text
        assert nursery.run(Life(**life)) == 0
        assert digest(root) == wanted
    print(f"\n{times} times a data source stood still: the watchdog fired, bit-equal after the new start")


@pytest.mark.parametrize("times", [1, pytest.param(5, marks=pytest.mark.stress)])
def test_code_that_holds_pythons_lock_is_ended_from_outside_it(nursery, fresh, tmp_path, times):
    root = fresh()
    life = dict(root=str(root), log=str(tmp_path / "log"), steps=400, every=400)
    for turn in range(times):
        fault = (0, 3 + turn, "locked")
        assert nursery.run(Life(**life, watchdog_s=WATCHDOG, faults=(fault,))) == 1
        assert "in _strike" in (root / "toy" / "stacks-0.txt").read_text()
    print(f"\n{times} times C code held the lock: the timer fired")


@pytest.mark.stress
def test_processes_that_wait_for_a_suspended_one_are_ended(nursery, fresh, tmp_path):
    rng, times = random.Random(SEED), 5
    for turn in range(times):
        root, processes = fresh(f"run{turn}"), 2
        life = Life(
            str(root), str(tmp_path / f"log{turn}"), steps=400, every=400, watchdog_s=WATCHDOG, heartbeat=60,
            faults=((0, 1, "slow"), (1, 1, "slow")),
        )  # fmt: skip
        pids = nursery.group(life, processes)
        until(lambda root=root: reached(root) >= 3, 300, "a step")
        victim = rng.randrange(processes)
        os.kill(pids[victim], signal.SIGSTOP)
        other = 1 - victim
        assert nursery.wait(pids[other], 120) == EXIT_HUNG
        assert "Stacks of all threads" in (root / "toy" / f"stacks-{other}.txt").read_text()
        os.kill(pids[victim], signal.SIGKILL)
        assert nursery.wait(pids[victim], 30) == -signal.SIGKILL
    print(f"\n{times} times one of two was suspended: the other's watchdog fired")
