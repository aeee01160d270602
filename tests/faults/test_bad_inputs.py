"""Whatever is fed to a build ends as a picture or as a counted reason: no crash, no hang, bounded memory."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from t2i_jax.data import load_dataset
from tests.data.conftest import fill, folder_of, picture
from tests.faults import rubbish

MEGABYTES = 300
# In a process of its own, so that a crash is seen and memory is its own; prints peak memory after each source
CODE = """
import re, sys
from pathlib import Path
import pyarrow.parquet
from t2i_jax.data.build import build
out, *sources = sys.argv[1:]
for number, source in enumerate(sources):
    build(source, f"{out}/{number}", "x")
    status = Path("/proc/self/status")  # ru_maxrss would count what the parent had
    print(re.search(r"VmHWM:\\s+(\\d+) kB", status.read_text()).group(1) if status.exists() else 0, flush=True)
"""
REASONS = {
    "empty file", "not a picture", "does not decode", "too many pixels", "missing picture", "missing caption",
    "broken metadata", "caption is not UTF-8", "empty caption", "caption too long", "caption is no text",
    "too many captions", "too many bytes", "unsafe name", "broken tar", "truncated tar", "link in tar",
    "special file in tar", "absurd tar header", "broken Parquet file", "broken TFRecord file",
    "truncated TFRecord file", "damaged record", "unreadable file",
}  # fmt: skip


def build_all(home: Path, sources: list[Path], seconds: float) -> tuple[list[Counter], float]:
    """Build every source, after some sound pictures; what was skipped in each, and the megabytes it took beyond what
    the sound pictures took."""
    sound = folder_of(home / "sound", 8)
    command = [sys.executable, "-c", CODE, str(home / "out"), str(sound), *map(str, sources)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    first, *_, last = [int(line) for line in done.stdout.split()]
    skipped = []
    for number in range(1, len(sources) + 1):
        directory = home / "out" / str(number) / "1.0.0"
        lines = [json.loads(line) for line in (directory / "skipped.jsonl").read_text().splitlines()]
        skipped.append(Counter(line["reason"] for line in lines))
        assert skipped[-1] == json.loads((directory / "manifest.json").read_text())["skipped"]
        assert set(skipped[-1]) <= REASONS
    megabytes = (last - first) / 1024
    print(f"{megabytes:.0f} MB beyond the sound pictures; skipped {[dict(one.most_common()) for one in skipped]}")
    return skipped, megabytes


def run(home: Path, pictures: int, others: int, seed: int, seconds: float) -> float:
    """Feed so many drawn inputs; the megabytes they took."""
    rng = np.random.default_rng(seed)
    names = rubbish.write_pictures(home / "pictures", rng, pictures)
    rubbish.write_others(home, rng, others)
    # one sound picture in each, without which there is no data set to look at
    fill(home, {"pictures/sound.png": picture(0), "pictures/sound.txt": "sound"})
    (home / "tars" / "sound.tar").write_bytes(rubbish.tar(rng))
    (home / "tables" / "sound.parquet").write_bytes(rubbish.table(rng))
    rubbish.tfrecord_of(home / "records" / "sound.tfrecord", [rubbish.serialize({"image": picture(0), "text": "a"})])
    fill(home / "lines" / "sound", {"metadata.jsonl": '{"file_name": "a.png", "text": "a"}', "a.png": picture(0)})
    sources = [home / name for name in ("pictures", "tars", "tables", "records", "lines")]
    (skipped, *rest), megabytes = build_all(home, sources, seconds)
    dataset = load_dataset(home / "out" / "1")
    kept = {record["key"] for record in dataset.records(range(len(dataset)))}
    lines = (home / "out" / "1" / "1.0.0" / "skipped.jsonl").read_text().splitlines()
    left_out = [json.loads(line)["item"] for line in lines]
    assert sorted([*left_out, *(f"{key}.png" for key in kept)]) == sorted([*names, "sound.png"])
    assert skipped.total() > 0.2 * pictures
    for reasons in rest:
        assert reasons.total() > 0.2 * others
    return megabytes


def test_damaged_inputs_of_all_kinds_become_pictures_or_counted_reasons(tmp_path):
    assert run(tmp_path, pictures=60, others=10, seed=0, seconds=300) <= MEGABYTES


@pytest.mark.stress
@pytest.mark.parametrize("seed", range(1, 6))
def test_1000_damaged_inputs_do_so_too(seed, tmp_path):
    assert run(tmp_path, pictures=600, others=100, seed=seed, seconds=1200) <= MEGABYTES


def test_bombs_and_absurd_captions_are_counted_each_by_its_reason(tmp_path):
    files, want = {"sound.png": picture(0), "sound.txt": "sound"}, Counter()
    for name, (data, reason) in rubbish.bombs().items():
        files |= {f"bomb-{name}.png": data, f"bomb-{name}.txt": "a bomb"}
        want[reason] += 1
    for name, (data, reason) in rubbish.captions().items():
        files |= {f"caption-{name}.png": picture(0), f"caption-{name}.txt": data}
        want[reason] += 1
    files |= {
        "giant.png": rubbish.png(rubbish.SIDE, rubbish.SIDE, depth=8, colour=6),
        "giant.txt": "a",
    }
    (found,), megabytes = build_all(tmp_path, [fill(tmp_path / "in", files)], 300)
    assert found == want
    assert (100 if sys.platform == "linux" else 0) <= megabytes <= MEGABYTES  # the giant is seen


@pytest.mark.stress
def test_the_largest_pictures_of_all_kinds_take_little_memory(tmp_path):
    for name, data in rubbish.giants().items():
        folder = fill(tmp_path / name, {f"in/{name}": data, f"in/{name.split('.')[0]}.txt": "a giant"})
        (skipped,), megabytes = build_all(folder, [folder / "in"], 600)
        assert not skipped
        assert megabytes <= MEGABYTES, name
