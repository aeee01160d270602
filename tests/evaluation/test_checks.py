"""Each check passes on what is right and fails on the very fault it is there for."""

import numpy as np
import pytest

from t2i_jax.evaluation.checks import condition_used, copying, derangement, neighbours, prior_match

E = 16
REAL = np.random.default_rng(0).normal(size=(200, E))
RANDOM = np.random.default_rng(1)


def pictures(seed, n=40):
    small = np.random.default_rng(seed).integers(0, 256, (n, 16, 16, 3), dtype=np.uint8)
    return small.repeat(2, axis=1).repeat(2, axis=2)


def test_a_prior_near_its_pictures_passes():
    found = prior_match(REAL + 0.3 * RANDOM.normal(size=REAL.shape), REAL)
    assert found["ok"]
    assert found["cosine"] > 0.9 > found["cosine_other"]


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(REAL / np.linalg.norm(REAL, axis=1, keepdims=True), id="unscaled"),
        pytest.param(np.random.default_rng(2).normal(size=REAL.shape), id="ignores the caption"),
        pytest.param(REAL.mean(0) + 4 * np.ones(E) / E**0.5 + 0.01 * REAL, id="collapsed"),
    ],
)
def test_a_broken_prior_fails(broken):
    assert not prior_match(broken, REAL)["ok"]


def test_pictures_that_follow_their_captions_pass_and_others_do_not():
    assert condition_used(REAL + RANDOM.normal(size=REAL.shape), REAL)["ok"]
    assert not condition_used(np.random.default_rng(3).normal(size=REAL.shape), REAL)["ok"]
    assert not condition_used(np.ones_like(REAL), REAL)["ok"]


def test_nearest_training_pictures_are_found_in_order():
    training = pictures(0)
    queries = np.clip(training[[7, 3]].astype(int) + 2, 0, 255).astype(np.uint8)
    found = neighbours(queries, training, k=3)
    assert found.index[:, 0].tolist() == [7, 3]
    assert (found.distance[:, 0] <= 2).all() and (np.diff(found.distance, axis=1) >= 0).all()


def test_copies_are_told_from_new_pictures():
    training, held_out = pictures(0), neighbours(pictures(1), pictures(0))
    assert copying(neighbours(training[:10], training), held_out)["copied"] == 1.0
    new = copying(neighbours(pictures(2), training), held_out)
    assert new["ok"] and new["copied"] <= 0.1


@pytest.mark.parametrize("repeated", [2, 40])
def test_held_out_pictures_that_stand_in_training_too_hide_no_copies(repeated):
    training, held_out = pictures(0), pictures(1)
    held_out[:repeated] = training[:repeated]
    samples = neighbours(np.clip(training.astype(int) + 1, 0, 255).astype(np.uint8), training)
    found = copying(samples, neighbours(held_out, training))
    assert found["copied"] == 1.0 and not found["ok"]
    assert found["held_out_repeats"] == repeated and found["threshold"] >= 2


@pytest.mark.parametrize("n", [2, 3, 50])
def test_a_derangement_moves_every_place_and_loses_none(n):
    order = derangement(n, seed=n)
    assert sorted(order) == list(range(n)) and (order != np.arange(n)).all()
