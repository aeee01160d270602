import fcntl
import json
import os
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from t2i_jax.cli import USAGE, main
from t2i_jax.data import arrays, commands, load_dataset, sources
from t2i_jax.data.build import build
from t2i_jax.data.choose import Choice
from t2i_jax.data.dataset import check
from t2i_jax.data.pictures import decode, pixels
from t2i_jax.data.sources import folder, raw
from t2i_jax.data.sources.raw import files_below
from t2i_jax.text import Tokenizer
from tests.data.conftest import fill, folder_of, picture


def test_a_folder_comes_back_as_pictures_and_captions_in_order(tmp_path):
    folder = folder_of(tmp_path / "in", 5)
    fill(
        folder, {"deeper/x.jpg": picture(9, (20, 16), "JPEG"), "deeper/x.txt": "\ufeff one  caption \n\none caption\n"}
    )
    manifest = build(folder, tmp_path / "my set")
    dataset = load_dataset(tmp_path / "my set")
    records = dataset.records(range(6))
    assert dataset.name == manifest["name"] == "my_set"
    assert [r["key"] for r in records] == [*(f"00{i}" for i in range(5)), "deeper/x"]
    assert records[5]["captions"] == ["one caption"]
    assert records[0]["captions"] == ["a thing of kind a", "a small drawing of it"]
    assert [r["image"] for r in records[:5]] == [(folder / f"00{i}.png").read_bytes() for i in range(5)]
    assert manifest["splits"]["train"]["records"] == 6
    assert manifest["captions"] == 11
    assert manifest["skipped"] == {}
    np.testing.assert_array_equal(arrays(dataset, 16)[0][2], np.asarray(decode(picture(2)))[:, 2:18])


def test_building_twice_gives_the_same_bytes(tmp_path):
    folder = folder_of(tmp_path / "in", 12)
    build(folder, tmp_path / "one", name="same", holdout=0.3)
    build(folder, tmp_path / "two", name="same", holdout=0.3)
    one, two = (sorted((tmp_path / n / "1.0.0").iterdir()) for n in ("one", "two"))
    assert [p.name for p in one] == [p.name for p in two]
    assert [p.read_bytes() for p in one] == [p.read_bytes() for p in two]


BAD = {
    "empty.png": b"",
    "empty.txt": "a caption",
    "rubbish.jpg": b"\xff\xd8 no picture",
    "rubbish.txt": "a caption",
    "cut.png": picture(1)[:-40],
    "cut.txt": "a caption",
    "wide.png": picture(2, (300, 200)),
    "wide.txt": "a caption",
    "silent.png": picture(3),
    "blank.png": picture(4),
    "blank.txt": " \n\u200b\n\t",
    "latin.png": picture(5),
    "latin.txt": "caf\xe9".encode("latin-1"),
}


def test_bad_pictures_are_left_out_counted_by_reason_and_listed(tmp_path):
    folder = fill(folder_of(tmp_path / "in", 4), BAD)
    manifest = build(folder, tmp_path / "out", choice=Choice(max_pixels=50_000))
    assert manifest["splits"]["train"]["records"] == 4
    assert manifest["skipped"] == {
        "empty file": 1, "not a picture": 1, "does not decode": 1, "too many pixels": 1,
        "missing caption": 1, "empty caption": 1, "caption is not UTF-8": 1,
    }  # fmt: skip
    lines = [json.loads(line) for line in (tmp_path / "out" / "1.0.0" / "skipped.jsonl").read_text().splitlines()]
    assert {line["item"]: line["reason"] for line in lines}["cut.png"] == "does not decode"
    assert len(lines) == 7


def test_nothing_usable_is_an_error_and_leaves_nothing_behind(tmp_path):
    with pytest.raises(ValueError, match=r"nothing usable in .*in: \{.*'empty file': 1"):
        build(fill(tmp_path / "in", BAD), tmp_path / "out", choice=Choice(max_pixels=50_000))
    assert not (tmp_path / "out").exists()


def test_a_build_that_was_cut_short_is_no_data_set_and_the_next_one_starts_clean(tmp_path, monkeypatch):
    folder = folder_of(tmp_path / "in", 6)

    def full_disk(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("t2i_jax.data.build.form.write_metadata", full_disk)
        with pytest.raises(OSError, match="No space"):
            build(folder, tmp_path / "out")
    with pytest.raises(ValueError, match="neither a data set"):
        load_dataset(tmp_path / "out")
    build(folder, tmp_path / "out")
    assert len(load_dataset(tmp_path / "out")) == 6


def test_files_are_split_by_size_and_read_as_one(tmp_path):
    folder = folder_of(tmp_path / "in", 20)
    one, many = (
        build(folder, tmp_path / name, name="x", shard_mb=mb, group=group)
        for name, mb, group in (("one", 256, 1), ("many", 0, 4))
    )
    assert len(one["splits"]["train"]["files"]) == 1
    assert len(many["splits"]["train"]["files"]) == 20
    indices = [19, 0, 7, 7]
    left, right = (load_dataset(tmp_path / name).records(indices) for name in ("one", "many"))
    assert left == right


def test_held_out_pictures_depend_on_their_keys_alone(tmp_path):
    def held(count: int) -> set[str]:
        build(folder_of(tmp_path / f"in{count}", count), tmp_path / f"out{count}", holdout=0.3)
        split = load_dataset(tmp_path / f"out{count}", "val")
        return {r["key"] for r in split.records(range(len(split)))}

    small, large = held(30), held(60)
    assert small == {key for key in large if int(key) < 30}
    assert 8 <= len(large) <= 28


def test_parquet_rows_come_with_their_splits_and_further_texts(tmp_path):
    rows = [
        {"key": f"k{i}", "image": picture(i), "captions": [f"thing {i}", "a thing"], "style": "flat", "tags": ["a"] * i}
        for i in range(4)
    ]
    folder = tmp_path / "in"
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(rows), folder / "set-train.parquet")
    pq.write_table(pa.Table.from_pylist(rows[:1]), folder / "set-val_pair.parquet")
    hugging = [{"image": {"bytes": picture(7), "path": "7.png"}, "text": "seven"}, {"image": None, "text": "none"}]
    pq.write_table(pa.Table.from_pylist(hugging), tmp_path / "test-00000-of-00001.parquet")
    manifest = build(folder, tmp_path / "out")
    assert {split: facts["records"] for split, facts in manifest["splits"].items()} == {"train": 4, "val_pair": 1}
    records = load_dataset(tmp_path / "out").records(range(4))
    assert [(r["key"], r["style"], r["tags"]) for r in records] == [(f"k{i}", "flat", ["a"] * i) for i in range(4)]
    assert records[3]["captions"] == ["thing 3", "a thing"]
    manifest = build(tmp_path / "test-00000-of-00001.parquet", tmp_path / "hugging")
    assert manifest["skipped"] == {"missing picture": 1}
    assert load_dataset(tmp_path / "hugging", "test").records([0])[0]["captions"] == ["seven"]


def test_columns_that_are_called_as_the_readers_own_fields_do_no_harm(tmp_path):
    own = {"damage": "a scratch", "index": "7", "image/filename": "x.png", "captions/text": "no"}
    rows = [{"image": picture(i), "captions": [f"thing {i}"], "key": f"k{i}", **own} for i in range(3)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in.parquet")
    build(tmp_path / "in.parquet", tmp_path / "out")
    records = load_dataset(tmp_path / "out").records(range(3))
    for i, record in enumerate(records):
        check(record)
        assert (record["key"], record["index"], record["damage"]) == (f"k{i}", i, "a scratch")
        assert record["captions"] == [f"thing {i}"] and pixels(record["image"], (16, 20)).shape == (16, 20, 3)


def test_unusual_pictures_are_stored_as_png(tmp_path):
    folder = fill(tmp_path / "in", {"a.bmp": picture(1, kind="BMP"), "a.txt": "a"})
    build(folder, tmp_path / "out")
    image = load_dataset(tmp_path / "out").records([0])[0]["image"]
    assert image.startswith(b"\x89PNG")
    np.testing.assert_array_equal(decode(image), decode(picture(1, kind="BMP")))


@pytest.mark.parametrize("source, options, error, says", [
    ("nowhere", {}, FileNotFoundError, "no such folder or file: .*nowhere"),
    ("empty", {}, ValueError, "the folder .*empty is empty"),
    ("other", {}, ValueError, "no pictures .* in .*other"),
    ("file.txt", {}, ValueError, "neither a folder nor a .parquet"),
    ("in", {"name": "My-Set"}, ValueError, "name='My-Set'"),
    ("in", {"holdout": 1.0}, ValueError, "holdout=1.0"),
    ("in", {"holdout": 0.9999}, ValueError, "left no picture of .* to train on"),
    ("in", {"version": "1.0"}, ValueError, "version='1.0'"),
])  # fmt: skip
def test_wrong_calls_name_the_thing_and_the_fix(source, options, error, says, tmp_path):
    folder_of(tmp_path / "in", 1)
    (tmp_path / "empty").mkdir()
    fill(tmp_path, {"other/a.doc": "x", "file.txt": "x"})
    with pytest.raises(error, match=says):
        build(tmp_path / source, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_an_existing_version_is_never_overwritten(tmp_path):
    folder = folder_of(tmp_path / "in", 2)
    build(folder, tmp_path / "out")
    with pytest.raises(FileExistsError, match=r"1.0.0 is there already; give another version"):
        build(folder, tmp_path / "out")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_is_counted(tmp_path):
    folder = folder_of(tmp_path / "in", 2)
    (folder / "001.png").chmod(0)
    assert build(folder, tmp_path / "out")["skipped"] == {"unreadable file": 1}


def test_the_commands_build_tokenise_and_show(tmp_path, capsys):
    folder = fill(folder_of(tmp_path / "in", 9), {"bad.png": b"", "bad.txt": "bad"})
    commands.build(str(folder), str(tmp_path / "out"))
    said = capsys.readouterr().out
    assert "train: 9 pictures" in said
    assert "left out 1: 1 × empty file" in said
    for name in ("one", "two"):
        commands.tokenizer(str(tmp_path / "out"), str(tmp_path / f"{name}.model"), vocab=300)
    assert (tmp_path / "one.model").read_bytes() == (tmp_path / "two.model").read_bytes()
    assert Tokenizer.load(tmp_path / "one.model").vocab <= 300
    with pytest.raises(ValueError, match="one.model is there already"):  # stages may know it by now
        commands.tokenizer(str(tmp_path / "out"), str(tmp_path / "one.model"), vocab=290)
    commands.inspect(str(tmp_path / "out"), tokenizer=str(tmp_path / "one.model"))
    said = capsys.readouterr().out
    assert re.search(r"examples\W+9 in ", said)
    assert "9 PNG RGB" in said
    assert "tokens a caption" in said


def test_the_command_says_in_a_line_that_its_data_set_is_there_or_being_built(tmp_path, capsys):
    folder, out = folder_of(tmp_path / "in", 1), tmp_path / "out"
    args = ["data", "build", str(folder), "--out", str(out), "--workers", "1"]
    (out / ".1.0.0.part").mkdir(parents=True)
    with (out / ".1.0.0.part" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert main(args) == USAGE
    assert f"t2i data: another process is building {out}; wait for it" in capsys.readouterr().err
    assert main(args) == 0
    assert main(args) == USAGE
    assert f"t2i data: {out / '1.0.0'} is there already; give another version" in capsys.readouterr().err


def test_a_picture_that_is_not_rgb_is_stored_as_it_is_when_every_reader_agrees(tmp_path):
    grey = tmp_path / "in" / "g.png"
    grey.parent.mkdir()
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(grey)
    grey.with_suffix(".txt").write_text("grey")
    build(tmp_path / "in", tmp_path / "out")
    assert load_dataset(tmp_path / "out").records([0])[0]["image"] == grey.read_bytes()


def test_a_build_looks_through_its_source_once_however_many_units_it_has(tmp_path, monkeypatch):
    looked = []
    monkeypatch.setattr("t2i_jax.data.sources.folder._UNIT", 2)
    monkeypatch.setattr(raw, "files_below", lambda path: looked.append(path) or files_below(path))
    for module in (sources, folder):
        monkeypatch.setattr(module, "files_below", raw.files_below)
    build(folder_of(tmp_path / "in", 9), tmp_path / "out")
    assert len(looked) == 2  # what it is, and its units
