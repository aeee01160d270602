"""Folders as img2dataset and Hugging Face leave them, and names and texts that a source must not misread."""

from itertools import islice

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from etils import epath

from t2i_jax.data.build import build
from t2i_jax.data.form import serialize
from t2i_jax.data.sources import source_of
from t2i_jax.data.sources.raw import files_below
from t2i_jax.data.sources.tfrecord import records
from tests.data.conftest import fill, picture
from tests.data.test_sources import read, sample, tar_of, tfrecord_of


def addresses(path):
    """The table without pictures that img2dataset puts beside what it wrote."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist([{"url": "https://somewhere/1.jpg", "caption": "a thing", "key": "1"}]), path)


@pytest.mark.parametrize("kind", ["tar", "tfrecord", "folder"])
def test_tables_beside_what_img2dataset_wrote_are_passed_over(kind, tmp_path):
    addresses(tmp_path / "00000.parquet")
    if kind != "folder":
        fill(tmp_path, {"00.jpg": picture(9)})  # by chance
    if kind == "tar":
        tar_of(tmp_path / "00000.tar", sample(1))
    elif kind == "tfrecord":
        tfrecord_of(tmp_path / "00000.tfrecord", [serialize({"jpg": picture(1), "caption": "thing 1"})])
    else:
        fill(tmp_path / "00000", {name: data for name, data in sample(1).items() if not name.endswith("json")})
    good, bad = read(tmp_path)
    assert [item.captions for item in good] == [["thing 1"]] and bad == []


def test_a_table_with_pictures_counts_more_than_pictures_beside_it(tmp_path):
    fill(tmp_path, {"a.jpg": picture(1), "a.txt": "beside"})
    pq.write_table(pa.Table.from_pylist([{"image": picture(2), "text": "within"}]), tmp_path / "b.parquet")
    assert [item.captions for item in read(tmp_path)[0]] == [["within"]]


def test_a_record_of_any_length_is_read(tmp_path):
    lengths = [10, 35_615, 101_151, 10]  # two begin as a gzip file does
    with tfrecord_of(tmp_path / "x.tfrecord", [bytes(length) for length in lengths]).open("rb") as file:
        assert [len(record) for record in records(file)] == lengths


def test_a_picture_whose_name_has_a_dot_is_told(tmp_path):
    files = {"a.jpg": picture(1), "a.seg.png": picture(2), "a.txt": "fine", "IMG_2020.01.05.jpg": picture(3),
             "IMG_2020.01.05.txt": "lost"}  # fmt: skip
    good, bad = read(tar_of(tmp_path / "x.tar", files))
    assert [(item.captions, item.image) for item in good] == [(["fine"], picture(1))]
    assert bad == ["missing picture"]


def test_another_view_is_passed_over_however_large_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr("t2i_jax.data.sources.raw.MAX_BYTES", 10_000)
    files = {"a.depth.tiff": bytes(20_000), "a.jpg": picture(1, kind="JPEG"), "a.txt": "fine"}
    good, bad = read(tar_of(tmp_path / "x.tar", files))
    assert [item.captions for item in good] == [["fine"]] and bad == []


def test_only_the_end_of_a_line_ends_a_caption(tmp_path):
    text = "a cat with\u2028two\x0bor\x85three\r\nanother\rone"
    fill(tmp_path / "in", {"a.jpg": picture(1), "a.txt": text.encode()})
    (item,), _ = read(tmp_path / "in")
    assert item.captions == ["a cat with\u2028two\x0bor\x85three", "another", "one"]
    whole = "Hello\nworld, a photo"  # as img2dataset writes an alternative text: one caption
    (item,), _ = read(tar_of(tmp_path / "x.tar", {"a.jpg": picture(1), "a.txt": whole}))
    assert item.captions == [whole]


def test_a_build_writes_to_no_address(tmp_path, monkeypatch):
    fill(tmp_path / "in", {"a.jpg": picture(1), "a.txt": "a thing"})
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="out=gs://bucket/mine: a build writes to a file system"):
        build(tmp_path / "in", "gs://bucket/mine")
    assert [entry.name for entry in tmp_path.iterdir()] == ["in"]


def test_links_are_followed_except_to_a_folder_that_they_stand_in(tmp_path):
    home = fill(tmp_path / "in", {"a/x.jpg": picture(1), "a/x.txt": "one", "b/y.jpg": picture(2), "b/y.txt": "two"})
    fill(tmp_path / "out", {"z.jpg": picture(3), "z.txt": "three"})
    links = {"loop": ".", "up": "..", "a/back": "..", "a/other": "../b", "b/other": "../a", "c": "../out"}
    for name, to in links.items():
        (home / name).symlink_to(to)
    found = [name for name in islice(files_below(epath.Path(home)), 99) if name.endswith("jpg")]
    assert found == ["a/other/y.jpg", "a/x.jpg", "b/other/x.jpg", "b/y.jpg", "c/z.jpg"]


@pytest.mark.parametrize("kind", ["parquet", "tfrecord", "tar"])
def test_a_folder_named_as_a_split_is_one_and_its_keys_are_its_own(kind, tmp_path):
    places = ["0000", "test/0000", "train/0000", "things/0000", "test/x-val"]
    for number, place in enumerate(places):
        path, row = tmp_path / f"{place}.{kind}", {"image": picture(number), "caption": f"thing {number}"}
        path.parent.mkdir(exist_ok=True)
        if kind == "parquet":
            pq.write_table(pa.Table.from_pylist([row]), path)
        elif kind == "tfrecord":
            tfrecord_of(path, [serialize(row)])
        else:
            tar_of(path, sample(number))
    good, bad = read(tmp_path)
    assert bad == []
    ends = [f"/{i:09d}" if kind == "tar" else "-00000000" for i in range(len(places))]
    splits = ["train", "test", "train", "train", "val"]
    wanted = {place + end: split for place, end, split in zip(places, ends, splits)}
    assert {item.key: item.split for item in good} == wanted
    source = source_of(tmp_path)
    said = [where for unit in source.units() for where, _ in source.read(unit)]
    assert all(any(where.startswith(f"{place}.{kind}") for where in said) for place in places)
