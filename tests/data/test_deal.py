import dataclasses
import sys
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from t2i_jax.data import Data, load_dataset, order
from t2i_jax.data.build import build
from t2i_jax.data.deal import Deal, Shares, deal_of, nearest_shape
from t2i_jax.data.mixture import Mixture
from t2i_jax.data.turns import Turns
from tests.data.conftest import fill, picture

SEEDS = st.integers(-(2**63), 2**63 - 1)
CELLS = st.lists(st.lists(st.integers(0, 6), min_size=2, max_size=2).filter(any), min_size=1, max_size=3)


def made(cells: list[list[int]]) -> Deal:
    """A deal of buckets with so many examples of each data set, spread over the indices."""
    order_of = np.random.default_rng(7).permutation(sum(map(sum, cells)))
    members, rest = [], order_of
    for row in cells:
        members.append(np.sort(rest[: sum(row)]).astype(np.int32))
        rest = rest[sum(row) :]
    bounds = tuple(np.cumsum([0, *row]) for row in cells)
    return Deal(
        tuple((8, 8 + i) for i in range(len(cells))), tuple(members), bounds,
        Turns.of([sum(row) for row in cells]), tuple(Turns.of(row) for row in cells),
    )  # fmt: skip


@given(CELLS, SEEDS, st.integers(5, 12))
def test_every_step_is_of_one_bucket_and_every_example_of_a_cell_comes_once_an_epoch(cells, seed, batch):
    deal = made(cells)
    seen: dict[tuple[int, int], list[int]] = {}
    for step in range(2 * -(-sum(map(sum, cells)) // batch) + 4):
        epoch, index = deal.visits(seed, step, batch)
        bucket = deal.bucket(step)
        assert np.isin(index, deal.members[bucket]).all()
        part = np.searchsorted(deal.bounds[bucket], deal.places(bucket, index), side="right") - 1
        for e, i, p in zip(epoch.tolist(), index.tolist(), part.tolist()):
            seen.setdefault((bucket, p), []).append((e, i))
    for (bucket, part), visits in seen.items():
        size = cells[bucket][part]
        for start in range(0, len(visits), size):
            whole = visits[start : start + size]
            assert {e for e, _ in whole} == {start // size}
            assert len({i for _, i in whole}) == len(whole)


@given(CELLS, SEEDS, st.integers(0, 10**12), st.sampled_from([1, 2, 3, 4, 6]))
def test_shares_of_processes_put_together_are_the_global_batch(cells, seed, step, count):
    deal = made(cells)
    whole = deal.visits(seed, step, 12)
    shares = [Shares(seed, 12, deal, number, count)(step) for number in range(count)]
    np.testing.assert_array_equal(np.concatenate(shares, axis=1), whole)


@given(SEEDS, st.integers(1, 10**9), st.integers(0, 10**9), st.integers(1, 40))
def test_one_data_set_without_buckets_comes_in_plain_order(seed, size, step, batch):
    deal = Deal(((8, 8),), (None,), (np.array([0, size]),), Turns.of((1,)), (Turns.of((1,)),))
    np.testing.assert_array_equal(deal.visits(seed, step, batch)[1], order(seed, step, batch, size))


@given(SEEDS, st.lists(st.integers(1, 10**9), min_size=1, max_size=5), st.integers(0, 10**9))
def test_rows_go_to_data_sets_by_weight_whatever_their_sizes(seed, sizes, step):
    weights = range(1, len(sizes) + 1)
    starts = np.cumsum([0, *sizes])
    deal = Deal(((8, 8),), (None,), (starts,), Turns.of((1,)), (Turns.of(weights),))
    batch = 5 * sum(weights)
    part = np.searchsorted(starts, deal.visits(seed, step, batch)[1], side="right") - 1
    np.testing.assert_array_equal(np.bincount(part, minlength=len(sizes)), [5 * weight for weight in weights])


def test_two_data_sets_of_one_size_are_not_shuffled_alike():
    deal = Deal(((8, 8),), (None,), (np.array([0, 50, 100]),), Turns.of((1,)), (Turns.of((1, 1)),))
    _, index = deal.visits(0, 0, 100)
    first, second = index[index < 50], index[index >= 50] - 50
    assert (first != second).mean() > 0.8


@given(CELLS)
def test_stand_ins_are_the_cells_others_first_and_then_everyone(cells):
    deal = made(cells)
    total = sum(map(sum, cells))
    for bucket, members in enumerate(deal.members):
        for place in (0, len(members) - 1):
            index = int(members[place])
            part = int(np.searchsorted(deal.bounds[bucket], place, side="right")) - 1
            cell = members[deal.bounds[bucket][part] : deal.bounds[bucket][part + 1]].tolist()
            found = list(deal.stand_ins(index))
            assert set(found[: len(cell) - 1]) == set(cell) - {index}
            assert set(found) == set(range(total)) - {index}


@given(st.integers(1, 4000), st.integers(1, 4000))
def test_a_picture_goes_to_the_shape_of_the_nearest_aspect_and_its_mirror_image_to_the_turned_one(height, width):
    shapes = [(64, 64), (48, 80), (80, 48), (40, 96), (96, 40)]
    ratio = lambda h, w: abs(np.log(width / height) - np.log(w / h))
    (found,) = nearest_shape(np.array([[height, width]], np.int32), shapes)
    assert ratio(*shapes[found]) <= min(ratio(*shape) for shape in shapes) + 1e-5
    assert nearest_shape(np.array([[0, 0]], np.int32), shapes)[0] == 0


def count_rows(deal: Deal, steps: list[int]) -> list[int]:
    """How many values numpy's permutation had to compute for each step."""
    module = sys.modules[order.__module__]
    counts, real = [], module._mix
    try:
        for step in steps:
            total = [0]

            def counted(words, total=total):
                total[0] += np.size(words)
                return real(words)

            module._mix = counted
            deal.visits(3, step, 256)
            counts.append(total[0])
    finally:
        module._mix = real
    return counts


@pytest.mark.parametrize("sizes", [[10**9], [10**9 + 7, 3], [999_999_937, 10**9, 1]])
def test_a_jump_to_any_step_of_a_billion_examples_takes_no_more_work_than_the_first(sizes):
    starts = np.cumsum([0, *sizes])
    deal = Deal(((8, 8),), (None,), (starts,), Turns.of((1,)), (Turns.of([1] * len(sizes)),))
    counts = count_rows(deal, [0, 10**3, 10**6, 10**9, 10**12])
    # for each row: its epoch, its key, eight keys of rounds, eight rounds; the few that fall outside go round again
    assert max(counts) < 256 * 18 * 2
    assert min(counts) >= 256 * 18


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Two data sets of pictures wide, tall and square: 12 and 30."""
    home = tmp_path_factory.mktemp("two")
    for name, count in (("few", 12), ("many", 30)):
        files = {}
        for i in range(count):
            size = [(16, 16), (40, 20), (20, 50)][i % 3]
            files[f"{i:03d}.jpg"], files[f"{i:03d}.txt"] = picture(i, size, "JPEG"), f"a {name} thing"
        build(fill(home / f"{name}.in", files), home / name)
    return Mixture(tuple(load_dataset(home / name) for name in ("few", "many")))


def test_buckets_of_a_mixture_follow_the_headers_and_keep_the_weights_over_a_period(two):
    data = Data(dataset=(("few", 1.0), ("many", 1.0)), buckets=((16, 16), (12, 24), (24, 12)), batch=6)
    deal = deal_of(data, two)
    assert deal.shapes == data.buckets
    np.testing.assert_array_equal(deal.members[1], np.flatnonzero(np.arange(42) % 3 == 1))
    assert [row.counts for row in deal.rows] == [(1, 1)] * 3
    counted = np.zeros(2, int)
    for step in range(12):
        counted += np.bincount(deal.visits(0, step, 6)[1] >= 12, minlength=2)
    assert counted.tolist() == [36, 36]


def test_a_bucket_that_no_picture_goes_to_takes_no_step(two):
    deal = deal_of(Data(dataset=(("few", 1.0), ("many", 1.0)), buckets=((16, 16), (16, 160))), two)
    assert deal.shapes == ((16, 16),)


def test_weights_are_taken_as_what_they_mean():
    data = Data(dataset=(("a", 0.7), ("b", 0.2), ("c", 0.1)))
    assert data.weights == (Fraction(7, 10), Fraction(1, 5), Fraction(1, 10))
    assert dataclasses.replace(data, dataset=(("a", 1 / 3), ("b", 2 / 3))).weights == (Fraction(1, 3), Fraction(2, 3))
