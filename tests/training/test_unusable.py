"""Examples that can't be used are listed in the run, each once, and counted in its metrics."""

import dataclasses
import io
import json

import numpy as np
import pytest
from PIL import Image

from t2i_jax.data import Data, load_dataset
from t2i_jax.data.build import build
from t2i_jax.data.dataset import DAMAGE
from t2i_jax.training import EXIT_STOPPED, Experiment, Reports, train
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
