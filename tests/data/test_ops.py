import numpy as np
import pytest

from t2i_jax.data.ops import choose_flips, choose_texts, may_flip, text_at, texts_of


@pytest.mark.parametrize("caption", [
    "backhand index pointing left", "Right-facing fist", "man walking, facing right", "eight o'clock", "eight o’clock",
    "flag of Kenya", "clockwise vertical arrows", "1st place medal", 'Japanese "discount" button', "woman gesturing OK",
    "waxing crescent moon", "a sign", "letter b", "TOP arrow", "world map", "musical note",
    "a shop with the word bread",
])  # fmt: skip
def test_what_a_mirror_would_make_false_is_never_mirrored(caption):
    assert not may_flip([caption])
    assert not may_flip(["a dog", caption])


@pytest.mark.parametrize("caption", [
    "a red apple", "whale, fluent 3d style", "a glossy 3d emoji of whale", "A brightly lit house", "copyrighted",
    "I see a dog", "two dogs", "", "signature dish",
])  # fmt: skip
def test_what_stays_true_may_be_mirrored(caption):
    assert may_flip([caption])


def test_texts_are_captions_then_their_keywords():
    captions = ["a red apple", "the apple"]
    assert texts_of(captions, False) == captions
    assert texts_of(captions, True) == [*captions, "red apple", "apple"]
    assert [text_at(captions, i) for i in range(4)] == texts_of(captions, True)


def test_choices_are_fair_and_belong_to_the_visit():
    index = np.arange(6000)
    epoch = np.zeros_like(index)
    count = 1 + index % 5
    place = choose_texts(7, epoch, index, count, (), 0.25)
    assert (place < 2 * count).all()
    assert abs((place >= count).mean() - 0.25) < 0.03
    assert abs(np.bincount((place % count)[count == 5], minlength=5) / 1200 - 0.2).max() < 0.05
    flips = choose_flips(7, epoch, index, index % 2 == 0)
    assert not flips[1::2].any()
    assert abs(flips[::2].mean() - 0.5) < 0.04
    np.testing.assert_array_equal(choose_flips(7, epoch[9:], index[9:], np.full(5991, True))[1::2], flips[10::2])
    assert (choose_texts(7, epoch + 1, index, count, (), 0.25) != place).mean() > 0.4


def test_captions_are_drawn_by_their_weights_and_the_last_weight_goes_on():
    index = np.arange(6000)
    count = np.where(index % 2, 4, 2)
    place = choose_texts(7, index * 0, index, count, (1.0, 0.0, 2.0), 0.0)
    assert not place[count == 2].any()
    assert abs(np.bincount(place[count == 4], minlength=4) / 3000 - [0.2, 0, 0.4, 0.4]).max() < 0.03
