"""The whole cascade at its smallest: every config, shrunk, trains two steps, then paints and is exported."""

import dataclasses
import importlib
import json

import jax
import numpy as np
import pytest

from t2i_jax.cli import main
from t2i_jax.dalle2 import POLISH, SECOND, STAGES, DallE2, _key
from t2i_jax.diffusion import DPMSolverPP, Euler, Guidance
from t2i_jax.interop import export_cascade, import_model
from t2i_jax.models.clip import CLIP, TextTower, VisionTower
from t2i_jax.models.vae import AutoencoderKL
from t2i_jax.parallel import rules
from t2i_jax.parallel.mesh import Mesh, replicated
from t2i_jax.stages import SecondUpsamplerStage
from t2i_jax.training import Checkpoints, Reports
from t2i_jax.training.loop import train

VAE = AutoencoderKL(channels=(4, 4, 8), latent_channels=4, groups=4)
TINY_CLIP = CLIP(
    TextTower(vocab=3072, context=12, width=16, depth=1, heads=2),
    VisionTower(image_size=64, patch=16, width=16, depth=1, heads=2),
    16,
)
NETWORK = {"width": 16, "depth": 2, "heads": 2}


def config(name):
    return importlib.import_module(f"configs.emoji.{name}").config()


def shrunk(name):
    """The config with the same structure, a tiny model and two steps."""
    experiment = config(name)
    stage = experiment.stage
    if name == "vae":
        stage = dataclasses.replace(stage, model=VAE)
    elif name == "polish":
        stage = dataclasses.replace(stage, vae=dataclasses.replace(stage.vae, model=VAE))
    elif name == "clip":
        stage = dataclasses.replace(stage, model=TINY_CLIP)
    elif name == "prior":
        model = dataclasses.replace(stage.model, **NETWORK, embedding=16, text_width=16)
        stage = dataclasses.replace(stage, model=model, clip=TINY_CLIP, sampler=DPMSolverPP(2))
    else:
        pooled = 32 if name == "decoder" else 16  # image embedding and mean of the words
        model = dataclasses.replace(stage.model, **NETWORK, context_width=16, pooled_width=pooled)
        stage = dataclasses.replace(stage, model=model, clip=TINY_CLIP, vae=VAE, sampler=Euler(2))
    return dataclasses.replace(
        experiment,
        stage=stage,
        steps=2,
        data=dataclasses.replace(experiment.data, batch=8, split="val_pair"),
        checkpoints=Checkpoints(every=1, keep=1),
        reports=Reports(every=1, preview_every=2, previews=8, tensorboard=False),
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("cascade")
    for name in (*STAGES, POLISH):
        assert train(shrunk(name), root) == 0
    return root


def test_every_stage_leaves_a_checkpoint_metrics_and_a_sheet(run):
    for name in (*STAGES, POLISH):
        assert (run / name / "checkpoints" / "2").is_dir()
        assert len((run / name / "metrics.jsonl").read_text().splitlines()) >= 2
        assert list((run / name / "samples").glob("*.png"))


def test_cascade_paints_the_same_pictures_for_the_same_seed(run):
    model = DallE2.load(run)
    one = model(["a red apple", "a whale"], n=2, seed=3)
    assert one.shape == (4, 64, 64, 3) and one.dtype == np.uint8
    np.testing.assert_array_equal(one, DallE2.load(run)(["a red apple", "a whale"], n=2, seed=3))
    assert not np.array_equal(one, model(["a red apple", "a whale"], n=2, seed=4))


def test_the_pictures_that_are_kept_are_those_nearest_to_their_caption(run):
    model, captions = DallE2.load(run), ["a red apple", "a whale"]
    painted = model(captions, n=6, seed=3)
    kept = model(captions, n=2, seed=3, best_of=3).reshape(2, 2, 64, 64, 3)
    nearness = (model.clip_embed_images(painted) * model.clip_embed_texts(captions).repeat(6, axis=0)).sum(-1)
    for own, near, pictures in zip(painted.reshape(2, 6, 64, 64, 3), nearness.reshape(2, 6), kept):
        best = sorted(range(6), key=lambda i: -near[i])[:2]
        np.testing.assert_array_equal(pictures, own[best])


def test_another_guidance_paints_what_a_cascade_of_that_guidance_does_without_compiling_anew(run):
    model = DallE2.load(run)
    wanted = model.replace(decoder=dataclasses.replace(model.decoder, guidance=Guidance(5.0)))
    stronger = model.guided(5.0)
    pictures, plain = (m(["a red apple"], seed=1) for m in (stronger, model))
    np.testing.assert_array_equal(pictures, wanted(["a red apple"], seed=1))
    assert not np.array_equal(pictures, plain)
    assert stronger.painter is model.painter and model.painter._cache_size() == 1
    assert model.guided(1.0).painter is not model.painter


def test_pictures_are_painted_by_the_polished_vae_where_there_is_one(run, tmp_path):
    for name in (*STAGES, "tokenizer.model"):
        (tmp_path / name).symlink_to(run / name)
    plain, polished = (DallE2.load(root) for root in (tmp_path, run))
    assert (plain(["a whale"]) != polished(["a whale"])).any()
    jax.tree.map(np.testing.assert_array_equal, plain.params["vae"], polished.params["vae"])
    added = jax.tree.map(np.subtract, polished.params["painter"], plain.params["painter"])
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(added["model"]["encoder"]))
    assert np.any(added["model"]["decoder"]["conv_out"]["kernel"])


def test_a_second_upsampler_enlarges_what_the_first_one_paints(run, tmp_path):
    for name in (*STAGES, "tokenizer.model"):
        (tmp_path / name).symlink_to(run / name)
    first = shrunk("upsampler")
    fields = {field.name: getattr(first.stage, field.name) for field in dataclasses.fields(first.stage)}
    model = dataclasses.replace(first.stage.model, grid=8)
    stage, data = SecondUpsamplerStage(**fields | {"model": model}), dataclasses.replace(first.data, image_size=128)
    assert train(dataclasses.replace(first, stage=stage, data=data), tmp_path) == 0
    assert DallE2.load(tmp_path)("a whale").shape == (1, 128, 128, 3)
    assert SECOND in export_cascade(tmp_path, tmp_path / "out")


@pytest.mark.parametrize(
    "given, said",
    [
        ({"captions": ["a whale", " \t"], "n": 3}, "caption 2 of 2 is empty"),
        ({"captions": []}, "no caption"),
        ({"captions": "a whale", "n": 0}, "n=0, best_of=1: at least one picture"),
        ({"captions": "a whale", "seed": 2**32}, "seed=4294967296: give a whole number from 0 to 4294967295"),
    ],
)
def test_what_can_not_be_painted_is_told(run, given, said):
    model = DallE2.load(run)
    with pytest.raises(ValueError, match=said):
        model(**given)
    with pytest.raises(ValueError, match="guidance nan: give a finite number"):
        model.guided(float("nan"))


def test_a_caption_that_is_cut_is_named_with_what_is_left_of_it(run, recwarn):
    model = DallE2.load(run)
    model.tokens(["a whale"])
    assert not [one for one in recwarn if "captions are cut" in str(one.message)]
    words = "a small red apple with a green leaf on a wooden table, fluent 3d style"
    with pytest.warns(UserWarning, match=f"12 tokens .*: '{words}' has .* and becomes 'a sm") as found:
        tokens = model.tokens(["a whale", words])
    left = str(found[0].message).rpartition("becomes ")[2].strip("'")
    assert words.startswith(left) and model.tokenizer([left], model.context).tolist() == tokens[1:].tolist()


def test_the_commands_arrays_hold_the_captions_pictures_in_the_files_order(run, tmp_path):
    captions = ["a red apple", "a whale", "two dogs"]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"caption": caption}) + "\n" for caption in captions))
    out = tmp_path / "new" / "out.npz"
    args = ["--captions", str(tmp_path / "in.jsonl"), "--n", "2", "--seed", "3", "--out", str(out)]
    assert main(["sample", str(run), *args]) == 0
    images = np.load(out)["images"]
    assert images.shape == (6, 64, 64, 3) and images.dtype == np.uint8
    np.testing.assert_array_equal(images, DallE2.load(run)(captions, n=2, seed=3))


def test_missing_stage_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="prior"):
        DallE2.load(tmp_path)


def test_stages_that_learnt_with_another_vae_are_refused(run, tmp_path):
    for name in (*STAGES[1:], "tokenizer.model"):
        (tmp_path / name).symlink_to(run / name)
    assert train(dataclasses.replace(shrunk("vae"), seed=1), tmp_path) == 0
    with pytest.raises(ValueError, match="was trained on another 'vae'.*train it again"):
        DallE2.load(tmp_path)
    with pytest.raises(ValueError, match="was trained on another 'vae'"):
        export_cascade(tmp_path, tmp_path / "out")


def test_export_holds_the_trained_weights(run, tmp_path):
    assert sorted(export_cascade(run, tmp_path)) == sorted((*STAGES, POLISH))
    _, painter = import_model(tmp_path / "polish")
    jax.tree.map(np.testing.assert_array_equal, painter, DallE2.load(run).params["painter"]["model"])
    model, params = import_model(tmp_path / "decoder")
    assert model == DallE2.load(run).decoder.model
    jax.tree.map(np.testing.assert_array_equal, params, DallE2.load(run).params["decoder"])


def test_stages_without_a_checkpoint_are_left_out_of_the_export_and_named(run, tmp_path, capsys):
    (tmp_path / "run" / "prior").mkdir(parents=True)
    for name in ("clip", "decoder", "polish", "prior/config.json", "tokenizer.model"):
        (tmp_path / "run" / name).symlink_to(run / name)
    assert export_cascade(tmp_path / "run", tmp_path / "out") == ["clip", "decoder"]
    assert capsys.readouterr().err.rstrip().endswith("run: polish, prior")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["clip", "decoder"]


def test_pictures_are_the_same_on_any_mesh(run, monkeypatch):
    monkeypatch.setattr(rules, "SMALL", 512)  # so that tiny models are split too
    captions = ["a red apple", "a whale", "two dogs"]
    one = DallE2.load(run)(captions, n=2, seed=3)
    model = DallE2.load(run, Mesh(data=4, model=2))
    split = [leaf for leaf in jax.tree.leaves(model.params["decoder"]) if not leaf.sharding.is_fully_replicated]
    assert len(split) > 3
    assert np.abs(model(captions, n=2, seed=3).astype(int) - one).max() <= 1  # a level, by rounding
    near = model.clip_embed_images(one)
    np.testing.assert_allclose(near, DallE2.load(run).clip_embed_images(one), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("devices", [1, 3, 6, 8])
def test_a_captions_noise_is_the_same_on_any_number_of_devices(devices):
    mesh, batch, rows = Mesh().build(jax.devices()[:devices]), 4, 10
    model = DallE2(
        None, *(shrunk(name).stage for name in STAGES), params={}, mesh=mesh, context=12, image_size=64, batch=batch
    )
    noise = jax.jit(lambda key, part: part[:, None] + jax.random.normal(key, (len(part), 3)))
    shared = []

    def apply(part, start):
        shared.append(len(part) % devices)
        return noise(_key(5, start), part)

    found = model._sliced(np.zeros(rows, np.float32), apply)
    wanted = [jax.random.normal(_key(5, start), (batch, 3)) for start in range(0, rows, batch)]
    np.testing.assert_array_equal(found, np.concatenate(wanted)[:rows])
    assert not any(shared) and noise._cache_size() == 1


def test_embeddings_are_the_same_on_three_devices(run):
    one = dataclasses.replace(DallE2.load(run), batch=2)
    mesh = Mesh().build(jax.devices()[:3])
    three = dataclasses.replace(one, mesh=mesh, params=jax.device_put(one.params, replicated(mesh)))
    captions = ["a red apple", "a whale", "two dogs"]
    wanted = one.prior_embed(captions, seed=3)
    np.testing.assert_allclose(three.prior_embed(captions, seed=3), wanted, rtol=1e-4, atol=1e-4)


def test_an_upsampler_of_another_factor_than_the_decoders_is_refused():
    experiments = {name: shrunk(name) for name in STAGES}
    stage = dataclasses.replace(experiments["upsampler"].stage, factor=4)
    experiments["upsampler"] = dataclasses.replace(experiments["upsampler"], stage=stage)
    with pytest.raises(ValueError, match="decoder .*factor=2 .*upsampler .*factor=4"):
        DallE2.untrained(experiments, Mesh(data=1).build(jax.devices()[:1]))


def test_stages_that_were_trained_on_other_sizes_are_refused():
    experiments = {name: shrunk(name) for name in STAGES}
    mesh, side = Mesh(data=1).build(jax.devices()[:1]), experiments["decoder"].data.image_size
    sized = lambda one, size: dataclasses.replace(one, data=dataclasses.replace(one.data, image_size=size))
    with pytest.raises(ValueError, match=f"image_size={side}, the upsampler paints data.image_size={2 * side}"):
        DallE2.untrained(experiments | {"upsampler": sized(experiments["upsampler"], 2 * side)}, mesh)
    second = dataclasses.replace(
        experiments["upsampler"], stage=dataclasses.replace(experiments["upsampler"].stage, factor=2)
    )
    assert DallE2.untrained(experiments | {"upsampler2": sized(second, 2 * side)}, mesh).image_size == 2 * side
    with pytest.raises(ValueError, match=f"enlarges stage.factor=2 times to data.image_size={4 * side}"):
        DallE2.untrained(experiments | {"upsampler2": sized(second, 4 * side)}, mesh)


def test_a_plan_knows_the_shapes_of_a_cascade_that_is_not_trained(run):
    model = DallE2.load(run)
    described = DallE2.untrained({name: shrunk(name) for name in (*STAGES, POLISH)}, model.mesh)
    shapes = lambda tree: jax.tree.map(lambda leaf: (leaf.shape, str(leaf.dtype)), tree)
    assert shapes(described.params) == shapes(model.params)
    with pytest.raises(ValueError, match="lacks prior"):
        DallE2.untrained({name: shrunk(name) for name in STAGES if name != "prior"}, model.mesh)
