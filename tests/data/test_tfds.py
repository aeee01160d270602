"""Data sets of TFDS form as sources of a build."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from t2i_jax.data import load_dataset
from t2i_jax.data.build import build
from t2i_jax.data.dataset import EMBEDDED
from t2i_jax.data.sources import source_of
from tests.data.conftest import picture
from tests.data.test_sources import read


@pytest.fixture
def home(tmp_path, monkeypatch):
    """TFDS's folder with a data set "mine" of two splits, of several files each."""
    for split, numbers in (("train", range(5)), ("val", range(5, 8))):
        rows = [{"image": picture(i), "captions": [f"thing {i}", f"another {i}"], "key": f"k{i}", "url": f"u{i}",
                 "tags": ["a", "b"][: i % 3]} for i in numbers]  # fmt: skip
        (tmp_path / "in").mkdir(exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in" / f"x-{split}.parquet")
    manifest = build(tmp_path / "in", tmp_path / "tfds" / "mine", shard_mb=0)
    assert [len(split["files"]) for split in manifest["splits"].values()] == [5, 3]
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    monkeypatch.setattr("t2i_jax.data.sources.tfds._UNIT", 2)
    return tmp_path / "tfds"


@pytest.mark.parametrize("given", ["mine", "mine:1.0.0", "{home}/mine", "{home}/mine/1.0.0"])
def test_a_data_set_built_from_another_by_name_or_directory_has_its_splits_and_records(given, home, tmp_path):
    manifest = build(given.format(home=home), tmp_path / "out")
    assert manifest["skipped"] == {} and sorted(manifest["splits"]) == ["train", "val"]
    for split in ("train", "val"):
        there, here = (load_dataset(path, split) for path in (home / "mine", tmp_path / "out"))
        assert len(there) == len(here)
        assert there.records(range(len(there))) == here.records(range(len(here)))


def test_every_record_of_the_embedded_set_is_in_one_unit():
    source, counts = source_of("emoji64"), {}
    for unit in source.units():
        split = unit.path.partition("-")[2].partition(".")[0]
        assert unit.first == counts.get(split, 0)
        counts[split] = unit.last
    assert counts == {split: len(load_dataset("emoji64", split)) for split in ("train", "val_concept", "val_pair")}


def test_damaged_records_of_a_data_set_are_counted_and_the_others_taken(tmp_path):
    for path in (EMBEDDED["emoji64"] / "1.0.0").iterdir():
        data = bytearray(path.read_bytes())
        if "val_pair" in path.name:
            data[200_000:200_100] = bytes(100)
        (tmp_path / path.name).write_bytes(data)
    source, found = source_of(tmp_path), []
    for unit in source.units():
        found += [item for _, item in source.read(unit)] if "val_pair" in unit.path else []
    bad = [item.reason for item in found if isinstance(item, Exception)]
    assert 1 <= len(bad) <= 16 and set(bad) == {"damaged record"}
    assert len(found) == 307


def test_a_name_of_nothing_is_refused(home):
    with pytest.raises(FileNotFoundError, match="no such folder or file: theirs, nor has TFDS prepared"):
        read("theirs")


def test_a_folder_counts_more_than_a_name_of_tfds(home, tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="the folder mine is empty"):
        read("mine")
