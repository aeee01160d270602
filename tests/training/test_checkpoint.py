import jax
import numpy as np
import pytest

from t2i_jax.parallel.mesh import Mesh
from t2i_jax.parallel.rules import shardings
from t2i_jax.training.checkpoint import Saver, load_params, steps_saved
from t2i_jax.training.optimizer import AdamW
from t2i_jax.training.state import init_state
from t2i_jax.training.step import make_step
from tests.training.toy import Toy, toy_batch

STAGE, OPTIMIZER = Toy(width=64), AdamW()


def begin(mesh):
    make = lambda: init_state(STAGE, OPTIMIZER.build(10), jax.random.key(0), toy_batch(8, 16))
    where = shardings(jax.eval_shape(make), mesh)
    return jax.jit(make, out_shardings=where)()


def shapes(state):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)


def equal(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def test_a_checkpoint_saved_on_4x2_loads_on_2x4_and_alone(tmp_path):
    state = begin(Mesh(data=4, model=2).build())
    with Saver(tmp_path / "checkpoints", keep=2) as saver:
        saver.save(3, state, {"a": 1})
    for mesh in (Mesh(data=2, model=4).build(), Mesh().build(jax.devices()[:1])):
        with Saver(tmp_path / "checkpoints", keep=2) as saver:
            found = saver.restore(shapes(begin(mesh)))
            assert saver.meta() == {"a": 1}
        equal(state, found)
        assert found.params["up"]["kernel"].sharding.mesh == mesh
    params, step = load_params(tmp_path)
    equal(state.ema, params)
    assert step == 3
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(params))


def test_what_is_saved_is_the_state_at_that_step_though_training_goes_on_at_once(tmp_path):
    """The step donates the buffers that a background thread is still writing."""
    state = begin(Mesh().build(jax.devices()[:1]))
    step = jax.jit(make_step(STAGE, OPTIMIZER, 10, decay=0.9), donate_argnums=0)
    batch = toy_batch(8, 16)
    wanted = {}
    with Saver(tmp_path / "checkpoints", keep=20) as saver:
        for i in range(10):
            wanted[i] = jax.tree.map(np.array, state.ema)
            saver.save(i, state, {})
            for _ in range(3):
                state, _ = step(state, {}, jax.random.key(0), batch)
    for i in range(10):
        equal(wanted[i], load_params(tmp_path, i)[0])


def test_the_newest_k_stay_and_nothing_else(tmp_path):
    state = begin(Mesh().build(jax.devices()[:1]))
    with Saver(tmp_path / "checkpoints", keep=2) as saver:
        for step in (1, 2, 3, 4):
            saver.save(step, state, {})
    assert steps_saved(tmp_path) == [3, 4]
    assert {entry.name for entry in (tmp_path / "checkpoints").iterdir()} <= {"3", "4", "trash"}
    assert not list((tmp_path / "checkpoints" / "trash").glob("*"))


def test_the_newest_of_each_period_stays_too(tmp_path):
    state = begin(Mesh().build(jax.devices()[:1]))
    with Saver(tmp_path / "checkpoints", keep=1, period=2) as saver:
        for step in (1, 2, 3, 4, 5):
            saver.save(step, state, {})
    assert steps_saved(tmp_path) == [2, 4, 5]


def test_a_step_can_be_saved_again(tmp_path):
    state = begin(Mesh().build(jax.devices()[:1]))
    with Saver(tmp_path / "checkpoints", keep=2) as saver:
        saver.save(1, state, {"finished": False})
        saver.save(1, state, {"finished": True})
        assert saver.meta() == {"finished": True}


def test_a_missing_checkpoint_is_named_with_what_there_is(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint; it has none"):
        load_params(tmp_path)
    with Saver(tmp_path / "checkpoints", keep=2) as saver:
        saver.save(5, begin(Mesh().build(jax.devices()[:1])), {})
    with pytest.raises(FileNotFoundError, match=r"no checkpoint of step 4; it has steps 5"):
        load_params(tmp_path, 4)


def test_loading_parameters_needs_no_tensorflow(tmp_path):
    import subprocess
    import sys

    with Saver(tmp_path / "checkpoints", keep=2) as saver:
        saver.save(5, begin(Mesh(data=8).build()), {})
    code = (
        "import sys; from t2i_jax.training.checkpoint import load_params; "
        f"print(load_params({str(tmp_path)!r})[1], 'tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["5", "False"]
