"""A training that goes on upon another mesh or fewer devices has the same values and, to rounding, the same losses."""

import functools

import jax
import numpy as np
import pytest

from t2i_jax.data import Data
from t2i_jax.parallel.mesh import Mesh, split_batch
from t2i_jax.training import AdamW
from t2i_jax.training.checkpoint import Saver
from t2i_jax.training.experiment import Experiment
from t2i_jax.training.feed import place
from t2i_jax.training.program import build
from tests.training.test_checkpoint import equal
from tests.training.toy import Toy, toy_batch

EXPERIMENT = Experiment(
    stage=Toy(width=64, noise=0.1), data=Data(batch=16, image_size=8, context=6), optimizer=AdamW(learning_rate=1e-2),
    steps=24,
)  # fmt: skip
SAVED, STEPS = 4, 20
WHOLE, SPLIT, WIDE = Mesh(data=8), Mesh(replica=2, data=2, model=2), Mesh(data=2, model=4)
CHANGES = [
    (WHOLE, SPLIT), (WHOLE, WIDE), (WHOLE, Mesh(replica=8, data=1)), (WHOLE, Mesh(data=4)), (WHOLE, Mesh(data=1)),
    (SPLIT, WHOLE), (SPLIT, Mesh(data=1)), (SPLIT, Mesh(data=2, model=2)),
    (WIDE, SPLIT), (WIDE, Mesh(data=2)), (Mesh(data=1), WHOLE), (Mesh(data=2), WIDE),
]  # fmt: skip


@functools.cache
def program_on(mesh):
    """The program on the first devices that the mesh needs."""
    built = mesh.build(jax.devices()[: mesh.replica * mesh.data * mesh.model])
    return build(EXPERIMENT, built, {}, toy_batch(16, 8), {}), built


def run(mesh, begin, count):
    """``count`` steps from the state that ``begin(program)`` gives: that state, the last one, the losses."""
    program, mesh = program_on(mesh)
    with jax.set_mesh(mesh):
        state = first = begin(program)
        first = jax.tree.map(np.asarray, first)
        losses = []
        for number in range(int(state.step), int(state.step) + count):
            batch = {name: np.asarray(value) for name, value in toy_batch(16, 8, seed=number).items()}
            state, metrics = program.step(state, {}, jax.random.key(1), place(batch, split_batch(mesh)))
            losses.append(float(metrics["loss"]))
    return first, state, losses


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """For a mesh: the directory of what was saved on it, the values, and the losses of the steps after."""
    known = {}

    def on(mesh):
        if mesh not in known:
            directory = tmp_path_factory.mktemp("saved")
            _, state, _ = run(mesh, lambda program: program.init(jax.random.key(0)), SAVED)
            with Saver(directory, keep=1) as saver:
                saver.save(SAVED, state, {})
            values = jax.tree.map(np.asarray, state)
            _, _, losses = run(mesh, lambda program: restored(directory, program), STEPS)
            known[mesh] = directory, values, losses
        return known[mesh]

    return on


def restored(directory, program):
    with Saver(directory, keep=1) as saver:
        return saver.restore(program.state)


def change(straight, old, new):
    """The largest relative distance of the losses, after the values are found equal."""
    directory, values, losses = straight(old)
    first, _, other = run(new, lambda program: restored(directory, program), STEPS)
    equal(values, first)
    assert len(other) == STEPS
    np.testing.assert_allclose(other, losses, rtol=1e-5)
    return float(np.max(np.abs(np.array(other) / losses - 1)))


@pytest.mark.parametrize("old, new", [CHANGES[0], CHANGES[4]], ids=["another shape", "one device"])
def test_another_mesh_has_the_same_values_and_the_next_losses(straight, old, new):
    change(straight, old, new)


@pytest.mark.stress
def test_twelve_changes_of_the_mesh(straight, capsys):
    worst = max(change(straight, old, new) for old, new in CHANGES)
    assert len(CHANGES) == 12
    with capsys.disabled():
        print(f"\n{len(CHANGES)} changes of the mesh: values bit-equal, losses of {STEPS} steps within {worst:.1e}")
