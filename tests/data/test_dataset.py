import hashlib
import json
import re
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from t2i_jax.data import arrays, load_dataset
from t2i_jax.data.build import build
from t2i_jax.data.dataset import DAMAGE, EMBEDDED
from tests.data.conftest import fill, folder_of, picture
from tests.data.test_sources import tfrecord_of

HOME = EMBEDDED["emoji64"]
COUNTS = {"train": 6769, "val_pair": 307, "val_concept": 314}


@pytest.mark.parametrize("split, count", COUNTS.items())
def test_the_embedded_set_has_its_splits_captions_and_a_licence_on_each_picture(split, count):
    dataset = load_dataset("emoji64", split)
    records = dataset.records(range(len(dataset)))
    assert len(records) == count == len({r["key"] for r in records})
    assert {r["license"] for r in records} == {"Apache-2.0", "MIT", "CC-BY-4.0"}
    assert {r["style"] for r in records} == {"noto", "twemoji", "fluent-3d", "fluent-flat"}
    assert all(r["captions"] and r["source"].startswith("npm:") and isinstance(r["keywords"], list) for r in records)
    assert [r["captions"] for r in records] == dataset.captions


def test_no_validation_thing_and_style_is_in_training_and_but_three_drawings_of_families_a_split():
    train, pair, concept = (load_dataset("emoji64", s) for s in ("train", "val_pair", "val_concept"))
    train, pair, concept = (d.records(range(len(d))) for d in (train, pair, concept))
    assert not {(r["name"], r["style"]) for r in train} & {(r["name"], r["style"]) for r in pair}
    assert not {r["name"] for r in train} & {r["name"] for r in concept}
    drawn = {r["image"] for r in train}
    for split in (pair, concept):  # some styles draw all families of four alike
        same = [r["name"] for r in split if r["image"] in drawn]
        assert len(same) == 3 and all(name.startswith("family, ") for name in same)


def test_the_embedded_set_fits_14_mb_brings_its_notice_and_matches_its_manifest():
    files = [p for p in HOME.rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) <= 14_000_000
    notice = (HOME / "NOTICE.md").read_text()
    for owner in ("Google LLC", "Twitter, Inc", "Microsoft Corporation", "Unicode, Inc.", "Miles", "CC-BY-4.0"):
        assert owner in notice
    manifest = json.loads((HOME / "1.0.0" / "manifest.json").read_text())
    for facts in manifest["splits"].values():
        for name, digest in facts["files"].items():
            assert hashlib.sha256((HOME / "1.0.0" / name).read_bytes()).hexdigest() == digest


def test_tfds_itself_reads_the_embedded_set_and_tensorflow_shows_the_same_pictures():
    import tensorflow as tf

    # TFDS's numpy decoding, where OpenCV is absent, shows a palette's indices in place of its colours
    as_stored = {"image": tfds.decode.SkipDecoding()}
    source = tfds.builder_from_directory(HOME / "1.0.0").as_data_source("val_pair", decoders=as_stored)
    dataset = load_dataset("emoji64", "val_pair")
    images, captions = arrays(dataset, 64)
    assert len(source) == len(images) == len(dataset)
    for index in (0, 17, 306):
        np.testing.assert_array_equal(tf.io.decode_image(source[index]["image"], 3), images[index])
        assert [c.decode() for c in source[index]["captions"]] == captions[index]


def test_records_come_in_the_order_asked_and_outside_indices_are_refused():
    dataset = load_dataset("emoji64", "val_pair")
    keys = [r["key"] for r in dataset.records(range(10))]
    again = dataset.records(np.array([7, 0, 7]))
    assert [r["key"] for r in again] == [keys[7], keys[0], keys[7]]
    assert [r["index"] for r in again] == [7, 0, 7]
    assert dataset.records([]) == []
    for index in (-1, 307):
        with pytest.raises(IndexError, match="0 to 306"):
            dataset.records([index])


def test_slices_of_tfds_work_and_have_digests_of_their_own():
    part = load_dataset("emoji64", "val_pair[5:8]")
    assert len(part) == 3
    assert part.records([0])[0]["key"] == load_dataset("emoji64", "val_pair").records([5])[0]["key"]
    both = load_dataset("emoji64", "val_pair+val_concept")
    assert len(both) == 621
    assert both.records([307])[0]["key"] == load_dataset("emoji64", "val_concept").records([0])[0]["key"]
    splits = ("val_pair", "val_concept", "val_pair[5:8]", "val_pair+val_concept")
    assert len({load_dataset("emoji64", split).digest for split in splits}) == 4
    assert load_dataset("emoji64", "val_pair").digest == load_dataset(HOME, "val_pair").digest


def test_a_prepared_tfds_name_is_found_and_its_newest_version_taken(tmp_path, monkeypatch):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(3):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"number {i}")
    for version in ("1.0.0", "10.0.0", "9.0.0"):
        build(folder, tmp_path / "home" / "things", version=version)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "home"))
    assert load_dataset("things").directory.name == "10.0.0"
    assert load_dataset("things:9.0.0").directory.name == "9.0.0"
    assert len(load_dataset("things")) == 3
    kinds = tmp_path / "home" / "kinds"  # as TFDS's coco_captions has 2014
    build(folder, kinds / "small", version="1.0.0")
    assert load_dataset("kinds").directory == kinds / "small" / "1.0.0"
    build(folder, kinds / "large", version="1.0.0")
    with pytest.raises(ValueError, match="kinds/large, kinds/small"):
        load_dataset("kinds")
    with pytest.raises(FileNotFoundError, match="things:2.0.0"):
        load_dataset("things:2.0.0")
    assert load_dataset("kinds/small").directory == kinds / "small" / "1.0.0"


def test_a_digest_without_a_manifest_follows_the_content(tmp_path):
    def copy(change: bool) -> str:
        target = tmp_path / str(change)
        target.mkdir()
        for path in (HOME / "1.0.0").iterdir():
            data = path.read_bytes()
            if path.name != "manifest.json":
                middle = len(data) // 2
                flip = change and "val_pair" in path.name
                (target / path.name).write_bytes(data[:middle] + b"\xff" * 4 + data[middle + 4 :] if flip else data)
        return load_dataset(target, "val_pair").digest

    assert copy(False) != copy(True)


def test_damaged_records_are_told_and_all_others_read(tmp_path):
    for path in (HOME / "1.0.0").iterdir():
        data = bytearray(path.read_bytes())
        if "val_pair" in path.name:
            data[200_000:200_100] = bytes(100)
        (tmp_path / path.name).write_bytes(data)
    whole, hurt = (load_dataset(path, "val_pair") for path in (HOME, tmp_path))
    records = hurt.records(range(len(hurt)))
    damaged = [r["index"] for r in records if DAMAGE in r]
    assert 1 <= len(damaged) <= 16  # records compressed together
    assert all("val_pair.array_record" in r[DAMAGE] for r in records if DAMAGE in r)
    rest = [i for i in range(len(hurt)) if i not in damaged]
    assert [records[i] for i in rest] == whole.records(rest)


@pytest.mark.parametrize("fault", ["gone", "cut", "empty"])
def test_of_a_file_that_is_gone_or_cut_no_record_is_made_up(fault, tmp_path):
    for path in (HOME / "1.0.0").iterdir():
        data = path.read_bytes()
        if "val_pair" in path.name and fault != "gone":
            data = data[: {"cut": len(data) // 2 + 5, "empty": 0}[fault]]
        (tmp_path / path.name).write_bytes(data)
    dataset = load_dataset(tmp_path, "val_pair")
    if fault == "gone":
        next(tmp_path.glob("*val_pair*")).unlink()
        with pytest.raises(FileNotFoundError, match="lacks its file .*val_pair"):
            dataset.records([0])
    else:
        assert all(DAMAGE in record for record in dataset.records(range(len(dataset))))


@pytest.mark.parametrize(
    "name, error, says",
    [
        ("emoji46", FileNotFoundError, "Did you mean 'emoji64'"),
        ("coco_captions/2014", FileNotFoundError, r"builder\('coco_captions/2014', file_format='array_record'\)"),
        ("./nowhere", FileNotFoundError, "no such directory"),
        ("/nowhere/at all", FileNotFoundError, "no such directory"),
        ("pictures", ValueError, "t2i data build .*pictures --out"),
        ("empty", ValueError, "is empty"),
        ("other", ValueError, "neither a data set"),
        ("file.txt", ValueError, "is a file"),
    ],
)
def test_what_is_no_data_set_is_refused_with_the_fix(name, error, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    for folder in ("pictures", "empty", "other"):
        (tmp_path / folder).mkdir()
    (tmp_path / "pictures" / "a.png").touch()
    (tmp_path / "other" / "a.doc").touch()
    (tmp_path / "file.txt").touch()
    with pytest.raises(error, match=says):
        load_dataset(name)


BUILDER = """
import tensorflow_datasets as tfds

class Tiny(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict({"image": tfds.features.Image(), "caption": tfds.features.Text()})
        )

    def _split_generators(self, downloads):
        return {"train": [(0, {"image": "0.png", "caption": "a thing"})]}

    _generate_examples = None
"""


def test_the_call_that_is_advised_for_a_name_of_tfds_prepares_what_the_name_then_reads(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    with pytest.raises(FileNotFoundError) as told:
        load_dataset("tiny")
    call = re.search(r'`python -c "(.+)"`', str(told.value))[1]
    code = fill(tmp_path / "code", {"0.png": picture(0), "tiny/__init__.py": "", "tiny/tiny.py": BUILDER})
    subprocess.run([sys.executable, "-c", f"import tiny.tiny; {call}"], cwd=code, check=True, capture_output=True)
    (record,) = load_dataset("tiny").records([0])
    assert (record["image"], record["captions"]) == (picture(0), ["a thing"])


def test_the_build_that_is_advised_for_tfrecord_files_of_tfds_keeps_pictures_and_captions(tmp_path):
    build(folder_of(tmp_path / "in", 3), tmp_path / "set")
    whole = load_dataset(tmp_path / "set")
    home = fill(tmp_path / "tfds", {path.name: path.read_bytes() for path in whole.directory.glob("*.json")})
    info = home / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    tfrecord_of(home / "set-train.tfrecord-00000-of-00001", whole.source.read(range(3)))
    with pytest.raises(ValueError, match=f"`t2i data build {home} --out DIR`"):
        load_dataset(home)
    build(home, tmp_path / "out")
    assert load_dataset(tmp_path / "out").records(range(3)) == whole.records(range(3))


def test_an_unknown_split_names_those_there_are():
    with pytest.raises(ValueError, match="it has train, val_concept, val_pair"):
        load_dataset("emoji64", "validation")


def test_reading_imports_neither_tensorflow_nor_jax_devices():
    code = (
        "import sys; from t2i_jax.data import load_dataset, arrays; arrays(load_dataset('emoji64', 'val_pair'), 32);"
        "print('tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
