from hypothesis import given
from hypothesis import strategies as st

from t2i_jax.training.nonfinite import ways_back
from t2i_jax.training.shelf import kept


def test_the_newest_stay_and_the_newest_of_each_period():
    saved = range(100, 2600, 100)
    assert list(kept(saved, 3)) == [2300, 2400, 2500]
    assert list(kept(saved, 3, 1000)) == [1000, 2000, 2300, 2400, 2500]
    assert kept(saved, 1, 1000)[1000] == "the newest of steps 1 to 1000"
    assert kept([], 3, 1000) == {}


@given(st.sets(st.integers(1, 300), min_size=1), st.integers(1, 4), st.integers(0, 50))
def test_removing_as_one_goes_leaves_what_removing_at_the_end_would(saved, keep, period):
    there = []
    for step in sorted(saved):
        there = list(kept([*there, step], keep, period))
    assert there == list(kept(saved, keep, period))


@given(st.sets(st.integers(1, 20), min_size=4), st.integers(1, 4), st.integers(1, 6), st.integers(1, 3), st.data())
def test_signals_change_nothing_of_where_a_roll_back_leads(signals, keep, every, row, data):
    every = max(every, row - 1)  # with fewer, more than one step that is due may fall into the row
    last = data.draw(st.integers(every + row, 20))  # of the row
    due = lambda step: step % every == 0
    unbroken, stopped = [], []
    for step in range(1, last):
        if due(step):
            unbroken = list(kept([*unbroken, step], keep, every=every))
        if due(step) or step in signals:
            stopped = list(kept([*stopped, step], keep, every=every))
    first = last - row + 1
    found, wanted = (ways_back(first, saved, every)[0] for saved in (stopped, unbroken))
    assert found == wanted or min(found, wanted) >= first  # one inside the row holds the state from before it
