"""Precision and recall of sets whose overlap is known."""

import numpy as np
import pytest

from t2i_jax.evaluation import precision_recall

LINE = np.linspace(0, 1, 50)[:, None]


def test_equal_sets_score_one():
    features = np.random.default_rng(0).normal(size=(60, 4))
    assert precision_recall(features, features) == (1.0, 1.0)


def test_sets_far_apart_score_zero():
    assert precision_recall(LINE, LINE + 100) == (0.0, 0.0)


def test_one_good_mode_of_two_has_full_precision_and_half_recall():
    real = np.concatenate([LINE, LINE + 100])
    assert precision_recall(real, LINE + 0.001) == (1.0, 0.5)


def test_half_of_the_pictures_wrong_has_half_precision_and_full_recall():
    generated = np.concatenate([LINE, LINE + 100])
    assert precision_recall(LINE, generated) == (0.5, 1.0)


def test_a_ball_reaches_to_the_third_neighbour():
    real = np.array([[0.0], [1.0], [2.0], [3.0]])
    near, far = np.full((4, 1), -3.0 + 1e-6), np.full((4, 1), -3.0 - 1e-3)
    assert precision_recall(real, near)[0] == 1.0
    assert precision_recall(real, far)[0] == 0.0


def test_too_few_pictures_are_refused():
    with pytest.raises(ValueError, match="more than 3"):
        precision_recall(LINE[:3], LINE)
