import io
import itertools
import json
import struct
import tarfile

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from etils import epath
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st

from t2i_jax.data import load_dataset
from t2i_jax.data.build import build
from t2i_jax.data.crc32c import crc32c, masked
from t2i_jax.data.form import serialize
from t2i_jax.data.pictures import BadPicture
from t2i_jax.data.sources import Raw, source_of
from t2i_jax.data.sources.tar import members
from t2i_jax.data.sources.tfrecord import records
from tests.data.conftest import fill, picture


def tar_of(path, files: dict, kind=tarfile.USTAR_FORMAT):
    """A tar of files by name; a TarInfo in place of bytes is added as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=kind) as tar:
        for name, content in files.items():
            if isinstance(content, tarfile.TarInfo):
                tar.addfile(content)
                continue
            data = content if isinstance(content, bytes) else content.encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def sample(number: int, **facts) -> dict:
    """The three members that img2dataset writes of a picture."""
    key = f"{number:09d}"
    row = {"url": f"https://somewhere/{number}.jpg", "caption": f"thing {number}", "key": key, "status": "success",
           "error_message": None, "width": 20, "height": 16, "exif": "{}", "sha256": "0" * 64, **facts}  # fmt: skip
    return {f"{key}.jpg": picture(number, kind="JPEG"), f"{key}.txt": row["caption"], f"{key}.json": json.dumps(row)}


def tfrecord_of(path, rows: list[bytes]):
    """A TFRecord file, written as its specification says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for row in rows:
            head = struct.pack("<Q", len(row))
            file.write(head + struct.pack("<I", masked(head)) + row + struct.pack("<I", masked(row)))
    return path


def read(path) -> tuple[list[Raw], list[str]]:
    """All of a source: what is usable, and the reasons for the rest."""
    source, good, bad = source_of(path), [], []
    for unit in source.units():
        for where, item in source.read(unit):
            assert where
            good.append(item) if isinstance(item, Raw) else bad.append(item.reason)
    return good, bad


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tars_of_img2dataset_become_a_data_set(kind, tmp_path):
    for tar in range(2):
        files = {}
        for i in range(3):
            files |= sample(10_000 * tar + i, similarity=0.1 * i)
        tar_of(tmp_path / "in" / f"{tar:05d}.tar", files, kind)
    (tmp_path / "in" / "00000_stats.json").write_text("{}")
    manifest = build(tmp_path / "in", tmp_path / "out")
    records = load_dataset(tmp_path / "out").records(range(6))
    assert manifest["skipped"] == {}
    assert [r["key"] for r in records[2:4]] == ["00000/000000002", "00001/000010000"]
    assert records[4]["captions"] == ["thing 10001"]
    assert records[4]["url"] == "https://somewhere/10001.jpg"
    assert records[4]["image"] == picture(10_001, kind="JPEG")


def test_a_tar_reads_as_the_standard_library_reads_it(tmp_path):
    rng = np.random.default_rng(0)
    names = ["a/b.jpg", "x" * 99, "d/" * 60 + "deep.png", "ünïcode/ü" * 12, "n" * 250, "empty"]
    files = {name: rng.bytes(int(rng.integers(0, 3000)) if name != "empty" else 0) for name in names}
    for kind in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        path = tar_of(tmp_path / "x.tar", files, kind)
        with path.open("rb") as file:
            assert {m.name: m.data for m in members(file, lambda name: 10_000)} == files


def link(name: str, to: str, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, to
    return info


def test_links_devices_and_names_that_lead_out_of_a_tar_are_counted_and_never_followed(tmp_path):
    secret = fill(tmp_path, {"secret.jpg": picture(77, kind="JPEG")}) / "secret.jpg"
    files = {
        **sample(1),
        "a.jpg": link("a.jpg", str(secret), tarfile.SYMTYPE), "a.txt": "a link",
        "b.jpg": link("b.jpg", "000000001.jpg", tarfile.LNKTYPE), "b.txt": "a hard link",
        "c.jpg": link("c.jpg", "", tarfile.CHRTYPE), "c.txt": "a device",
        "../d.jpg": picture(3), "../d.txt": "up", "/e.jpg": picture(4), "/e.txt": "absolute",
        "f/../../g.jpg": picture(5), "C:\\h.jpg": picture(6), "folder": link("folder", "", tarfile.DIRTYPE),
        **sample(2),
    }  # fmt: skip
    good, bad = read(tar_of(tmp_path / "x.tar", files))
    assert [item.key for item in good] == ["x/000000001", "x/000000002"]
    assert sorted(bad) == ["link in tar"] * 2 + ["special file in tar"] + ["unsafe name"] * 6
    assert not list(tmp_path.glob("*.txt"))


def test_a_tar_that_claims_absurd_sizes_costs_only_that_member(tmp_path):
    path = tar_of(tmp_path / "x.tar", sample(1) | sample(2))
    data = bytearray(path.read_bytes())
    header = bytearray(data[:512])
    header[124:136] = b"77777777777\0"
    header[148:156] = b"        "
    header[148:156] = b"%06o\0 " % sum(header)
    path.write_bytes(bytes(header) + bytes(data[512:]))
    assert read(path) == ([], ["truncated tar"])
    pax = tarfile.TarInfo("long").tobuf(tarfile.USTAR_FORMAT)  # an extended header of 8 GB
    pax = bytearray(pax)
    pax[156:157], pax[124:136], pax[148:156] = b"x", b"77777777777\0", b"        "
    pax[148:156] = b"%06o\0 " % sum(pax)
    path.write_bytes(bytes(pax) + bytes(data))
    assert read(path)[1] == ["absurd tar header", "truncated tar"]


def test_a_cut_tar_keeps_what_came_before_and_a_broken_header_costs_one_member(tmp_path):
    files = {}
    for i in range(5):
        files |= sample(i)
    path = tar_of(tmp_path / "x.tar", files)
    data = path.read_bytes()
    with tarfile.open(path) as tar:
        starts = {m.name: m.offset for m in tar}
    path.write_bytes(data[: starts["000000003.jpg"] + 700])
    good, bad = read(path)
    assert [item.captions for item in good] == [["thing 0"], ["thing 1"], ["thing 2"]]
    assert bad == ["truncated tar"]
    hurt = bytearray(data)
    hurt[starts["000000002.jpg"] + 3] ^= 1  # its name
    path.write_bytes(hurt)
    good, bad = read(path)
    assert [item.captions[0] for item in good] == ["thing 0", "thing 1", "thing 3", "thing 4"]
    assert sorted(bad) == ["broken tar", "missing picture"]


def test_what_a_tar_lacks_is_told(tmp_path):
    files = {"a.txt": "no picture", "b.jpg": picture(1), "c.jpg": picture(2), "c.json": "{broken", "d.jpg": picture(3),
             "d.json": '{"caption": "from json"}', "e.jpg": picture(4), "e.txt": b"caf\xe9", "f.pyd": b"cos\nsystem",
             "f.jpg": picture(5), "f.txt": "never unpickled"}  # fmt: skip
    good, bad = read(tar_of(tmp_path / "x.tar", files))
    assert [item.captions for item in good] == [["from json"], ["never unpickled"]]
    assert bad == ["missing picture", "missing caption", "broken metadata", "caption is not UTF-8"]


@given(st.binary(max_size=3000))
def test_crc32c_is_the_one_of_the_specification(data):
    def plain(data: bytes) -> int:
        value = 0xFFFFFFFF
        for byte in data:
            value ^= byte
            for _ in range(8):
                value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        return value ^ 0xFFFFFFFF

    assert crc32c(data) == plain(data)
    assert crc32c(b"123456789") == 0xE3069283


def test_tfrecords_that_tensorflow_wrote_become_a_data_set(tmp_path):
    import tensorflow as tf

    def example(i: int) -> bytes:
        of = lambda *values: tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
        score = tf.train.Feature(float_list=tf.train.FloatList(value=[i / 4]))
        features = {"image/encoded": of(picture(i)), "caption": of(b"one", b"two"), "aesthetic": score}
        return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()

    for split, count in (("train", 3), ("val", 1)):
        with tf.io.TFRecordWriter(str(tmp_path / f"set-{split}.tfrecord-00000-of-00001")) as writer:
            for i in range(count):
                writer.write(example(i))
    manifest = build(tmp_path, tmp_path / "out")
    assert {split: facts["records"] for split, facts in manifest["splits"].items()} == {"train": 3, "val": 1}
    records = load_dataset(tmp_path / "out").records(range(3))
    assert [r["image"] for r in records] == [picture(i) for i in range(3)]
    assert records[0]["captions"] == ["one", "two"]
    assert [item.scores["aesthetic"] for item in read(tmp_path)[0][:3]] == [0.0, 0.25, 0.5]


def test_a_flipped_bit_in_a_tfrecord_costs_one_record_and_in_a_length_the_rest(tmp_path):
    rows = [serialize({"image": picture(i), "caption": f"thing {i}"}) for i in range(4)]
    path = tfrecord_of(tmp_path / "x.tfrecord", rows)
    data, second = path.read_bytes(), 16 + len(rows[0])
    for place, captions, reasons in (
        (second + 12 + 50, [0, 2, 3], ["damaged record"]),
        (second + 12 + len(rows[1]), [0, 2, 3], ["damaged record"]),
        (second + 1, [0], ["broken TFRecord file"]),
    ):
        hurt = bytearray(data)
        hurt[place] ^= 4
        path.write_bytes(hurt)
        good, bad = read(path)
        assert [item.captions for item in good] == [[f"thing {i}"] for i in captions]
        assert bad == reasons
    path.write_bytes(data[:-20])
    assert read(path)[1] == ["truncated TFRecord file"]


def test_every_flipped_bit_of_a_small_tfrecord_is_found():
    rows = [b"some bytes of a record", b"another"]
    out = io.BytesIO()
    for row in rows:
        head = struct.pack("<Q", len(row))
        out.write(head + struct.pack("<I", masked(head)) + row + struct.pack("<I", masked(row)))
    data = out.getvalue()
    assert list(records(io.BytesIO(data))) == rows
    for bit in range(8 * len(data)):
        hurt = bytearray(data)
        hurt[bit // 8] ^= 1 << bit % 8
        found = list(records(io.BytesIO(bytes(hurt))))
        assert any(isinstance(one, BadPicture) for one in found)
        assert all(one in rows for one in found if isinstance(one, bytes))


def test_an_image_folder_with_metadata_becomes_a_data_set(tmp_path):
    lines = [{"file_name": f"{i}.png", "text": f"thing {i}", "license": "CC0"} for i in range(3)]
    rows = [*map(json.dumps, lines), "", "{broken", '["no object"]', '{"file_name": 7, "text": "a"}',
            '{"file_name": "gone.png", "text": "a"}', '{"file_name": "../../secret.png", "text": "a"}',
            '{"file_name": "/etc/hostname", "text": "a"}', '{"file_name": "0.png"}', "[" * 100_000]  # fmt: skip
    fill(tmp_path / "in", {"train/metadata.jsonl": "\n".join(rows), "secret.png": picture(9)})
    fill(tmp_path / "in" / "train", {f"{i}.png": picture(i) for i in range(3)})
    fill(tmp_path / "in" / "test", {"metadata.jsonl": '{"file_name": "deep/a.png", "text": "far"}'})
    fill(tmp_path / "in" / "test" / "deep", {"a.png": picture(5)})
    manifest = build(tmp_path / "in", tmp_path / "out")
    assert {split: facts["records"] for split, facts in manifest["splits"].items()} == {"test": 1, "train": 3}
    assert manifest["skipped"] == {
        "broken metadata": 4, "unsafe name": 2, "missing picture": 1, "missing caption": 1
    }  # fmt: skip
    records = load_dataset(tmp_path / "out").records(range(3))
    assert [(r["key"], r["captions"], r["license"]) for r in records] == [
        (f"train/{i}", [f"thing {i}"], "CC0") for i in range(3)
    ]


def test_lines_of_metadata_are_each_read_once_whatever_their_length(tmp_path):
    texts = [f"{i} " + "x" * (i * 37 % 900) for i in range(1234)]
    texts[700] = "y" * 1_200_000
    rows = [json.dumps({"file_name": "a.png", "text": text}) for text in texts]
    fill(tmp_path, {"metadata.jsonl": "\n".join(rows), "a.png": picture(0)})
    source = source_of(tmp_path)
    assert len(list(source.units())) > 2
    good, bad = read(tmp_path)
    assert [item.captions[0] for item in good] == [text for text in texts if len(text) < 1_000_000]
    assert bad == ["broken metadata"]


def test_a_table_of_laion_without_pictures_is_refused_with_the_command_that_fetches_them(tmp_path):
    row = {"URL": "https://somewhere/1.jpg", "TEXT": "a thing", "WIDTH": 20, "HEIGHT": 16, "similarity": 0.3}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "laion.parquet")
    with pytest.raises(ValueError, match=r"laion.parquet has addresses .*column URL.*img2dataset .*--url_col URL"):
        build(tmp_path / "laion.parquet", tmp_path / "out")
    pq.write_table(pa.Table.from_pylist([{"a": 1}]), tmp_path / "laion.parquet")
    with pytest.raises(ValueError, match=r"no column of pictures .* it has a"):
        build(tmp_path / "laion.parquet", tmp_path / "out")


def test_a_table_of_laion_with_pictures_keeps_its_texts_and_offers_its_numbers(tmp_path):
    rows = [
        {"URL": f"u{i}", "TEXT": f"thing {i}", "WIDTH": 20, "similarity": i / 10, "AESTHETIC_SCORE": 4.0 + i,
         "jpg": picture(i, kind="JPEG")}
        for i in range(4)
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "x.parquet")
    good, bad = read(tmp_path / "x.parquet")
    assert bad == []
    assert good[2].more == {"URL": "u2"}
    assert good[2].scores == {"WIDTH": 20.0, "similarity": 0.2, "AESTHETIC_SCORE": 6.0}
    assert good[2].captions == ["thing 2"]


@pytest.mark.parametrize("rows, group", [(1301, 400), (1301, 2000), (9000, 9000)])
def test_the_units_of_a_table_have_each_row_once(rows, group, tmp_path):
    table = pa.table({"image": [b"x"] * rows, "text": [str(i) for i in range(rows)]})
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=group)
    source = source_of(tmp_path / "x.parquet")
    units = list(source.units())
    assert len(units) > 1
    found = [item.captions[0] for unit in units for _, item in source.read(unit)]
    assert found == [str(i) for i in range(rows)]


def test_a_text_that_is_not_utf_8_makes_only_its_own_row_of_a_table_unusable(tmp_path):
    text = pa.array([b"one", b"caf\xe9", b"three"]).cast(pa.binary()).view(pa.string())
    pq.write_table(pa.table({"image": [picture(i) for i in range(3)], "text": text}), tmp_path / "x.parquet")
    good, bad = read(tmp_path / "x.parquet")
    assert [item.captions for item in good] == [["one"], ["three"]]
    assert bad == ["caption is not UTF-8"]


def test_a_broken_table_among_others_is_counted_and_the_others_read(tmp_path):
    pq.write_table(pa.Table.from_pylist([{"image": picture(0), "text": "a"}]), tmp_path / "a.parquet")
    (tmp_path / "b.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-30])
    (tmp_path / "c.parquet").write_bytes(b"")
    good, bad = read(tmp_path)
    assert len(good) == 1
    assert bad == ["broken Parquet file"] * 2


def test_paths_of_epath_and_of_the_user_are_opened(tmp_path, monkeypatch):
    tar_of(tmp_path / "home" / "x.tar", sample(1))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert len(read(epath.Path(tmp_path / "home"))[0]) == len(read("~/x.tar")[0]) == 1


class ObjectStore(MemoryFileSystem):
    """What etils.epath opens as s3://, in memory."""

    protocol = "s3"

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.removeprefix("s3:/"))


@pytest.fixture
def bucket():
    """Puts a folder into an object store and gives its address there."""
    fsspec.register_implementation("s3", ObjectStore, clobber=True)
    store, number = ObjectStore(), itertools.count()

    def upload(folder) -> str:
        name = f"/bucket-{next(number)}"
        store.put(f"{folder}/", f"{name}/", recursive=True)
        return f"s3:/{name}"

    yield upload
    store.store.clear()


@pytest.mark.parametrize("kind", ["folder", "metadata", "tar", "tfrecord", "parquet"])
def test_a_source_in_an_object_store_reads_as_on_disk(kind, bucket, tmp_path):
    home, rows = tmp_path / "home", [{"image": picture(i), "caption": f"thing {i}"} for i in range(3)]
    home.mkdir()
    if kind in ("folder", "metadata"):
        lines = [json.dumps({"file_name": f"in/{i}.png", "text": f"thing {i}"}) for i in range(3)]
        fill(home / "in", {f"{i}.png": row["image"] for i, row in enumerate(rows)})
        fill(home, {"metadata.jsonl": "\n".join(lines)} if kind == "metadata" else {})
        fill(home / "in", {f"{i}.txt": row["caption"] for i, row in enumerate(rows)} if kind == "folder" else {})
    elif kind == "tar":
        tar_of(home / "0.tar", sample(0) | sample(1) | sample(2))
    elif kind == "tfrecord":
        tfrecord_of(home / "0.tfrecord", [serialize(row) for row in rows])
    else:
        pq.write_table(pa.Table.from_pylist(rows), home / "0.parquet")
    address = bucket(home)
    assert read(address) == read(home)
    there, here = build(address, tmp_path / "there", name="set"), build(home, tmp_path / "here", name="set")
    assert there["splits"] == here["splits"] and here["splits"]["train"]["records"] == 3


def test_an_object_store_without_its_package_is_told_by_the_packages_name():
    with pytest.raises(ValueError, match=r"gs://shelf/pictures can't be opened: .*gcsfs"):
        source_of("gs://shelf/pictures")


@pytest.mark.parametrize("name, split", [
    ("x.tar", "train"), ("00012.tar", "train"), ("things-val.tar", "val"),
    ("set-train.tfrecord-00000-of-00010", "train"),
    ("set-test.tfrecords", "test"), ("test-00000-of-00001.parquet", "test"), ("a-val_pair.parquet", "val_pair"),
    ("validation-00001-of-00002.parquet", "validation"),
    ("test-00000-of-00001-8b75d2b6d8b1a4c3.parquet", "test"), ("interval.parquet", "train"), ("contest.tar", "train"),
    ("deviantart.tar", "train"), ("photos-valley.tar", "train"), ("devices", "train"), ("my-trainings.tar", "train"),
    ("coco-val2017.parquet", "val2017"), ("set-testA.parquet", "testA"), ("dev", "dev"), ("x-testing.tar", "testing"),
])  # fmt: skip
def test_a_split_is_what_a_name_ends_in(name, split):
    from t2i_jax.data.sources.raw import split_of

    assert split_of(name) == split
