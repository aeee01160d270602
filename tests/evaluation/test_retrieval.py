"""Retrieval: known ranks, ties, equal captions, chance level, seeds."""

import numpy as np
import pytest

from t2i_jax.evaluation import recalls, retrieval_among

NAMES = [f"thing {i}" for i in range(120)]


def random(seed, n=120, e=16):
    return np.random.default_rng(seed).normal(size=(n, e))


def test_aligned_pairs_are_always_first_at_any_scale():
    text = random(0)
    found = recalls(17.0 * text, text, NAMES)
    assert all(value == 1.0 for way in found.values() for value in way.values())
    assert retrieval_among(17.0 * text, text, NAMES) == {"first": 1.0, "ten": 1.0, "candidates": 100}


def test_ranks_are_counted_both_ways():
    similarity_to = np.eye(3)
    image = np.array([[1.0, 0.9, 0], [0, 1.0, 0], [0, 0, 1.0]])
    image[0] = [0.6, 0.8, 0.0]  # nearer to caption 1 than to its own
    found = recalls(image, similarity_to, NAMES[:3], ks=(1, 2))
    assert found["image_to_text"] == {"R@1": pytest.approx(2 / 3), "R@2": 1.0}
    assert found["text_to_image"] == {"R@1": 1.0, "R@2": 1.0}


def test_a_collapsed_embedding_scores_nothing():
    same = np.ones((120, 4))
    assert recalls(same, same, NAMES)["image_to_text"]["R@10"] == 0.0
    assert retrieval_among(same, same, NAMES)["ten"] == 0.0


def test_pictures_of_the_same_caption_answer_for_each_other():
    text = np.array([[1.0, 0], [1.0, 0], [0, 1.0]])
    image = np.array([[1.0, 0.1], [1.0, 0.0], [0.0, 1.0]])
    assert recalls(image, text, ["a", "a", "b"], ks=(1,))["text_to_image"] == {"R@1": 1.0}
    assert recalls(image, text, ["a", "c", "b"], ks=(1,))["text_to_image"]["R@1"] < 1.0


def test_unrelated_pictures_score_at_chance():
    n = 2000
    found = retrieval_among(random(0, n), random(1, n), [str(i) for i in range(n)])
    assert found["first"] == pytest.approx(0.01, abs=0.01)
    assert found["ten"] == pytest.approx(0.10, abs=0.03)


def test_the_other_captions_depend_on_the_seed_alone_and_are_never_the_same_sentence():
    image, text = random(0), random(1)
    assert retrieval_among(image, text, NAMES, 10, seed=3) == retrieval_among(image, text, NAMES, 10, seed=3)
    twice = np.concatenate([text, text])
    found = retrieval_among(twice, twice, NAMES * 2)
    assert found == {"first": 1.0, "ten": 1.0, "candidates": 100}


def test_fewer_captions_than_candidates_are_all_taken_and_the_number_is_said():
    text = random(0, 7)
    assert retrieval_among(text, text, NAMES[:7])["candidates"] == 7
    with pytest.raises(ValueError, match="two distinct"):
        retrieval_among(text, text, ["same"] * 7)
