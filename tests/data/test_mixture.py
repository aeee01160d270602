import dataclasses
import itertools
import re

import numpy as np
import pytest

from t2i_jax.data import Data, batches, load_data, load_dataset
from t2i_jax.data.build import build
from t2i_jax.data.deal import deal_of
from t2i_jax.data.pictures import canonical
from t2i_jax.data.sizes import size_of, sizes
from t2i_jax.text import Tokenizer
from tests.data.conftest import fill, picture
from tests.data.test_pipeline import assert_same, damage, joined

TOKENIZER = Tokenizer.train(["a few thing", "a many thing", "other words for it"], vocab=300)
SHAPES = [(16, 16), (40, 20), (20, 50)]
BUCKETS = ((16, 16), (12, 24), (24, 12))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Directory of two data sets, of 12 and 30 pictures."""
    home = tmp_path_factory.mktemp("home")
    for name, count in (("few", 12), ("many", 30)):
        files = {}
        for i in range(count):
            kind = ("PNG", "JPEG")[i % 2]
            files[f"{i:03d}.{kind.lower()}"] = picture(i, SHAPES[i % 3], kind)
            files[f"{i:03d}.txt"] = f"a {name} thing\nother words for it\n"
        build(fill(home / f"{name}.in", files), home / name)
    return home


@pytest.fixture(scope="module")
def data(home):
    parts = ((str(home / "few"), 1.0), (str(home / "many"), 3.0))
    return Data(dataset=parts, batch=8, image_size=16, context=40, buckets=BUCKETS)


def take(data, dataset, count, start=0, **options):
    return list(itertools.islice(batches(data, dataset, TOKENIZER, 3, start, **options), count))


KINDS = pytest.mark.parametrize("fields", [
    {"buckets": ()}, {"buckets": (), "memory_gb": 0.0}, {}, {"memory_gb": 0.0},
], ids=["memory", "stream", "memory, buckets", "stream, buckets"])  # fmt: skip


@KINDS
def test_a_jump_gives_what_iterating_gives_and_processes_make_the_batches_of_one(data, fields):
    data = dataclasses.replace(data, **fields)
    dataset = load_data(data)
    whole = take(data, dataset, 9)
    for start in (1, 8):
        for straight, jumped in zip(whole[start:], take(data, dataset, 9 - start, start)):
            assert_same(straight, jumped)
    shares = [take(data, dataset, 9, process_index=p, process_count=2) for p in range(2)]
    for step, batch in enumerate(whole):
        assert_same(joined([share[step] for share in shares]), batch)


@KINDS
def test_rows_come_by_weight_with_the_captions_of_their_data_set(data, fields):
    data = dataclasses.replace(data, **fields)
    dataset = load_data(data)
    rows = [batch for batch in take(data, dataset, 12)]
    for batch in rows:
        for index, tokens in zip(batch["index"], batch["tokens"]):
            assert TOKENIZER.decode(tokens) in ("other words for it", f"a {'few' if index < 12 else 'many'} thing")
    index = np.concatenate([batch["index"] for batch in rows])
    assert (index < 12).sum() == 24
    few, many = index[index < 12], index[index >= 12]
    if not data.buckets:
        np.testing.assert_array_equal(np.sort(few[:12]), np.arange(12))
        np.testing.assert_array_equal(np.sort(many[:30]), np.arange(12, 42))


@pytest.mark.parametrize("memory_gb", [1.0, 0.0])
def test_all_pictures_of_a_step_have_the_shape_of_the_nearest_aspect(data, memory_gb):
    data = dataclasses.replace(data, memory_gb=memory_gb, flip=False)
    dataset = load_data(data)
    shapes = set()
    for batch in take(data, dataset, 8):
        shape = batch["image"].shape[1:3]
        shapes.add(shape)
        local = np.where(batch["index"] < 12, batch["index"], batch["index"] - 12)
        assert {BUCKETS[i % 3] for i in local.tolist()} == {shape}
    assert shapes == set(BUCKETS)


def test_memory_and_stream_show_the_same_bytes(data):
    dataset = load_data(data)
    for memory, stream in zip(take(data, dataset, 9), take(dataclasses.replace(data, memory_gb=0.0), dataset, 9)):
        assert_same(memory, stream)


@pytest.mark.parametrize("memory_gb", [1.0, 0.0])
def test_a_bad_example_is_replaced_from_its_own_data_set_and_shape(data, memory_gb):
    data = dataclasses.replace(data, memory_gb=memory_gb, max_bad=0.5, flip=False, context=40)
    dataset = load_data(data)
    few, many = dataset.parts
    hurt = dataclasses.replace(dataset, parts=(damage(few, {4: b"rubbish"}), many))
    deal = deal_of(data, dataset)
    clean = {}
    for batch in take(data, dataset, 24):
        clean |= {int(i): image for i, image in zip(batch["index"], batch["image"])}
    seen = 0
    for batch in take(data, hurt, 24, deal=deal):
        for index, image in zip(batch["index"].tolist(), batch["image"]):
            np.testing.assert_array_equal(image, clean[{4: 7}.get(index, index)])
            seen += index == 4
    assert seen


@pytest.mark.parametrize("memory_gb", [1.0, 0.0])
def test_errors_name_the_data_set(data, memory_gb, home):
    data = dataclasses.replace(data, memory_gb=memory_gb, buckets=())
    dataset = load_data(data)
    few, many = dataset.parts
    hurt = dataclasses.replace(dataset, parts=(damage(few, dict.fromkeys(range(10), b"rubbish")), many))
    with pytest.raises(ValueError, match=r"few train \+ many train are unusable \(\d+ × not a picture in few train"):
        take(dataclasses.replace(data, max_bad=0.005), hurt, 60)
    with pytest.raises(ValueError, match="in (few|many) train: "):
        batches(dataclasses.replace(data, context=4), dataset, TOKENIZER, 0)
    missing = dataclasses.replace(data, dataset=(("emoji64", 1.0), (str(home / "none"), 1.0)))
    with pytest.raises(FileNotFoundError, match=re.escape(str(home / "none"))):
        load_data(missing)


def test_a_mixture_reads_like_a_data_set(data, home):
    dataset = load_data(data)
    few, many = (load_dataset(home / name) for name in ("few", "many"))
    assert len(dataset) == 42
    assert dataset.captions == few.captions + many.captions
    records = dataset.records([13, 2, 13])
    assert [r["index"] for r in records] == [13, 2, 13]
    assert [r["key"] for r in records] == ["many/001", "few/002", "many/001"]
    assert records[0]["image"] == many.records([1])[0]["image"]
    swapped = dataclasses.replace(data, dataset=data.dataset[::-1])
    assert len({dataset.digest, load_data(swapped).digest, few.digest, many.digest}) == 4
    with pytest.raises(IndexError, match="few \\+ many has examples 0 to 41"):
        dataset.records([42])


def test_sizes_are_read_from_headers_once_and_kept_under_the_digest(home, tmp_path, monkeypatch):
    few = load_dataset(home / "few")
    table = sizes(few, tmp_path)
    assert [tuple(row) for row in table[:3]] == [(16, 16), (20, 40), (50, 20)]
    (file,) = tmp_path.iterdir()
    assert few.digest in file.name
    monkeypatch.setattr("t2i_jax.data.sizes._read", None)
    np.testing.assert_array_equal(sizes(few, tmp_path), table)
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(ValueError, match=r"sizes-.*npy is damaged.*delete it"):
        sizes(few, tmp_path)


def test_a_turned_picture_counts_as_it_is_shown_and_rubbish_as_unknown():
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6
    assert size_of(picture(0, (40, 20), "JPEG")) == (20, 40)
    assert size_of(picture(0, (40, 20), "JPEG", exif=exif)) == (40, 20)
    assert size_of(b"rubbish") == (0, 0)


def test_a_picture_with_broken_exif_that_a_build_takes_counts_as_it_stands():
    image = picture(0, (40, 20), exif=b"Exif\0\0garbage")
    assert canonical(image) == (image, (20, 40))
    assert size_of(image) == (20, 40)


@pytest.mark.parametrize("fields, says", [
    ({"dataset": ()}, "name at least one data set"),
    ({"dataset": (("a", 0.0),)}, "a weight from 1e-6 to 1e9"),
    ({"dataset": (("a", 1.0), ("a", 2.0))}, "stand there twice; add up their weights"),
    ({"dataset": (("a", 1.0), ("b", 2.0)), "split": ("x",)}, "1 splits for 2 data sets"),
    ({"split": ("x", "y")}, "2 splits for the one data set emoji64"),
    ({"buckets": ((0, 8),)}, "a height and a width of at least 1"),
    ({"buckets": ((8, 8), (8, 8))}, "stands there twice"),
])  # fmt: skip
def test_impossible_mixtures_and_buckets_are_refused(fields, says):
    with pytest.raises(ValueError, match=says):
        Data(**fields)
