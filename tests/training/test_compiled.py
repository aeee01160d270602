"""What was compiled is not compiled again, and a plan's picture shows its numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from t2i_jax.training import compiled as module
from t2i_jax.training.bars import Panel, draw
from t2i_jax.training.compiled import compiled

SHAPE = jax.ShapeDtypeStruct((8,), jnp.float32)


@pytest.fixture(autouse=True)
def here(monkeypatch):
    """No TPU compiler stands here: this CPU's does."""
    monkeypatch.setattr(module, "_VERSIONS", ("jax",))


@pytest.fixture
def calls(monkeypatch):
    """How many programs have been compiled."""
    found, compile_ = [], jax.stages.Lowered.compile
    monkeypatch.setattr(jax.stages.Lowered, "compile", lambda self, *a: found.append(1) or compile_(self, *a))
    return found


def test_the_same_program_is_compiled_once_and_another_anew(tmp_path, calls):
    make = lambda scale, where: compiled(jax.jit(lambda x: scale * x), (SHAPE,), where, tmp_path)
    first = make(2, "here")
    assert make(2, "here") == first and len(calls) == 1
    assert first.arguments == 32 and first.outputs == 32 and first.peak >= 64 and "ENTRY" in first.text
    make(3, "here")
    make(2, "there")
    assert len(calls) == 3
    compiled(jax.jit(lambda x: 2 * x), (SHAPE,), "here")
    assert len(calls) == 4


def test_a_state_in_its_own_place_needs_no_memory_twice(tmp_path):
    given = compiled(jax.jit(lambda x: x + 1, donate_argnums=0), (SHAPE,), "here", tmp_path)
    assert given.aliased == 32 and given.peak == compiled(jax.jit(lambda x: x + 1), (SHAPE,), "here").peak - 32


def test_bars_are_as_long_as_their_values(tmp_path):
    draw([Panel("memory", "GiB", {"a": {"x": 1.0, "y": 2.0}, "b": {"x": 3.0}}, limit=6.0)], tmp_path / "bars.png")
    pixels = np.array(Image.open(tmp_path / "bars.png"))
    length = lambda colour: max((pixels == colour).all(-1).sum(1))
    x, y, pale = length((0, 114, 178)), length((86, 180, 233)), length((238, 238, 238))
    assert abs(x / y - 1.5) < 0.05  # b's 3 to a's 2
    assert abs(pale - x) <= 2  # what is left of 6
