from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from t2i_jax.data.turns import Turns

WEIGHTS = st.lists(st.integers(0, 1000), min_size=1, max_size=6).filter(any)
START = st.integers(0, 10**15)


@given(WEIGHTS, START)
def test_every_turn_of_every_taker_comes_once_and_in_order(weights, start):
    taker, turn = Turns.of(weights)(np.arange(start, start + 200))
    for number, weight in enumerate(weights):
        mine = turn[taker == number]
        assert weight or not mine.size
        if mine.size:
            np.testing.assert_array_equal(mine, mine[0] + np.arange(len(mine)))


@given(WEIGHTS, START)
def test_shares_are_exact_over_a_period_and_within_a_turn_a_taker_anywhere(weights, start):
    turns = Turns.of(weights)
    period = sum(turns.counts)
    first, last = (turns(np.arange(s, s + period)) for s in (0, start // period * period))
    np.testing.assert_array_equal(np.bincount(first[0], minlength=len(weights)), turns.counts)
    np.testing.assert_array_equal(first[0], last[0])
    position = np.arange(start, start + 64)
    taker, turn = turns(position)
    fair = np.array([float(p * Fraction(weights[k], sum(weights))) for p, k in zip(position.tolist(), taker.tolist())])
    assert np.abs(turn - fair).max() <= len(weights)


@given(WEIGHTS, START)
def test_a_position_alone_gives_what_it_gives_among_others(weights, start):
    turns = Turns.of(weights)
    together = turns(np.arange(start, start + 20))
    alone = [turns(np.array([start + i])) for i in range(20)]
    np.testing.assert_array_equal(together, np.concatenate(alone, axis=1))


def test_weights_that_need_too_long_a_period_are_met_to_one_turn_in_two_thousand_million():
    weights = [Fraction(1, 10**9 + 7), Fraction(1, 998244353), Fraction(3, 7)]
    turns = Turns.of(weights)
    assert sum(turns.counts) <= 2**31
    for count, weight in zip(turns.counts, weights):
        assert count >= 1
        assert abs(count / sum(turns.counts) - float(weight / sum(weights))) < 2e-9


def test_the_largest_positions_do_not_overflow():
    taker, turn = Turns((2**31 - 2, 1))(np.array([2**62, 2**62 + 1]))
    assert (turn >= 0).all()
    assert turn[0] == 2**62 * (2**31 - 2) // (2**31 - 1)


@pytest.mark.parametrize("weights", [(), (0,), (1, -1)])
def test_impossible_weights_are_refused(weights):
    with pytest.raises(ValueError, match="none may be negative and one must be positive"):
        Turns.of(weights)
