import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from t2i_jax.data import load_dataset
from t2i_jax.data.build import Duplicates, build
from t2i_jax.data.likeness import LIKENESS, MOST_DISTANCE, Seen, likeness
from t2i_jax.data.pictures import decode
from tests.data.conftest import fill, picture


def of(bits: int, colour: int = 0, pixels: int | None = None) -> np.void:
    out = np.zeros((), LIKENESS)
    out["hash"], out["colours"] = np.uint64(bits), colour
    out["pixels"] = (pixels if pixels is not None else of.count, 7)
    of.count += 1
    return out[()]


of.count = 1000


def near(left: np.void, right: np.void, distance: int) -> bool:
    bits = (int(left["hash"]) ^ int(right["hash"])).bit_count()
    return bits <= distance and abs(int(left["colours"].max()) - int(right["colours"].max())) <= 20


@given(
    st.lists(st.tuples(st.integers(0, 5), st.sets(st.integers(0, 63), max_size=5), st.sampled_from([0, 15, 90]))),
    st.integers(0, MOST_DISTANCE),
)
def test_the_tables_find_what_comparing_all_pairs_finds(drawn, distance):
    base = np.random.default_rng(0).integers(0, 1 << 63, 6)
    all_ = [of(int(base[i]) ^ sum(1 << b for b in flips), colour) for i, flips, colour in drawn]
    seen, kept = Seen(distance), []
    for number, one in enumerate(all_):
        twin = seen.twin(one)
        want = next((k for k in kept if near(all_[k], one, distance)), None)
        assert (twin and twin.number) == want
        if want is None:
            kept.append(number)


def test_same_pixels_are_the_same_in_any_file_and_size_counts():
    image = decode(picture(3, (30, 20)))
    out = io.BytesIO()
    image.save(out, "WEBP", lossless=True)
    same = likeness(decode(out.getvalue()))
    assert likeness(image).tobytes() == same.tobytes()
    flat = [likeness(Image.new("RGB", size, "red")) for size in ((20, 30), (30, 20))]
    assert (flat[0]["pixels"] != flat[1]["pixels"]).any()


def twins(image: Image.Image) -> dict[str, Image.Image]:
    """The same picture saved again, made smaller, larger, brighter."""
    out = {}
    for name, kind, options in (("jpeg", "JPEG", {"quality": 60}), ("webp", "WEBP", {"quality": 50})):
        file = io.BytesIO()
        image.save(file, kind, **options)
        out[name] = Image.open(file).convert("RGB")
    out["larger"] = image.resize((150, 150), Image.Resampling.BICUBIC)
    out["smaller"] = image.resize((48, 48), Image.Resampling.LANCZOS)
    out["brighter"] = ImageEnhance.Brightness(image).enhance(1.05)
    return out


def test_planted_twins_of_real_drawings_are_found_and_unlike_ones_are_not():
    dataset = load_dataset("emoji64", "val_pair")
    images = [decode(r["image"]) for r in dataset.records(range(0, 300, 3))]
    found = dict.fromkeys(twins(images[0]), 0)
    for image in images:
        for name, twin in twins(image).items():
            seen = Seen(MOST_DISTANCE)
            seen.twin(likeness(image))
            found[name] += seen.twin(likeness(twin)) is not None
    assert min(found[name] for name in ("jpeg", "webp", "larger", "brighter")) >= 93
    assert found["smaller"] >= 70
    heart, blue = (Image.new("RGB", (64, 64), "white") for _ in range(2))
    heart.paste("red", (16, 16, 48, 48))
    blue.paste("blue", (16, 16, 48, 48))
    seen = Seen(MOST_DISTANCE)
    assert (seen.twin(likeness(heart)), seen.twin(likeness(blue))) == (None, None)


def test_repetitions_are_left_out_and_listed_with_their_kept_twin(tmp_path):
    image = decode(picture(1, (60, 60)))
    near = io.BytesIO()
    image.save(near, "JPEG", quality=80)
    same = io.BytesIO()
    image.save(same, "BMP")
    files = {
        "a.png": picture(1, (60, 60)),
        "b.png": picture(2, (60, 60)),
        "c.bmp": same.getvalue(),
        "d.jpg": near.getvalue(),
    }
    fill(tmp_path / "in", files | {f"{name[0]}.txt": name for name in files})

    def built(name: str, duplicates: Duplicates | None) -> tuple[dict, list[str], list]:
        manifest = build(tmp_path / "in", tmp_path / name, duplicates=duplicates)
        lines = (tmp_path / name / "1.0.0" / "skipped.jsonl").read_text().splitlines()
        dataset = load_dataset(tmp_path / name)
        keys = [r["key"] for r in dataset.records(range(len(dataset)))]
        return manifest["skipped"], keys, [(row["item"], row["twin"]) for row in map(json.loads, lines)]

    assert built("all", None) == ({}, ["a", "b", "c", "d"], [])
    assert built("exact", Duplicates()) == ({"duplicate": 1}, ["a", "b", "d"], [("c.bmp", "a.png")])
    assert built("near", Duplicates(near=3)) == (
        {"duplicate": 1, "near-duplicate": 1}, ["a", "b"], [("c.bmp", "a.png"), ("d.jpg", "a.png")]
    )  # fmt: skip


@pytest.mark.parametrize("distance", [-1, 4])
def test_a_distance_that_the_tables_cannot_find_is_refused(distance):
    with pytest.raises(ValueError, match=f"near={distance}"):
        Duplicates(near=distance)
