"""Every config is whole: it builds at full size, abstractly, and its loss is a scalar."""

import importlib

import jax
import numpy as np
import pytest

from configs.emoji.captions import SEEN, UNSEEN
from t2i_jax import load_dataset
from t2i_jax.dalle2 import POLISH, STAGES


@pytest.mark.parametrize("name", [*STAGES, POLISH])
def test_config_builds_at_full_size(name):
    experiment = importlib.import_module(f"configs.emoji.{name}").config()
    size, tokens = experiment.data.image_size, experiment.data.context
    batch = {
        "image": jax.ShapeDtypeStruct((8, size, size, 3), np.uint8),
        "tokens": jax.ShapeDtypeStruct((8, tokens), np.int32),
        "index": jax.ShapeDtypeStruct((8,), np.int32),
    }
    stage = experiment.stage

    def loss(key, batch):
        frozen = stage.expects(key, batch)
        features = stage.features(frozen, batch)
        return stage.loss(stage.init(key, batch), frozen, key, batch | features)[0]

    assert jax.eval_shape(loss, jax.random.key(0), batch).shape == ()


def test_the_sheets_captions_are_seen_and_unseen_as_it_says():
    trained = [caption for captions in load_dataset("emoji64", "train").captions for caption in captions]
    held_out = [caption for captions in load_dataset("emoji64", "val_pair").captions for caption in captions]
    assert set(SEEN) <= set(trained)
    assert set(UNSEEN) <= set(held_out) - set(trained)
    assert {caption.split(",")[0] for caption in UNSEEN} <= set(trained)  # the thing itself is known
