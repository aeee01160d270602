import json

import pytest
import xxhash

from t2i_jax.training import manifest
from t2i_jax.training.commit import clear, commit
from t2i_jax.training.manifest import MANIFEST, OtherForm, check, write_manifest
from t2i_jax.training.shelf import steps


@pytest.fixture
def step(tmp_path):
    """A step's directory with two items, one file of three blocks."""
    directory = tmp_path / "7"
    (directory / "ema" / "d").mkdir(parents=True)
    (directory / "meta").mkdir()
    (directory / "ema" / "d" / "values").write_bytes(bytes(range(256)) * 9)
    (directory / "ema" / "empty").write_bytes(b"")
    (directory / "meta" / "metadata").write_text("{}")
    return directory


def test_a_file_of_one_block_has_its_xxh128sum_and_a_larger_one_a_digest_a_block(step, monkeypatch):
    monkeypatch.setattr(manifest, "BLOCK", 1024)
    write_manifest(step, 7)
    files = json.loads((step / MANIFEST).read_text())["files"]
    assert set(files) == {"ema/d/values", "ema/empty", "meta/metadata"}
    assert files["meta/metadata"] == {"size": 2, "xxh3_128": [xxhash.xxh3_128(b"{}").hexdigest()]}
    data = bytes(range(256)) * 9
    parts = [data[i : i + 1024] for i in range(0, len(data), 1024)]
    assert files["ema/d/values"]["xxh3_128"] == [xxhash.xxh3_128(part).hexdigest() for part in parts]
    monkeypatch.undo()
    assert check(step) == []  # whatever the block is now


def test_a_fault_is_known_to_its_block(step, monkeypatch):
    monkeypatch.setattr(manifest, "BLOCK", 1024)
    write_manifest(step, 7)
    data = bytearray((step / "ema/d/values").read_bytes())
    data[1500] ^= 1
    (step / "ema/d/values").write_bytes(data)
    assert check(step) == ["ema/d/values: its bytes are not those that were written (between 1,024 and 2,047)"]
    assert check(step, ("meta",)) == []


def test_every_fault_is_named(step):
    write_manifest(step, 7)
    (step / "ema/empty").write_text("no longer")
    (step / "meta/metadata").unlink()
    assert check(step) == ["ema/empty: it has 9 bytes, and 0 were written", "meta/metadata: it is missing"]


@pytest.mark.parametrize("change, words", [
    (lambda text: text.replace('"size": 2,', '"size": 3,'), "its own digest is another"),
    (lambda text: text[:-30], "damaged (JSONDecodeError"),
    (lambda text: "[]", "damaged"),
    (lambda text: text.replace('"format": 2', '"format": 1'), "its own digest is another"),
])  # fmt: skip
def test_a_damaged_manifest_vouches_for_nothing(step, change, words):
    write_manifest(step, 7)
    (step / MANIFEST).write_text(change((step / MANIFEST).read_text()))
    (fault,) = check(step)
    assert fault.startswith("manifest.json: ")
    assert words in fault


def test_a_manifest_of_another_form_is_no_damage(step, monkeypatch):
    monkeypatch.setattr(manifest, "_FORMAT", 3)
    write_manifest(step, 7)
    monkeypatch.undo()
    with pytest.raises(OtherForm, match=f"{step / MANIFEST} is of the form 3, and this version of t2i_jax reads 2"):
        check(step)


@pytest.mark.parametrize("name", ["ema/d/values", MANIFEST])
def test_a_file_that_is_there_and_cannot_be_read_is_no_damage(step, name):
    write_manifest(step, 7)
    (step / name).unlink()
    (step / name).symlink_to(name.split("/")[-1])  # to itself, which the kernel follows in vain
    with pytest.raises(OSError, match="Too many levels") as error:
        check(step)
    assert error.value.filename == str(step / name)


def test_a_step_without_a_manifest_or_with_anothers_does_not_count(step):
    assert "nothing vouches" in check(step)[0]
    write_manifest(step, 8)
    assert check(step) == ["manifest.json: it is that of step 8"]


def test_a_step_gets_its_name_with_its_manifest_and_replaces_the_old_one(step):
    written = step.rename(step.with_name("7.orbax-checkpoint-tmp"))
    step.mkdir()
    (step / "old").write_text("old")
    commit(written, step)
    assert check(step) == []
    assert not (step / "old").exists()
    assert {path.name for path in step.parent.iterdir()} == {"7", "trash"}


def test_what_a_killed_save_left_is_removed_unless_it_lacked_nothing_but_the_name(step):
    whole = step.rename(step.with_name("7.orbax-checkpoint-tmp"))
    write_manifest(whole, 7)
    half = step.with_name("8.orbax-checkpoint-tmp")
    (half / "ema").mkdir(parents=True)
    (step.parent / "trash" / "6-1").mkdir(parents=True)
    clear(step.parent)
    assert steps(step.parent) == [7]
    assert {path.name for path in step.parent.iterdir()} == {"7", "trash"}
    assert not list((step.parent / "trash").iterdir())
    assert check(step) == []
