"""The whole evaluation with a cascade made of arrays: files, verdicts, and what it refuses."""

import json
import re
from dataclasses import dataclass, replace
from html.parser import HTMLParser

import numpy as np
import pytest

from t2i_jax.data import arrays, load_dataset
from t2i_jax.diffusion import Guidance
from t2i_jax.evaluation import evaluate, run
from t2i_jax.evaluation.chart import line_chart
from t2i_jax.evaluation.report import Figures, render, write_report
from t2i_jax.evaluation.subjects import Subjects, subjects

SIDE, WORDS = 16, 40
THINGS = np.random.default_rng(0).integers(0, 256, (WORDS, SIDE, SIDE, 3), dtype=np.uint8)


@dataclass(frozen=True)
class Decoder:
    guidance: Guidance = Guidance(2.0)


@dataclass(frozen=True)
class Painter:
    """Knows every thing by heart: caption "<i> <split>" is picture i with a little noise."""

    decoder: Decoder = Decoder()
    follows: bool = True
    image_size: int = SIDE

    def __call__(self, captions, n=1, seed=0):
        random = np.random.default_rng(seed)
        which = [int(c.split()[0]) if self.follows else int(random.integers(WORDS)) for c in captions]
        noise = random.normal(0, 20 / self.decoder.guidance.scale, (len(which), SIDE, SIDE, 3))
        return np.clip(THINGS[which] + noise, 0, 255).astype(np.uint8)

    def clip_embed_images(self, images):
        return images.reshape(len(images), -1)[:, ::24] / 128.0 - 1.0

    def clip_embed_texts(self, captions):
        return self.clip_embed_images(THINGS[[int(c.split()[0]) for c in captions]])

    def prior_embed(self, captions, seed=0):
        return self.clip_embed_texts(captions) + 0.01

    def reconstruct(self, images):
        return np.clip(images.astype(int) + 5, 0, 255).astype(np.uint8)

    def guided(self, scale):
        return replace(self, decoder=Decoder(Guidance(scale)))


@pytest.fixture
def data(monkeypatch):
    def subjects(name, split, image_size, limit=0):
        rows = np.arange(2 * WORDS) % WORDS if split == "train" else np.arange(WORDS)
        random = np.random.default_rng(len(split))
        images = np.clip(THINGS[rows] + random.normal(0, 30, (len(rows), SIDE, SIDE, 3)), 0, 255).astype(np.uint8)
        return Subjects(split, images, [f"{i} <{split}> & more" for i in rows])

    monkeypatch.setattr(run, "splits", lambda name: {"train": "train", "held_out": "val", "unseen": "val_concept"})
    monkeypatch.setattr(run, "subjects", subjects)


def measure(model, out):
    return evaluate(
        model, "things", out, captions=30, scales=(1.0, 4.0), sweep_captions=20, shown=6, say=lambda _: None
    )


def test_a_good_cascade_passes_and_writes_both_files(data, tmp_path):
    results = measure(Painter(), tmp_path / "eval")
    written = json.loads((tmp_path / "eval" / "eval.json").read_text())
    assert written["pictures"]["val"]["retrieval"]["first"] == results["pictures"]["val"]["retrieval"]["first"] > 0.9
    assert written["extractors"] == ["this run's CLIP", "random-conv-64"]
    assert all(found["ok"] for name in ("prior_match", "condition_used") for found in results["checks"][name].values())
    assert [row["scale"] for row in written["sweep"]] == [1.0, 4.0]
    assert set(written["vae"]) == {"val", "val_concept"} and written["vae"]["val"]["pictures"] == WORDS
    assert {found["searched"] for found in written["checks"]["copying"].values()} == {2 * WORDS}
    page = (tmp_path / "eval" / "index.html").read_text()
    assert "<th>searched</th>" in page and f"<td>{2 * WORDS}</td>" in page
    assert "random-conv-64" in page and "&lt;val&gt; &amp; more" in page and "<svg" in page


def test_a_cascade_that_ignores_its_captions_is_caught(data, tmp_path):
    results = measure(Painter(follows=False), tmp_path)
    assert not any(found["ok"] for found in results["checks"]["condition_used"].values())
    assert results["pictures"]["val"]["retrieval"]["first"] < 0.3
    assert "no: see checks" in (tmp_path / "index.html").read_text()


def test_the_same_seed_measures_the_same(data, tmp_path):
    first, second = (measure(Painter(), tmp_path) for _ in range(2))
    first.pop("seconds"), second.pop("seconds")
    assert first == second


def test_the_page_loads_nothing_and_closes_what_it_opens(data, tmp_path):
    measure(Painter(), tmp_path)
    page = (tmp_path / "index.html").read_text()
    assert not re.search(r'(src|href)="(?!data:)', page)

    class Balance(HTMLParser):
        def __init__(self):
            super().__init__()
            self.open, self.wrong = [], []

        def handle_starttag(self, tag, attrs):
            if tag not in ("meta", "img"):
                self.open.append(tag)

        def handle_startendtag(self, tag, attrs):
            """Opens and closes at once."""

        def handle_endtag(self, tag):
            if not self.open or self.open.pop() != tag:
                self.wrong.append(tag)

    balance = Balance()
    balance.feed(page)
    assert not balance.open and not balance.wrong


def test_too_few_captions_are_refused_before_anything_is_painted(tmp_path):
    with pytest.raises(ValueError, match="at least 8"):
        evaluate(Painter(), "things", tmp_path, captions=3)


class Unused(Painter):
    def __call__(self, captions, n=1, seed=0):
        pytest.fail("painted before the data were found too small")


@pytest.mark.parametrize("short, left, said", [
    ("train", slice(15), "train has 15 pictures.*needs 16.*--holdout"),
    ("val", slice(3), "val has 3 pictures.*needs 8.*--holdout"),
    ("val", np.zeros(20, int), "20 pictures.*of the split val all have the caption '0 .*--holdout"),
])  # fmt: skip
def test_a_split_that_is_too_small_is_named_before_anything_is_painted(short, left, said, data, monkeypatch, tmp_path):
    whole = run.subjects

    def cut(name, split, image_size):
        found = whole(name, split, image_size)
        return found.take(np.arange(len(found))[left]) if split == short else found

    monkeypatch.setattr(run, "subjects", cut)
    with pytest.raises(ValueError, match=said):
        measure(Unused(), tmp_path)


def test_a_file_in_the_reports_place_is_said_before_anything_is_painted(data, tmp_path):
    (tmp_path / "eval").touch()
    with pytest.raises(ValueError, match="eval can't be made a folder"):
        measure(Unused(), tmp_path / "eval")


def test_of_several_processes_the_first_one_alone_writes_and_speaks(data, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "leader", lambda: False)
    evaluate(Painter(), "things", tmp_path / "eval", 8, (1.0,), 8, 6, say=lambda _: pytest.fail("spoke"))
    assert not (tmp_path / "eval").exists()


def test_real_pictures_are_no_reference_of_their_own(data, tmp_path):
    results = evaluate(
        Painter(), "things", tmp_path, captions=2 * WORDS, scales=(1.0,), sweep_captions=8, shown=6, say=lambda _: None
    )
    train = results["pictures"]["train"]
    assert (train["captions"], train["captions_asked"]) == (WORDS, 2 * WORDS)
    for measured in train["likeness"].values():
        assert measured["pictures"] + measured["reference_pictures"] == 2 * WORDS
        assert measured["frechet_real"] > 0
    assert f"of {WORDS} captions of train ({2 * WORDS} were asked for" in (tmp_path / "index.html").read_text()


def test_numbers_that_are_not_finite_are_null_in_the_json(data, tmp_path):
    class Perfect(Painter):
        def reconstruct(self, images):
            return images

    results = measure(Perfect(), tmp_path / "perfect")
    assert np.isfinite(json.loads((tmp_path / "perfect" / "eval.json").read_text())["vae"]["val"]["psnr"])
    results["vae"]["val"]["psnr"] = float("inf")
    write_report(results, Figures(), tmp_path)
    assert json.loads((tmp_path / "eval.json").read_text())["vae"]["val"]["psnr"] is None


def test_a_chart_places_larger_values_higher():
    svg = line_chart("t", "x", [1.0, 2.0], {"a": [0.2, 0.9]})
    (low, high) = (float(y) for y in re.findall(r'cy="([\d.]+)"', svg))
    assert high < low


def test_a_sweep_that_was_left_out_leaves_no_section(data, tmp_path):
    results = measure(Painter(), tmp_path) | {"sweep": []}
    assert "Guidance sweep" not in render(results, Figures())


@pytest.mark.parametrize("limit, bytes, spread", [
    (307, 1 << 30, range(307)), (103, 1 << 30, range(0, 307, 3)), (1000, 3 * 8 * 8 * 103, range(0, 307, 3)),
])  # fmt: skip
def test_of_a_large_split_evenly_spaced_pictures_are_looked_at(limit, bytes, spread, monkeypatch):
    monkeypatch.setattr("t2i_jax.evaluation.subjects.BYTES", bytes)
    images, captions = arrays(load_dataset("emoji64", "val_pair"), 8)
    found = subjects("emoji64", "val_pair", 8, limit)
    np.testing.assert_array_equal(found.images, images[list(spread)])
    assert found.captions == [captions[i][1] for i in spread]
