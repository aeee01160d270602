"""No damage to the newest checkpoint passes in silence: the one before is restored, bit for bit."""

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2i_jax.parallel.mesh import Mesh
from t2i_jax.training import Limits, train
from t2i_jax.training.checkpoint import Saver, load_params, steps_saved
from t2i_jax.training.manifest import check
from t2i_jax.training.nonfinite import Guard
from t2i_jax.training.program import Program
from t2i_jax.training.shelf import NoneWhole
from tests.faults.damage import KINDS, damage, files_of
from tests.training.test_checkpoint import begin, equal, shapes
from tests.training.test_loop import FIRST, lines

RANDOM = ("flip", "truncate", "zeros", "garbage", "swap")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A directory with the steps 1 and 2, of different values, and both states."""
    root = tmp_path_factory.mktemp("saved")
    one = begin(Mesh().build(jax.devices()[:1]))
    two = jax.tree.map(lambda leaf: leaf + 1, one)
    with Saver(root / "checkpoints", keep=2) as saver:
        saver.save(1, one, {"number": 1})
        saver.save(2, two, {"number": 2})
    return root, {1: one, 2: two}


def suffer(saved, tmp_path, number, kind, rng, index=None):
    """Damage one file of step 2 in a copy; what is read afterwards must be step 1. Returns the damaged file's name."""
    root, states = saved
    copy = tmp_path / str(number)
    shutil.copytree(root, copy)
    files = files_of(copy / "checkpoints" / "2")
    path = files[rng.integers(0, len(files)) if index is None else index]
    name = path.relative_to(copy / "checkpoints" / "2").as_posix()
    other = next(
        file
        for file in files_of(copy / "checkpoints" / "1")[:: rng.choice([-1, 1])]
        if file.read_bytes() != path.read_bytes()
    )
    damage(path, kind, rng, other)

    params, step = load_params(copy)
    read = name.split("/")[0] in ("ema", "meta", "manifest.json")  # the parameters alone need no more
    assert step == (1 if read else 2), (kind, name)
    equal(params, states[step].ema)
    with Saver(copy / "checkpoints", keep=2) as saver:
        assert saver.latest() == 1, (kind, name)
        assert saver.rejected[0].step == 2
        assert name in saver.rejected[0].faults[0], (kind, name)
        equal(saver.restore(shapes(states[1])), states[1])
        assert saver.meta() == {"number": 1}
        saver.save(2, states[2], {"number": 2})  # training on saves the step anew
    assert steps_saved(copy) == [1, 2]
    assert not check(copy / "checkpoints" / "2")
    assert (copy / "checkpoints" / "rejected" / "2").is_dir()
    shutil.rmtree(copy)
    return name


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_named_and_the_checkpoint_before_is_used(saved, tmp_path, kind):
    suffer(saved, tmp_path, 0, kind, np.random.default_rng(KINDS.index(kind)))


def test_a_training_whose_newest_checkpoint_is_damaged_ends_as_one_that_was_not(tmp_path, capsys):
    straight, run = tmp_path / "straight", tmp_path / "run"
    assert train(FIRST, straight) == 0
    train(FIRST, run, until=4)
    (path, *_) = (run / "toy" / "checkpoints" / "4" / "train").rglob("d/*")
    damage(path, "flip", np.random.default_rng(0), path)
    capsys.readouterr()
    assert train(FIRST, run) == 0
    said = capsys.readouterr().err
    assert f"the checkpoint of step 4 is damaged: {path.relative_to(run / 'toy' / 'checkpoints' / '4')}: " in said
    assert "Going on from step 2" in said
    equal(load_params(straight / "toy")[0], load_params(run / "toy")[0])
    assert [row.get("checkpoints_rejected", 0) for row in lines(run / "toy")] == [0, 0, 1, 1, 1, 1]


def test_where_no_checkpoint_is_whole_the_training_stops_and_nothing_is_moved_or_lost(tmp_path):
    train(FIRST, tmp_path, until=3)
    steps = tmp_path / "toy" / "checkpoints"
    (path, *_) = (steps / "2" / "train").rglob("d/*")
    damage(path, "flip", np.random.default_rng(0), path)
    (steps / "3" / "manifest.json").unlink()
    before = {file: file.read_bytes() for file in (tmp_path / "toy").rglob("*") if file.is_file()}
    with pytest.raises(NoneWhole, match=r"step 3 is damaged: manifest.json: it is missing.*step 2 is damaged: train/d"):
        train(FIRST, tmp_path)
    (steps / "3" / "manifest.json").symlink_to("manifest.json")  # to itself: it is there and can't be read
    with pytest.raises(OSError, match="manifest.json"):
        train(FIRST, tmp_path)
    (steps / "3" / "manifest.json").unlink()
    assert {file: file.read_bytes() for file in (tmp_path / "toy").rglob("*") if file.is_file()} == before


def test_a_roll_back_passes_over_a_damaged_checkpoint_and_sets_it_aside(saved, tmp_path):
    shutil.copytree(saved[0], tmp_path, dirs_exist_ok=True)
    states = saved[1]
    (path, *_) = (tmp_path / "checkpoints" / "2" / "train").rglob("d/*")
    with Saver(tmp_path / "checkpoints", keep=2) as saver:
        damage(path, "flip", np.random.default_rng(0), path)
        limits = Limits(nonfinite_row=1)
        guard = Guard(dataclasses.replace(FIRST, limits=limits), tmp_path / "nonfinite.jsonl", 2, None, None)
        guard.see(3, {"skipped": 1.0})
        program = Program(shapes(states[1]), {}, {}, begin, begin, 0, 0, {}, False)
        state, step, target = guard.roll_back(saver, program, jax.random.key(0), jax.tree.map(jnp.copy, states[2]))
    assert (int(state.step), step, target) == (3, 3, 1)
    equal(dataclasses.replace(state, step=states[1].step), states[1])
    assert steps_saved(tmp_path) == [1] and (tmp_path / "checkpoints" / "rejected" / "2").is_dir()


@pytest.mark.stress
def test_no_damage_of_hundreds_passes_in_silence(saved, tmp_path, capsys):
    rng = np.random.default_rng(2026)
    count = len(files_of(saved[0] / "checkpoints" / "2"))
    cases = [(kind, index) for kind in ("delete", "empty") for index in range(count)]
    cases += [(kind, None) for kind in RANDOM for _ in range(36)]
    done = {}
    for number, (kind, index) in enumerate(cases):
        suffer(saved, tmp_path, number, kind, rng, index)
        done[kind] = done.get(kind, 0) + 1
    assert sum(done.values()) >= 210
    with capsys.disabled():
        print(f"\n{sum(done.values())} damaged checkpoints, seed 2026, 0 silent: {done}")
