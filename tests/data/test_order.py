import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from t2i_jax.data.order import bits, order, uniform, visits

SEEDS = st.integers(-(2**63), 2**63 - 1)


@given(SEEDS, st.integers(1, 120), st.integers(1, 50), st.integers(0, 3))
def test_every_example_comes_exactly_once_an_epoch_whatever_the_batch(seed, size, batch, epoch):
    first, last = epoch * size, (epoch + 1) * size
    steps = range(first // batch, -(-last // batch))
    row = np.concatenate([order(seed, step, batch, size) for step in steps])[first - steps[0] * batch :][:size]
    assert row.dtype == np.int64
    np.testing.assert_array_equal(np.sort(row), np.arange(size))


@given(SEEDS, st.integers(1, 10**12), st.integers(0, 10**9), st.integers(1, 64))
def test_position_decides_and_batch_size_does_not(seed, size, step, batch):
    whole = order(seed, step, 2 * batch, size)
    np.testing.assert_array_equal(whole, np.concatenate([order(seed, 2 * step + i, batch, size) for i in (0, 1)]))
    assert whole.min() >= 0
    assert whole.max() < size


def test_epochs_and_seeds_give_different_permutations():
    rows = [tuple(order(seed, step, 50, 50)) for seed in range(3) for step in range(3)]
    assert len(set(rows)) == len(rows)


@pytest.mark.parametrize("size", [2, 3, 7, 10])
def test_each_example_is_equally_likely_at_each_place(size):
    count = np.zeros((size, size))
    epochs = 6000
    rows = order(5, 0, size * epochs, size).reshape(epochs, size)
    for place in range(size):
        count[place] = np.bincount(rows[:, place], minlength=size)
    chi2 = ((count - epochs / size) ** 2 / (epochs / size)).sum()
    freedom = (size - 1) ** 2
    assert chi2 < freedom + 5 * np.sqrt(2 * freedom)


def test_neighbours_in_the_order_are_not_neighbours_in_the_files():
    row = order(0, 0, 10_000, 10_000)
    gaps = np.abs(np.diff(row))
    assert abs(gaps.mean() - 10_000 / 3) < 200  # the mean distance of two random places
    assert abs(np.corrcoef(row[:-1], row[1:])[0, 1]) < 0.05


def test_a_jump_far_into_a_huge_set_needs_no_memory_of_its_size():
    indices = order(1, 10**9, 4096, 5 * 10**9)
    assert len(np.unique(indices)) == 4096
    assert indices.max() > 4 * 10**9


def test_random_bits_belong_to_the_visit_and_purposes_are_independent():
    epoch, index = visits(3, 7, 2000, 900)
    flips = uniform(3, 1, epoch, index)
    np.testing.assert_array_equal(uniform(3, 1, epoch[500:], index[500:]), flips[500:])
    assert 0 <= flips.min() <= flips.max() < 1
    assert abs(flips.mean() - 0.5) < 0.03
    other = uniform(3, 2, epoch, index)
    assert abs(np.corrcoef(flips, other)[0, 1]) < 0.08
    assert len(np.unique(bits(3, 1, epoch, index))) == 2000  # another epoch, other bits


@pytest.mark.parametrize("batch, size, step", [(0, 5, 0), (4, 0, 0), (4, 5, -1)])
def test_impossible_requests_are_refused(batch, size, step):
    with pytest.raises(ValueError, match="order needs"):
        order(0, step, batch, size)
