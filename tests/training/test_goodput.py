"""The account of wall time: every moment in one part, over a kill and a way back."""

import pytest

from t2i_jax.training import goodput
from t2i_jax.training.goodput import Goodput


@pytest.fixture
def tick(monkeypatch):
    """A clock that moves only when told."""
    now = [100.0]
    monkeypatch.setattr(goodput.time, "perf_counter", lambda: now[0])

    def tick(seconds):
        now[0] += seconds

    return tick


def steps(account, tick, numbers, skipped=()):
    for number in numbers:
        with account.part("data"):
            tick(1)
        tick(4)
        account.step(number, number in skipped)


def test_the_parts_sum_to_the_wall_time_and_each_has_its_own(tmp_path, tick):
    account = Goodput(tmp_path / "goodput.json")
    tick(7)
    with account.part("restore"):
        tick(3)
        with account.part("compile"):
            tick(20)
    account.begin()
    steps(account, tick, (1, 2, 3), skipped=(2,))
    with account.part("save"):
        tick(2)
    found = account.seconds()
    wanted = {"setup": 7, "restore": 3, "compile": 20, "data": 3, "step": 8, "skipped": 4, "save": 2}
    assert {name: value for name, value in found.items() if value} == wanted
    assert sum(found.values()) == 47
    assert account.line().startswith("goodput 17.0% of 47.0 s (setup 14.9%, compile 42.6%")


def test_steps_that_a_killed_process_had_done_are_lost_when_done_again(tmp_path, tick):
    first = Goodput(tmp_path / "goodput.json")
    first.begin()
    steps(first, tick, range(1, 7))
    tick(50)  # killed: nobody says good-bye
    second = Goodput(tmp_path / "goodput.json")
    second.begin()  # from the checkpoint of step 4
    steps(second, tick, range(5, 9))
    found = second.seconds()
    assert found["lost"] == 2 * 4 and found["step"] == (6 + 2) * 4 and found["data"] == 10
    assert sum(found.values()) == 6 * 5 + 4 * 5


def test_a_way_back_loses_the_steps_since_the_checkpoint(tmp_path, tick):
    account = Goodput(tmp_path / "goodput.json")
    account.begin()
    steps(account, tick, (1, 2))
    account.mark(2)
    steps(account, tick, (3, 4, 5), skipped=(5,))
    account.roll_back(2)
    found = account.seconds()
    assert (found["step"], found["lost"], found["skipped"]) == (8, 8, 4)
    assert sum(found.values()) == 25


def test_an_account_that_can_not_be_written_ends_no_training(tmp_path, tick):
    account = Goodput(tmp_path / "gone" / "goodput.json")
    account.begin()
    steps(account, tick, (1, 2))
    account.write()
    assert account.seconds()["step"] == 8


def test_only_one_of_several_processes_keeps_the_file(tmp_path, tick):
    Goodput(tmp_path / "goodput.json", writes=False).write()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("left", ["", "{}", "[]", '{"reached": null, "seconds": {}}', '{"reached": 3, "seconds": 7}'])
def test_an_account_that_power_loss_spoilt_begins_anew_and_says_so(tmp_path, tick, capsys, left):
    (tmp_path / "goodput.json").write_text(left)
    account = Goodput(tmp_path / "goodput.json")
    assert "goodput.json can't be read" in capsys.readouterr().err
    account.begin()
    steps(account, tick, (1,))
    account.write()
    assert Goodput(tmp_path / "goodput.json").seconds()["step"] == 4
