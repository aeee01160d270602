import dataclasses
import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from t2i_jax.data import Data
from t2i_jax.parallel.mesh import Mesh
from t2i_jax.text import Tokenizer
from t2i_jax.training import EXIT_STOPPED, AdamW, Checkpoints, Experiment, Reports, train
from t2i_jax.training.checkpoint import load_params, steps_saved
from t2i_jax.training.goodput import PARTS
from t2i_jax.training.inputs import Inputs
from t2i_jax.training.run import Run
from t2i_jax.training.serialize import ConfigError
from t2i_jax.training.stop import Stop
from tests.launch.test_launch import in_a_terminal
from tests.training.toy import Second, Toy

DATA = Data(dataset="emoji64", split="train[:40]", batch=16, image_size=8, context=64)
QUIET = Reports(every=1, preview_every=0, tensorboard=False)
FIRST = Experiment(
    stage=Toy(noise=0.1), data=DATA, optimizer=AdamW(learning_rate=1e-2), steps=6, mesh=Mesh(data=2, model=4),
    checkpoints=Checkpoints(every=2, keep=2), reports=QUIET,
)  # fmt: skip
SECOND = dataclasses.replace(FIRST, stage=Second())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run in which the first stage is trained."""
    root = tmp_path_factory.mktemp("run")
    assert train(FIRST, root) == 0
    return root


def copy_of(run, root):
    import shutil

    shutil.copytree(run, root, dirs_exist_ok=True)
    return root


def equal(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def lines(directory):
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def test_a_run_that_is_stopped_and_continued_is_bit_for_bit_the_straight_one(run, tmp_path):
    for until in (1, 2, 5):
        assert train(FIRST, tmp_path, until=until) == EXIT_STOPPED
    assert train(FIRST, tmp_path) == 0
    equal(load_params(run / "toy")[0], load_params(tmp_path / "toy")[0])
    straight, pieces = lines(run / "toy"), lines(tmp_path / "toy")
    assert [line["step"] for line in pieces] == [1, 2, 3, 4, 5, 6]
    assert [line["loss"] for line in straight] == [line["loss"] for line in pieces]


def test_a_finished_run_is_left_alone_and_can_be_made_longer(run, tmp_path):
    root = copy_of(run, tmp_path)
    before = (root / "toy" / "metrics.jsonl").read_bytes()
    assert train(FIRST, root) == 0
    assert (root / "toy" / "metrics.jsonl").read_bytes() == before
    assert train(dataclasses.replace(FIRST, steps=8), root) == 0
    assert load_params(root / "toy")[1] == 8


def test_what_finish_measures_is_in_the_parameters_that_others_load(run):
    assert np.abs(load_params(run / "toy")[0]["mean"]).max() > 0


def test_two_steps_write_every_file(tmp_path):
    experiment = dataclasses.replace(FIRST, steps=2, reports=Reports(every=1, preview_every=1, previews=4))
    train(experiment, tmp_path)
    directory = tmp_path / "toy"
    assert (tmp_path / "tokenizer.model").exists()
    assert json.loads((directory / "config.json").read_text())["steps"] == 2
    assert steps_saved(directory) == [2]
    assert [line["step"] for line in lines(directory)] == [1, 2]
    names = {"step", "loss", "lr", "grad_norm", "code", "examples_per_second", "tflops", "peak_share", "seconds"}
    names |= {"skipped", "rollbacks", "goodput", *(f"time_{part}" for part in PARTS)}
    assert set(lines(directory)[0]) == names
    assert list((directory / "tensorboard").glob("events*"))
    for step in (1, 2):
        assert np.asarray(Image.open(directory / "samples" / f"{step:06d}.png")).std() > 10


def test_another_experiment_in_the_same_directory_is_refused_with_the_fields_that_differ(run):
    other = dataclasses.replace(FIRST, seed=1, stage=Toy(width=16), steps=99, reports=Reports())
    with pytest.raises(ConfigError) as error:
        train(other, run)
    assert "seed: 0 -> 1" in str(error.value)
    assert "stage.width: 32 -> 16" in str(error.value)
    assert "steps" not in str(error.value)


def test_a_batch_that_the_mesh_does_not_divide_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match=r"data.batch=16 .*Set data.batch to 12 or 18"):
        train(dataclasses.replace(FIRST, accumulate=3), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_frozen_stage_that_is_missing_is_named_with_the_command(tmp_path):
    with pytest.raises(FileNotFoundError, match="'second' reads 'toy'.*t2i train CONFIG --run .* config of 'toy'"):
        train(SECOND, tmp_path)


@pytest.mark.parametrize("stage, says", [(Second(), "no checkpoint in"), (Second(vocab=10), "of these captions has")])
def test_a_training_that_is_refused_leaves_no_tokenizer_to_the_next(stage, says, tmp_path):
    with pytest.raises((ValueError, FileNotFoundError), match=says):
        train(dataclasses.replace(SECOND, stage=stage), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_tokenizer_that_another_training_made_meanwhile_is_never_written_over(tmp_path):
    inputs = Inputs.open(FIRST, Run(tmp_path, "toy"))
    assert not (tmp_path / "tokenizer.model").exists()
    other = Tokenizer.train(["another vocabulary"] * 9, tmp_path / "tokenizer.model", 280)
    with pytest.raises(ValueError, match="made meanwhile by another training"):
        inputs.keep_tokenizer(tmp_path / "tokenizer.model")
    assert Tokenizer.load(tmp_path / "tokenizer.model").digest == other.digest


def test_a_frozen_stage_of_another_size_names_the_leaf_and_both_shapes(run, tmp_path):
    wider = dataclasses.replace(SECOND, stage=Second(toy=Toy(width=48)))
    with pytest.raises(ValueError, match=r"'down/bias' has shape \(32,\), expected \(48,\)"):
        train(wider, run)


def test_a_vocabulary_that_is_too_small_is_refused(run):
    with pytest.raises(ValueError, match="knows 10: set the vocab of its text tower to at least"):
        train(dataclasses.replace(SECOND, stage=Second(vocab=10)), run)


def test_training_on_cached_features_equals_training_on_computed_ones(run, tmp_path):
    cached, direct = copy_of(run, tmp_path / "a"), copy_of(run, tmp_path / "b")
    train(SECOND, cached)
    train(dataclasses.replace(SECOND, cache_gb=0.0), direct)
    assert len(list((cached / "cache").iterdir())) == 2
    assert not (direct / "cache").exists()
    for a, b in zip(lines(cached / "second"), lines(direct / "second"), strict=True):
        np.testing.assert_allclose(a["loss"], b["loss"], rtol=1e-3)  # the cache keeps float16
    a, b = (load_params(root / "second")[0]["embedding"] for root in (cached, direct))
    np.testing.assert_allclose(a, b, atol=2e-3)


def test_a_stage_that_was_trained_on_other_frozen_parameters_is_not_continued(run, tmp_path):
    root = copy_of(run, tmp_path)
    train(SECOND, root, until=2)
    train(dataclasses.replace(FIRST, steps=7), root)
    with pytest.raises(ConfigError, match=r"belongs to a training on other inputs.*\n  toy: "):
        train(SECOND, root)


def program(root, steps):
    return (
        "import dataclasses, sys\n"
        "from tests.training.test_loop import FIRST\n"
        "from t2i_jax.training import Reports, train\n"
        f"experiment = dataclasses.replace(FIRST, steps={steps}, reports=Reports(every=1, preview_every=0))\n"
        f"sys.exit(train(experiment, {str(root)!r}))\n"
    )


def start(root, steps):
    command = [sys.executable, "-c", program(root, steps)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])


def test_sigterm_leaves_a_run_that_continues_bit_for_bit(tmp_path):
    process = start(tmp_path, 4000)
    for line in process.stderr:
        if line.startswith("toy  3/"):
            process.send_signal(signal.SIGTERM)
            break
    rest = process.stderr.read()
    assert process.wait(timeout=60) == EXIT_STOPPED, rest
    assert "SIGTERM at step" in rest
    (step,) = steps_saved(tmp_path / "toy")[-1:]
    stopped = load_params(tmp_path / "toy")[0]
    straight = tmp_path / "straight"
    train(dataclasses.replace(FIRST, steps=4000), straight, until=step)
    equal(stopped, load_params(straight / "toy")[0])


def test_a_terminal_that_closes_ends_a_training_with_its_step_saved(tmp_path):
    metrics = tmp_path / "toy" / "metrics.jsonl"
    with in_a_terminal("env", "TERM=xterm", sys.executable, "-c", program(tmp_path, 100_000)) as (process, keyboard):
        while not metrics.exists() or len(lines(tmp_path / "toy")) < 3:
            assert select.select([keyboard], [], [], 120)[0] and process.poll() is None
            os.read(keyboard, 1000)
        os.close(keyboard)
        assert process.wait(120) == EXIT_STOPPED
    assert steps_saved(tmp_path / "toy")[-1] == lines(tmp_path / "toy")[-1]["step"]


def test_under_nohup_a_terminal_that_closes_means_nothing():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Stop() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.now(1)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_run_in_a_bucket_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="Mount the bucket"):
        train(FIRST, "gs://bucket/run")
    assert not list(tmp_path.iterdir())


def test_processes_wait_for_hours_until_the_last_has_compiled(tmp_path, monkeypatch):
    """JAX keeps programs of the first process alone: after a restart the others compile, and it waits."""
    waits = {}
    monkeypatch.setattr("t2i_jax.training.loop.barrier", lambda name, timeout=300: waits.update({name: timeout}))
    assert train(dataclasses.replace(FIRST, steps=1), tmp_path) == 0
    assert [timeout >= 4 * 3600 for name, timeout in waits.items() if "compiled" in name] == [True]
