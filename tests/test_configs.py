"""Every config is whole: it builds at full size, abstractly, and its loss is a scalar."""

import dataclasses
import importlib

import jax
import numpy as np
import pytest

from configs.emoji.captions import SEEN, UNSEEN
from t2i_jax import load_dataset
from t2i_jax.configfile import with_options
from t2i_jax.dalle2 import POLISH, STAGES
from t2i_jax.parallel.rules import leaf_name, leaf_spec
from t2i_jax.text import Tokenizer
from t2i_jax.training.inputs import Inputs, batch_shapes, captions_for_tokenizer
from t2i_jax.training.run import Run

EMOJI = [f"emoji.{name}" for name in (*STAGES, POLISH)]
DEMO = [f"emoji.{name}" for name in STAGES]
DALLE2 = [f"dalle2.{name}" for name in ("vae", "clip", "prior", "decoder", "upsampler256", "upsampler1024")]


@pytest.mark.parametrize(
    "name, variant", [*((name, "config") for name in (*EMOJI, *DALLE2)), *((name, "demo") for name in DEMO)]
)
def test_config_builds_at_full_size(name, variant):
    experiment = getattr(importlib.import_module(f"configs.{name}"), variant)()
    assert traced(experiment.stage, experiment.data).shape == ()


@pytest.mark.parametrize("name", [*EMOJI, *DALLE2])
def test_every_field_of_a_config_is_an_option(name, capsys):
    experiment = importlib.import_module(f"configs.{name}").config()
    with pytest.raises(SystemExit):
        with_options(experiment, ["--help"], "t2i train")
    help_text = capsys.readouterr().out
    assert "--data.batch INT" in help_text and "fixed" not in help_text


@pytest.mark.parametrize("name", ["prior", "decoder"])
def test_the_scale_of_a_guidance_is_an_option(name):
    experiment = importlib.import_module(f"configs.emoji.{name}").config()
    guidance = dataclasses.replace(experiment.stage.guidance, scale=2.5)
    changed = dataclasses.replace(experiment, stage=dataclasses.replace(experiment.stage, guidance=guidance))
    assert with_options(experiment, ["--stage.guidance.scale", "2.5"], "t2i train") == changed


def traced(stage, data):
    """The shape of the loss, from random parameters, with all that it reads."""
    size = data.image_size
    batch = {
        "image": jax.ShapeDtypeStruct((8, size, size, 3), np.uint8),
        "tokens": jax.ShapeDtypeStruct((8, data.context), np.int32),
        "index": jax.ShapeDtypeStruct((8,), np.int32),
    }

    def loss(key, batch):
        frozen = stage.expects(key, batch)
        features = stage.features(frozen, batch)
        return stage.loss(stage.init(key, batch), frozen, key, batch | features)[0]

    return jax.eval_shape(loss, jax.random.key(0), batch)


@pytest.mark.parametrize("name, field", [
    ("prior", "embedding"), ("prior", "text_width"), ("prior", "context"),
    ("decoder", "context_width"), ("decoder", "pooled_width"), ("decoder", "in_channels"), ("decoder", "out_channels"),
    ("upsampler", "context_width"),
])  # fmt: skip
def test_a_network_that_does_not_fit_the_stages_it_reads_is_named_with_its_field(name, field):
    experiment = importlib.import_module(f"configs.emoji.{name}").config()
    stage = experiment.stage
    wrong = dataclasses.replace(stage.model, **{field: 8 + getattr(stage.model, field)})
    with pytest.raises(ValueError, match=field):
        traced(dataclasses.replace(stage, model=wrong), experiment.data)


@pytest.mark.parametrize("name, millions", [
    ("clip", (860, 1020)), ("prior", (1000, 1350)), ("decoder", (3400, 3700)), ("upsampler256", (660, 740)),
    ("upsampler1024", (280, 320)),
])  # fmt: skip
def test_the_papers_sizes_are_the_papers(name, millions):
    experiment = importlib.import_module(f"configs.dalle2.{name}").config()
    params = jax.eval_shape(experiment.stage.init, jax.random.key(0), batch_shapes(experiment.data))
    low, high = millions
    assert low < sum(leaf.size for leaf in jax.tree.leaves(params)) / 1e6 < high


@pytest.mark.parametrize("name", DALLE2)
def test_the_papers_sizes_divide_over_a_pod(name):
    experiment = importlib.import_module(f"configs.{name}").config()
    state = jax.eval_shape(experiment.stage.init, jax.random.key(0), batch_shapes(experiment.data))
    axes = dict(zip(("replica", "data", "model"), experiment.mesh.sizes(256)))
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        leaf_spec(leaf_name(path), leaf.shape, axes)
    assert experiment.data.batch % (axes["replica"] * axes["data"]) == 0


def test_the_sheets_captions_are_seen_and_unseen_as_it_says():
    trained = [caption for captions in load_dataset("emoji64", "train").captions for caption in captions]
    held_out = [caption for captions in load_dataset("emoji64", "val_pair").captions for caption in captions]
    assert set(SEEN) <= set(trained)
    assert set(UNSEEN) <= set(held_out) - set(trained)
    assert {caption.split(",")[0] for caption in UNSEEN} <= set(trained)  # the thing itself is known


@pytest.mark.parametrize("name", [*EMOJI, *DALLE2])
def test_the_tokenizer_that_any_stage_makes_is_as_large_as_the_text_tower(name):
    experiment = importlib.import_module(f"configs.{name}").config()
    known = experiment.stage.vocabulary()
    assert (known is None) == (experiment.stage.name in ("vae", POLISH))
    assert known is None or known == experiment.data.vocab


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A run that has no more than a tokenizer."""
    root = tmp_path_factory.mktemp("run")
    captions = (caption for captions in load_dataset("emoji64", "val_pair").captions for caption in captions)
    Tokenizer.train(captions, root / "tokenizer.model")
    return root


@pytest.mark.parametrize("name", ["clip", "prior", "decoder", "upsampler"])
def test_a_text_tower_that_knows_fewer_tokens_than_the_tokenizer_has_is_refused(name, root):
    experiment = importlib.import_module(f"configs.emoji.{name}").config()
    Inputs.open(experiment, Run(root, name))
    stage = experiment.stage
    clip = stage.model if name == "clip" else stage.clip
    small = clip.clone(text=clip.text.clone(vocab=1024))
    stage = dataclasses.replace(stage, **{"model" if name == "clip" else "clip": small})
    with pytest.raises(ValueError, match=f"the stage '{name}' knows 1024: set the vocab of its text tower"):
        Inputs.open(dataclasses.replace(experiment, stage=stage), Run(root, name))


def test_the_tokenizer_that_a_training_makes_has_as_many_tokens_as_its_data_say(tmp_path):
    experiment = importlib.import_module("configs.emoji.vae").config()
    data = dataclasses.replace(experiment.data, split="val_pair", vocab=700)
    assert Inputs.open(dataclasses.replace(experiment, data=data), Run(tmp_path, "vae")).tokenizer.vocab == 700


def test_the_tokenizer_of_many_examples_is_made_of_evenly_spaced_ones(tmp_path, monkeypatch):
    monkeypatch.setattr("t2i_jax.training.inputs._SAMPLE", 50)
    monkeypatch.setattr("t2i_jax.training.inputs._CHUNK", 8)
    dataset = load_dataset("emoji64", "val_pair")
    some = [caption for captions in dataset.captions[::7] for caption in captions]
    assert list(captions_for_tokenizer(dataset)) == some and len(dataset.captions[::7]) <= 50
    monkeypatch.setattr("t2i_jax.training.inputs._SAMPLE", 307)
    assert list(captions_for_tokenizer(dataset)) == [caption for captions in dataset.captions for caption in captions]
