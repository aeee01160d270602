import dataclasses
import importlib
import json
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2i_jax.data import Data
from t2i_jax.data.build import build
from t2i_jax.models.clip import CLIP, TextTower, VisionTower
from t2i_jax.models.vae import AutoencoderKL
from t2i_jax.stages import ClipStage, Stage, VAEStage
from t2i_jax.training import EXIT_STOPPED, Experiment, Reports, train
from t2i_jax.training.checkpoint import load_params
from t2i_jax.training.inputs import Inputs, batch_shapes
from t2i_jax.training.program import build as build_program
from t2i_jax.training.run import Run, read_experiment
from t2i_jax.training.serialize import decode, encode
from t2i_jax.types import normalize
from tests.data.conftest import fill, picture
from tests.training.toy import toy_batch

VAE = VAEStage(model=AutoencoderKL(channels=(4, 8), layers=1, latent_channels=4, groups=2, attention=True), crop=8)
BUCKETS = ((16, 16), (8, 24), (24, 8))


@dataclasses.dataclass(frozen=True)
class Tint(Stage):
    """Finds the matrix of colours that leaves noisy pictures of any shape as they are."""

    name: ClassVar[str] = "tint"

    def init(self, rng, batch):
        return {"kernel": 0.1 * jax.random.normal(rng, (3, 3))}

    def loss(self, params, frozen, rng, batch):
        image = normalize(batch["image"])
        noisy = image + 0.1 * jax.random.normal(rng, image.shape)
        return jnp.square(noisy @ params["kernel"] - image).mean(), {}

    def preview(self, params, frozen, rng, batch):
        return normalize(batch["image"]) @ params["kernel"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A mixture of the embedded squares and pictures of three shapes."""
    home = tmp_path_factory.mktemp("shapes")
    files = {}
    for i in range(24):
        files[f"{i:03d}.jpg"] = picture(i, [(20, 20), (48, 16), (16, 50)][i % 3], "JPEG")
        files[f"{i:03d}.txt"] = "a thing of some shape\n"
    build(fill(home / "in", files), home / "shapes")
    return Data(
        dataset=(("emoji64", 1.0), (str(home / "shapes"), 3.0)), split=("train[:40]", "train"), batch=8, image_size=16,
        context=64, buckets=BUCKETS,
    )  # fmt: skip


def experiment(data, stage=Tint(), **fields):
    reports = Reports(every=1, preview_every=0, tensorboard=False)
    return Experiment(stage=stage, data=data, steps=7, reports=reports, **fields)


def lines(directory):
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("stage", [Tint(), pytest.param(VAE, marks=pytest.mark.stress)], ids=["tint", "vae"])
def test_a_mixture_in_buckets_is_trained_on_and_continued_bit_for_bit(stage, data, tmp_path):
    straight, pieces, name = tmp_path / "a", tmp_path / "b", stage.name
    assert train(experiment(data, stage), straight) == 0
    assert train(experiment(data, stage), pieces, until=4) == EXIT_STOPPED
    assert train(experiment(data, stage), pieces) == 0
    assert [line["loss"] for line in lines(straight / name)] == [line["loss"] for line in lines(pieces / name)]
    for x, y in zip(*(jax.tree.leaves(load_params(root / name)[0]) for root in (straight, pieces)), strict=True):
        np.testing.assert_array_equal(x, y)
    assert read_experiment(straight / name, (Tint,)) == experiment(data, stage)
    opened = Inputs.open(experiment(data), Run(straight, name))
    shapes = {batch["image"].shape[1:3] for batch, _ in zip(opened.batches(0), range(7))}
    assert shapes == set(BUCKETS)
    assert len(list((straight / "cache").glob("sizes-*.npy"))) == 2


def test_a_step_in_a_bucket_is_the_plain_step_on_pictures_of_that_shape(data, tmp_path):
    one = experiment(data)
    mesh = one.mesh.build(jax.devices()[:1])
    square = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in toy_batch(8, 16).items()}
    images = {(8, 16, 16, 3): 0.75, (8, 8, 24, 3): 0.25}
    with jax.set_mesh(mesh):
        program = build_program(one, mesh, {}, square, {}, images)
        step = program.compile()
        plain = jax.jit(program.step)
        for shape in images:
            batch = toy_batch(8, 16) | {"image": jax.numpy.ones(shape, np.uint8)}
            found, wanted = (
                f(program.init(jax.random.key(1)), {}, jax.random.key(0), batch)[1]["loss"] for f in (step, plain)
            )
            np.testing.assert_array_equal(found, wanted)


def test_a_stage_that_needs_squares_says_so_before_anything_is_written(data, tmp_path):
    vision = VisionTower(image_size=16, patch=8, width=16, depth=1, heads=2)
    stage = ClipStage(model=CLIP(TextTower(vocab=4096, context=64, width=16, depth=1, heads=2), vision, 16))
    says = r"'clip' can't take pictures 8 high and 24 wide, which data.buckets.*VisionTower"
    with pytest.raises(ValueError, match=says):
        train(experiment(data, stage), tmp_path)
    assert not (tmp_path / "clip").exists()


def test_a_config_of_an_older_version_is_read_with_no_buckets(data):
    old = encode(experiment(dataclasses.replace(data, dataset="emoji64", split="train", buckets=())))
    del old["data"]["buckets"]
    assert decode(old, (Tint,)).data == Data(batch=8, image_size=16, context=64)


@pytest.mark.parametrize("name", ["vae", "polish", "prior", "decoder", "upsampler"])
def test_every_stage_but_clip_takes_pictures_that_are_no_squares(name):
    one = importlib.import_module(f"configs.emoji.{name}").config()
    if name in ("decoder", "upsampler"):  # the positions must reach as far as the widest shape
        one = dataclasses.replace(one, stage=dataclasses.replace(one.stage, model=one.stage.model.copy(grid=8)))
    key, batch = jax.eval_shape(lambda: jax.random.key(0)), batch_shapes(dataclasses.replace(one.data, batch=4))
    params = jax.eval_shape(one.stage.init, key, batch)
    frozen = jax.eval_shape(one.stage.expects, key, batch) if one.stage.reads else {}

    def loss(params, frozen, key, batch):
        return one.stage.loss(params, frozen, key, batch | one.stage.features(frozen, batch))[0]

    wide = batch | {"image": jax.ShapeDtypeStruct((4, 64, 96, 3), np.uint8)}
    assert jax.eval_shape(loss, params, frozen, key, wide).shape == ()
