import dataclasses
import itertools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2i_jax.data import Data, load_dataset
from t2i_jax.data.pipeline import batches, tokens_of
from t2i_jax.data.records import Records
from t2i_jax.parallel.mesh import Mesh
from t2i_jax.text import Tokenizer
from t2i_jax.training.cache import Cache
from t2i_jax.training.features import program_of, stored
from t2i_jax.training.frozen import digest
from t2i_jax.training.inputs import Inputs
from t2i_jax.training.unusable import Unusable
from t2i_jax.training.views import ImageViews, TextViews, stand_ins
from tests.training.toy import Second, Toy, toy_batch

STAGE = Second()
DATA = Data(dataset="emoji64", split="train[:24]", batch=8, image_size=8, context=64, keyword_probability=0.3)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    dataset = load_dataset(DATA.dataset, DATA.split)
    captions = (c for row in dataset.captions for c in row)
    unusable = Unusable(tmp_path_factory.mktemp("run") / "unusable-0.jsonl", dataset)
    return Inputs(DATA, 3, dataset, Tokenizer.train(captions, vocab=512), unusable)


@pytest.fixture(scope="module")
def frozen():
    return {"toy": jax.tree.map(np.asarray, Toy().init(jax.random.key(0), toy_batch(8, 8)))}


def open_cache(inputs, frozen, root, stage=STAGE):
    made_from = inputs.digests() | {"toy": digest(frozen["toy"])}
    mesh = Mesh(data=4, model=2).build()
    return Cache.of(stage, frozen, inputs, made_from, root, 1.0).fill(frozen, mesh)


def first(iterator: Iterator, n: int) -> list:
    return list(itertools.islice(iterator, n))


def test_a_batch_holds_the_features_of_the_very_views_the_pipeline_would_show(inputs, frozen, tmp_path):
    cached = first(open_cache(inputs, frozen, tmp_path).batches(5), 9)
    plain = first(batches(DATA, inputs.dataset, inputs.tokenizer, 3, 5), 9)
    assert any(batch["flipped"].any() for batch in plain)
    for found, batch in zip(cached, plain, strict=True):
        np.testing.assert_array_equal(found["tokens"], batch["tokens"])
        np.testing.assert_array_equal(found["index"], batch["index"])
        wanted = STAGE.features(frozen, jax.tree.map(jnp.asarray, {k: batch[k] for k in ("image", "tokens")}))
        for name, leaf in wanted.items():
            assert found[name].dtype == np.float16
            np.testing.assert_allclose(found[name], leaf, atol=1e-3)


def test_what_is_there_is_not_computed_again(inputs, frozen, tmp_path, monkeypatch):
    open_cache(inputs, frozen, tmp_path)
    monkeypatch.setattr("t2i_jax.training.features.Store.write", None)
    open_cache(inputs, frozen, tmp_path)


class Other(Second):
    """The same stage with another line in it."""

    def image_features(self, frozen, image):
        return {"code": 2.0 * self.toy.code(frozen["toy"], image)}


def directories(inputs, frozen, tmp_path, stage=STAGE):
    open_cache(inputs, frozen, tmp_path, stage)
    return {entry.name for entry in tmp_path.iterdir()}


def test_another_parameter_code_picture_or_caption_has_another_directory(inputs, frozen, tmp_path, monkeypatch):
    before = directories(inputs, frozen, tmp_path)
    assert len(before) == 2

    bias = frozen["toy"]["down"]["bias"].copy()
    bias[3] = np.nextafter(bias[3], 1.0, dtype=np.float32)
    moved = {"toy": frozen["toy"] | {"down": frozen["toy"]["down"] | {"bias": bias}}}
    assert len(directories(inputs, moved, tmp_path) - before) == 2

    assert len(directories(inputs, frozen, tmp_path / "code", Other()) - before) == 1
    smaller = dataclasses.replace(inputs, dataset=load_dataset("emoji64", "train[:23]"))
    assert len(directories(smaller, frozen, tmp_path / "data") - before) == 2
    shorter = dataclasses.replace(inputs, data=dataclasses.replace(DATA, keyword_probability=0.0))
    assert len(directories(shorter, frozen, tmp_path / "captions") - before) == 1
    unflipped = dataclasses.replace(inputs, data=dataclasses.replace(DATA, flip=False))
    assert len(directories(unflipped, frozen, tmp_path / "flip") - before) == 1
    monkeypatch.setattr("t2i_jax.training.cache.resizer", lambda: "another library")
    assert len(directories(inputs, frozen, tmp_path / "resizer") - before) == 1


def test_the_same_function_has_the_same_digest_of_its_program_and_a_constant_counts(frozen):
    shape = jax.ShapeDtypeStruct((8, 8, 8, 3), jnp.uint8)

    def scaled(table):
        return lambda frozen, image: {"x": image.mean((1, 2)) * jnp.asarray(table)}

    table = np.arange(3.0, dtype=np.float32)
    one, features = program_of(scaled(table), frozen, shape)
    assert features == {"x": jax.ShapeDtypeStruct((8, 3), jnp.float32)}
    assert one == program_of(scaled(table.copy()), frozen, shape)[0]
    assert one != program_of(scaled(table + 1.0), frozen, shape)[0]


def test_an_interrupted_write_is_not_a_cache(inputs, frozen, tmp_path, monkeypatch):
    calls = itertools.count()
    real = jax.device_get

    def fail(x):
        if next(calls) == 0:
            raise KeyboardInterrupt
        return real(x)

    monkeypatch.setattr("t2i_jax.training.features.jax.device_get", fail)
    with pytest.raises(KeyboardInterrupt):
        open_cache(inputs, frozen, tmp_path)
    assert not list(tmp_path.iterdir())
    open_cache(inputs, frozen, tmp_path)


def test_a_truncated_file_is_an_error_that_names_it(inputs, frozen, tmp_path):
    open_cache(inputs, frozen, tmp_path)
    (file,) = tmp_path.glob("*/code.npy")
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"code.npy is damaged .*; delete .* to compute it anew"):
        open_cache(inputs, frozen, tmp_path)


def test_no_room_means_no_cache_or_pictures_alone(inputs, frozen, tmp_path):
    made_from = inputs.digests() | {"toy": digest(frozen["toy"])}
    of = lambda gb: Cache.of(STAGE, frozen, inputs, made_from, tmp_path, gb)
    views = len(ImageViews.of(DATA, inputs.dataset.captions))
    pictures = views * 32 * 2 / 2**30
    assert of(0.0) is None
    assert of(pictures * 0.99) is None
    assert set(of(pictures * 1.01).shapes) == {"image"}
    assert set(of(1.0).shapes) == {"image", "text"}
    assert Cache.of(Toy(), {}, inputs, made_from, tmp_path, 1.0) is None


def test_a_data_set_too_large_for_a_cache_is_not_read_for_one(inputs, frozen, tmp_path):
    class Many(Records):
        def __init__(self):
            pass

        def __len__(self):
            return 10**9

        def read(self, indices):
            raise AssertionError("read")

    unread = dataclasses.replace(inputs, dataset=dataclasses.replace(inputs.dataset, source=Many()))
    assert Cache.of(STAGE, frozen, unread, {}, tmp_path, 1.0) is None


def test_a_usable_example_stands_in_for_a_bad_one_with_its_caption(inputs):
    captions = inputs.dataset.captions
    views = ImageViews.of(DATA, captions)
    stand_in = stand_ins(inputs.deal, len(captions), {4: "does not decode", 5: "does not decode"})
    kept = views.replaced(stand_in)
    assert kept.rows(np.array([3, 4, 5, 6]), np.zeros(4, bool)).tolist() == [views.first[i] for i in (3, 6, 6, 6)]
    assert stand_in[3:7].tolist() == [3, 6, 6, 6]


def test_text_views_find_the_row_of_every_text(inputs):
    captions = [["a red apple", "apple"], ["apple"]]
    views = TextViews.of(DATA, captions, tokens_of(DATA, captions, inputs.tokenizer))
    assert len(views) < 6
    rows = views.rows(np.array([0, 0, 1]), np.array([0, 1, 0]))
    np.testing.assert_array_equal(views.tokens[rows], inputs.tokenizer(["a red apple", "apple", "apple"], 64))


def test_floats_are_kept_in_half_precision_and_integers_as_they_are():
    assert stored(jax.ShapeDtypeStruct((2,), jnp.bfloat16)).dtype == np.float16
    assert stored(jax.ShapeDtypeStruct((2,), jnp.int32)).dtype == np.int32
