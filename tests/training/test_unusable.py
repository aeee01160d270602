"""Examples that can't be used are listed in the run, each once, and counted in its metrics."""

import dataclasses
import io
import json

import numpy as np
import pytest
from PIL import Image

from t2i_jax.data import Data, load_dataset
from t2i_jax.data.build import build
from t2i_jax.data.dataset import DAMAGE, Dataset
from t2i_jax.training import EXIT_STOPPED, Experiment, Reports, train
from t2i_jax.training.unusable import Unusable
from tests.training.toy import Toy


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    """A data set of 64 pictures, some of whose records have flipped bits."""
    home = tmp_path_factory.mktemp("damaged")
    (home / "in").mkdir()
    rng = np.random.default_rng(0)
    for number in range(64):
        out = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).save(out, "PNG")
        (home / "in" / f"{number:02d}.png").write_bytes(out.getvalue())
        (home / "in" / f"{number:02d}.txt").write_text(f"thing {number}")
    build(home / "in", home / "set")
    (file,) = (home / "set").rglob("*.array_record*")
    data = bytearray(file.read_bytes())
    for share in (0.3, 0.7):
        data[int(share * len(data))] ^= 0x10
    file.write_bytes(data)
    found = load_dataset(home / "set")
    bad = [record["index"] for record in found.records(range(64)) if DAMAGE in record]
    assert bad
    return home / "set", bad


@pytest.mark.parametrize("memory_gb", [1.0, 0.0])
def test_unusable_examples_are_listed_once_and_counted_and_the_sample_sheet_does_without(damaged, memory_gb, tmp_path):
    where, bad = damaged
    data = Data(dataset=str(where), batch=16, image_size=8, context=16, max_bad=0.5, memory_gb=memory_gb)
    experiment = Experiment(
        stage=Toy(), data=data, steps=8, reports=Reports(every=4, preview_every=8, previews=64, tensorboard=False)
    )
    assert train(experiment, tmp_path, until=4) == EXIT_STOPPED  # one epoch
    assert train(dataclasses.replace(experiment), tmp_path) == 0
    listed = [json.loads(line) for line in (tmp_path / "toy" / "unusable-0.jsonl").read_text().splitlines()]
    assert sorted(line["index"] for line in listed) == bad
    assert {line["reason"] for line in listed} == {"damaged record"} and listed[0]["dataset"] == "set train"
    first = json.loads((tmp_path / "toy" / "metrics.jsonl").read_text().splitlines()[0])
    assert first["examples_unusable"] == len(bad)


class Keyed(Dataset):
    """A data set of which nothing is there but the keys."""

    def __init__(self, *keys):
        self.__dict__.update(name="set", split="train", keys=keys)

    def records(self, indices):
        return [{"key": self.keys[index]} for index in indices]


def listed(path):
    return [json.loads(line) for line in path.read_bytes().decode().split("\n")[:-1]]


def test_a_key_with_any_character_is_listed_once_and_no_later_start_fails(tmp_path):
    keys = ["line\u2028", "paragraph\u2029", "next\u0085", "feed\x0b\x0c\r\n", "half \ud800", "é"]
    for _ in range(2):
        Unusable(tmp_path / "list", Keyed(*keys))(dict.fromkeys(range(len(keys)), "damaged"))
    assert [line["key"] for line in listed(tmp_path / "list")] == keys


def test_a_list_of_an_older_version_and_half_a_line_of_it_are_read_as_far_as_they_go(tmp_path):
    path = tmp_path / "list"
    whole = [json.dumps({"index": index, "key": "\u2028}"}, ensure_ascii=False) for index in (0, 1)]
    path.write_text("\n".join([whole[0], "3", "\0\0", whole[1][:-9]]), encoding="utf-8")
    Unusable(path, Keyed("a", "b"))({0: "damaged", 1: "damaged"})
    *_, last = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    assert json.loads(last)["key"] == "b" and path.read_text(encoding="utf-8").count("damaged") == 1
    Unusable(path, Keyed("a", "b"))({0: "damaged", 1: "damaged"})
    assert path.read_text(encoding="utf-8").count("damaged") == 1
