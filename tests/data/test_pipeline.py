import dataclasses
import itertools
import shutil
import subprocess
import sys

import numpy as np
import pytest

from t2i_jax.data import Data, arrays, batches, load_dataset, order, texts_of
from t2i_jax.data.build import build
from t2i_jax.data.dataset import DAMAGE
from t2i_jax.data.form import serialize
from t2i_jax.data.ops import may_flip
from t2i_jax.data.records import Records
from t2i_jax.text import Tokenizer, fold
from tests.data.conftest import fill, folder_of, picture

TOKENIZER = Tokenizer.train(["thing a of the kind pointing left", "thing b c", "a small drawing of it"], vocab=300)
SMALL = Data(batch=8, image_size=16, context=60, keyword_probability=0.25)
STREAM = dataclasses.replace(SMALL, memory_gb=0.0)
MEMORY_AND_STREAM = pytest.mark.parametrize("data", [SMALL, STREAM], ids=["memory", "stream"])


def take(data, dataset, count, start=0, seed=3, **options):
    return list(itertools.islice(batches(data, dataset, TOKENIZER, seed, start, **options), count))


def assert_same(left, right):
    assert left.keys() == right.keys()
    for name in left:
        assert left[name].dtype == right[name].dtype, name
        np.testing.assert_array_equal(left[name], right[name], err_msg=name)


def joined(parts):
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@MEMORY_AND_STREAM
def test_a_batch_has_the_promised_arrays(data, mixed):
    (batch,) = take(data, mixed, 1)
    want = {"image": (np.uint8, (8, 16, 16, 3)), "tokens": (np.int32, (8, 60)), "index": (np.int32, (8,)),
            "caption": (np.int32, (8,)), "flipped": (np.bool_, (8,))}  # fmt: skip
    assert {name: (array.dtype.type, array.shape) for name, array in batch.items()} == want


@MEMORY_AND_STREAM
def test_a_jump_to_any_step_gives_what_iterating_gives(data, mixed):
    whole = take(data, mixed, 12)
    for start in (1, 4, 11):
        for straight, jumped in zip(whole[start:], take(data, mixed, 12 - start, start)):
            assert_same(straight, jumped)


@MEMORY_AND_STREAM
@pytest.mark.parametrize("processes", [2, 4])
def test_processes_together_make_the_batches_of_one(data, processes, mixed):
    alone = take(data, mixed, 6)
    shares = [take(data, mixed, 6, process_index=p, process_count=processes) for p in range(processes)]
    for step, batch in enumerate(alone):
        assert_same(joined([share[step] for share in shares]), batch)


@MEMORY_AND_STREAM
def test_each_epoch_has_every_example_once_in_the_order_of_the_seed(data, mixed):
    rows = [batch["index"] for batch in take(data, mixed, 10)]
    for step, row in enumerate(rows):
        np.testing.assert_array_equal(row, order(3, step, 8, 37))
    np.testing.assert_array_equal(np.sort(np.concatenate(rows)[37:74]), np.arange(37))
    assert (take(data, mixed, 1, seed=4)[0]["index"] != rows[0]).any()


def test_memory_and_stream_make_the_same_choices_and_the_same_pictures_where_nothing_is_resized():
    dataset = load_dataset("emoji64", "val_pair")
    data = Data(batch=32, context=400)
    for memory, stream in zip(take(data, dataset, 3), take(dataclasses.replace(data, memory_gb=0.0), dataset, 3)):
        assert_same(memory, stream)


def test_memory_and_stream_resize_alike(mixed):
    for memory, stream in zip(take(SMALL, mixed, 4), take(STREAM, mixed, 4)):
        difference = np.abs(memory.pop("image").astype(int) - stream.pop("image"))
        assert difference.mean() < 8  # unrelated pictures differ by 60
        assert_same(memory, stream)


@MEMORY_AND_STREAM
def test_a_visit_keeps_its_choices_when_the_batch_size_changes(data, mixed):
    small = joined(take(data, mixed, 6))
    large = joined(take(dataclasses.replace(data, batch=16), mixed, 3))
    assert_same(small, large)


@MEMORY_AND_STREAM
def test_pictures_are_the_evaluations_ones_mirrored_only_where_captions_allow(data):
    dataset = load_dataset("emoji64", "val_concept")
    images, captions = arrays(dataset, 64)
    allowed = np.array([may_flip(row) for row in captions])
    batch = joined(take(dataclasses.replace(data, image_size=64, batch=64, context=400), dataset, 5))
    flipped, index = batch["flipped"], batch["index"]
    np.testing.assert_array_equal(batch["image"][~flipped], images[index[~flipped]])
    np.testing.assert_array_equal(batch["image"][flipped], images[index[flipped], :, ::-1])
    assert allowed[index[flipped]].all()
    assert 0.35 < flipped[allowed[index]].mean() < 0.65
    still = joined(take(dataclasses.replace(data, image_size=64, context=400, flip=False), dataset, 3))
    assert not still["flipped"].any()


@MEMORY_AND_STREAM
def test_every_text_is_drawn_and_its_tokens_are_those_of_the_named_text(data, mixed):
    texts = [texts_of(row, True) for row in mixed.captions]
    seen = set()
    for batch in take(data, mixed, 60):
        for index, caption, tokens in zip(batch["index"], batch["caption"], batch["tokens"]):
            assert TOKENIZER.decode(tokens) == fold(texts[index][caption])
            seen.add((int(index), int(caption)))
    keyword_share = np.mean([caption >= len(mixed.captions[index]) for index, caption in seen])
    assert {index for index, _ in seen} == set(range(37))
    assert 0.2 < keyword_share < 0.6
    plain = joined(take(dataclasses.replace(data, keyword_probability=0.0), mixed, 20))
    assert (plain["caption"] < [len(mixed.captions[i]) for i in plain["index"]]).all()


@MEMORY_AND_STREAM
def test_without_images_all_else_stays(data, mixed):
    for batch, without in zip(take(data, mixed, 5), take(data, mixed, 5, images=False)):
        batch.pop("image")
        assert_same(batch, without)


def damage(dataset, bad: dict[int, bytes | None]):
    """The data set with other picture bytes, or without captions, at some indices."""

    class Damaged(Records):
        def read(self, indices):
            out = dataset.source.read(indices)
            for place, index in enumerate(indices):
                if index in bad:
                    image = bad[index]
                    kept = dataset.records([index])[0]
                    out[place] = serialize(
                        {"image": kept["image"] if image is None else image, "key": kept["key"],
                         "captions": [] if image is None else kept["captions"]}
                    )  # fmt: skip
            return out

    records = Damaged([])
    records._pieces, records._ends = dataset.source._pieces, dataset.source._ends
    return dataclasses.replace(dataset, source=records)


BROKEN = {3: b"", 4: b"rubbish", 20: picture(1, (30, 30))[:-60], 36: picture(2, (64, 64), "JPEG")[:700], 11: None}


@MEMORY_AND_STREAM
def test_bad_examples_are_replaced_by_the_next_usable_one_and_the_rest_is_untouched(data, mixed):
    data = dataclasses.replace(data, max_bad=0.5)
    clean = joined(take(dataclasses.replace(data, flip=False), mixed, 30))
    hurt = joined(take(dataclasses.replace(data, flip=False), damage(mixed, BROKEN), 30))
    np.testing.assert_array_equal(clean["index"], hurt["index"])
    picture_of = {int(i): image for i, image in zip(clean["index"], clean["image"])}
    stand_in = {3: 5, 4: 5, 20: 21, 36: 0, 11: 12}
    for index, image in zip(hurt["index"].tolist(), hurt["image"]):
        np.testing.assert_array_equal(image, picture_of[stand_in.get(index, index)])


def test_processes_replace_bad_examples_alike(mixed):
    data = dataclasses.replace(STREAM, max_bad=0.5)
    hurt = damage(mixed, BROKEN)
    alone = take(data, hurt, 8)
    shares = [take(data, hurt, 8, process_index=p, process_count=2) for p in range(2)]
    for step, batch in enumerate(alone):
        assert_same(joined([share[step] for share in shares]), batch)


@pytest.mark.parametrize("rows, pixels", [(3, 2**24), (64, 5 * 16 * 16 * 3), (64, 1)])
def test_a_step_in_pieces_is_the_step_in_one(rows, pixels, mixed, monkeypatch):
    data, hurt = dataclasses.replace(STREAM, max_bad=0.5), damage(mixed, BROKEN)
    whole, told = take(data, hurt, 8), {}
    monkeypatch.setattr("t2i_jax.data.stream._PIECE", rows)
    monkeypatch.setattr("t2i_jax.data.stream._PIXELS", pixels)
    for one, cut in zip(whole, take(data, hurt, 8, unusable=told.update), strict=True):
        assert_same(one, cut)
    assert told.keys() == BROKEN.keys()


@MEMORY_AND_STREAM
def test_too_many_bad_examples_stop_the_run_with_a_report(data, mixed):
    hurt = damage(mixed, dict.fromkeys(range(0, 36, 3), b"rubbish"))
    with pytest.raises(ValueError, match=r"unusable \(\d+ × not a picture\).*data.max_bad=0.01"):
        take(data, hurt, 200)
    with pytest.raises(ValueError, match="unusable"):
        take(dataclasses.replace(data, max_bad=1.0), damage(mixed, dict.fromkeys(range(37), b"")), 1)


def test_while_streaming_a_share_of_bad_examples_is_a_share_of_the_set():
    data = dataclasses.replace(STREAM, batch=64, truncate=True, max_bad=0.05)
    hurt = damage(load_dataset("emoji64", "train[:400]"), dict.fromkeys(range(0, 400, 10), b"rubbish"))
    with pytest.raises(ValueError, match=r"^\d\d of [1-4]\d\d examples of emoji64 train\[:400\] are unusable"):
        take(data, hurt, 7)
    assert len(take(dataclasses.replace(data, max_bad=0.1), hurt, 14)) == 14


def test_one_bad_example_in_the_first_batch_of_a_large_set_does_not_stop_the_run():
    emoji = load_dataset("emoji64")
    data = dataclasses.replace(STREAM, truncate=True, max_bad=0.001)
    first = int(order(3, 0, 8, len(emoji))[0])
    told = {}
    take(data, damage(emoji, {first: b"rubbish"}), 1, unusable=told.update)
    assert first in told


def test_a_file_that_cannot_be_read_does_not_stop_the_run_while_it_is_a_small_share():
    emoji, after = load_dataset("emoji64"), load_dataset("emoji64", "train[3600:3601]")
    data = dataclasses.replace(STREAM, batch=16, truncate=True, flip=False, max_bad=0.25)
    gone = range(2000, 3600)
    told = {}
    clean, hurt = take(data, emoji, 4), take(data, damage(emoji, dict.fromkeys(gone, b"")), 4, unusable=told.update)
    want, met = arrays(after, 16)[0][0], 0
    for index, old, new in zip(*(joined(clean)[name] for name in ("index", "image")), joined(hurt)["image"]):
        met += index in gone
        np.testing.assert_array_equal(new, want if index in gone else old)
    assert met > 3 and set(told) <= set(gone) and len(told) > 1000
    with pytest.raises(ValueError, match=r"of \d+ examples of emoji64 train are unusable \(\d+ × empty file\)"):
        take(dataclasses.replace(data, max_bad=0.1), damage(emoji, dict.fromkeys(gone, b"")), 4)


def flip_a_bit_of_each(dataset, target, places: list[float]):
    """A copy of the data set's directory with bits flipped at some shares of its file's length."""
    shutil.copytree(dataset.directory, target)
    (file,) = target.glob("*.array_record*")
    data = bytearray(file.read_bytes())
    for place in places:
        data[int(place * len(data))] ^= 0x10
    file.write_bytes(data)
    return load_dataset(target)


@pytest.fixture(scope="module")
def flipped(tmp_path_factory):
    """240 pictures in 40-pixel PNGs, one record a chunk, and the same with bits flipped in the file."""
    home = tmp_path_factory.mktemp("flipped")
    files = {f"{i:03d}.png": picture(i, (40, 40)) for i in range(240)}
    build(fill(home / "in", files | {f"{i:03d}.txt": f"thing {i}" for i in range(240)}), home / "whole")
    whole = load_dataset(home / "whole")
    hurt = flip_a_bit_of_each(whole, home / "hurt", [0.3, 0.31, 0.6])
    damaged = [r["index"] for r in hurt.records(range(240)) if DAMAGE in r]
    assert 2 <= len(damaged) <= 12  # as many as share a chunk
    return whole, hurt, damaged


@MEMORY_AND_STREAM
def test_flipped_records_are_replaced_and_one_process_or_two_make_the_same_batches(data, flipped):
    whole, hurt, damaged = flipped
    data = dataclasses.replace(data, max_bad=0.1, flip=False, context=200)
    clean = joined(take(data, whole, 30))
    alone = take(data, hurt, 30)
    shares = [take(data, hurt, 30, process_index=p, process_count=2) for p in range(2)]
    for step, batch in enumerate(alone):
        assert_same(joined([share[step] for share in shares]), batch)
    stand_in = {}
    for index in reversed(range(240)):
        stand_in[index] = stand_in[(index + 1) % 240] if index in damaged else index
    picture_of = {int(i): image for i, image in zip(clean["index"], clean["image"])}
    got = joined(alone)
    np.testing.assert_array_equal(got["index"], clean["index"])
    for index, image in zip(got["index"].tolist(), got["image"]):
        np.testing.assert_array_equal(image, picture_of[stand_in[index]])


@MEMORY_AND_STREAM
def test_more_flipped_records_than_allowed_stop_the_run_and_the_report_names_the_reason(data, flipped):
    with pytest.raises(ValueError, match=r"unusable \(\d+ × damaged record\), more than data.max_bad=0.0"):
        take(dataclasses.replace(data, max_bad=0.0, context=200), flipped[1], 30)


def test_evaluation_refuses_bad_examples_and_names_the_first(mixed):
    with pytest.raises(ValueError, match="1 of 37 .* 020: does not decode"):
        arrays(damage(mixed, {20: BROKEN[20]}), 16)


@MEMORY_AND_STREAM
def test_captions_longer_than_the_context_are_refused_with_the_fix_or_cut(data, mixed):
    short = dataclasses.replace(data, context=10)
    with pytest.raises(ValueError, match=r"data.context=10 tokens; the longest has \d+.*data.truncate"):
        batches(short, mixed, TOKENIZER, 0)
    (batch,) = take(dataclasses.replace(short, truncate=True), mixed, 1)
    assert batch["tokens"].shape == (8, 10)
    assert (batch["tokens"][:, -1] == TOKENIZER.eos).any()


@pytest.mark.parametrize("fields, says", [
    ({"batch": 0}, "data.batch=0"),
    ({"context": 2}, "data.context=2"),
    ({"keyword_probability": 1.5}, "data.keyword_probability=1.5"),
    ({"max_bad": -0.1}, "data.max_bad=-0.1"),
    ({"caption_weights": (0.0, 1.0)}, "the first must be positive"),
])  # fmt: skip
def test_impossible_settings_are_refused(fields, says):
    with pytest.raises(ValueError, match=says):
        Data(**fields)


def test_a_batch_that_processes_cannot_share_is_refused_at_once(mixed):
    with pytest.raises(ValueError, match="data.batch=8 is not divisible by 3 processes; the nearest is 9"):
        batches(SMALL, mixed, TOKENIZER, 0, process_index=0, process_count=3)


def test_a_process_that_leaves_a_stream_running_ends_cleanly():
    code = """
from t2i_jax.data import Data, batches, load_dataset
from t2i_jax.text import Tokenizer
stream = batches(Data(memory_gb=0.0, truncate=True), load_dataset("emoji64"), Tokenizer.train(["a dog"], vocab=300), 0)
print(next(stream)["image"].shape)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "(64, 64, 64, 3)\n"), done.stderr


def test_a_set_smaller_than_a_batch_fills_it_from_several_epochs(tmp_path):
    build(folder_of(tmp_path / "in", 3), tmp_path / "three")
    (batch,) = take(SMALL, load_dataset(tmp_path / "three"), 1)
    np.testing.assert_array_equal(np.bincount(batch["index"][:6]), [2, 2, 2])
