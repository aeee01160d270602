"""Every config is whole: it builds at full size, abstractly, and its loss is a scalar."""

import importlib

import jax
import numpy as np
import pytest

from t2i_jax.dalle2 import STAGES


@pytest.mark.parametrize("name", STAGES)
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
