import json

from t2i_jax.parallel.mesh import Mesh
from t2i_jax.training.origin import origin, remarks
from tests.training.test_loop import FIRST

MADE = {"data": "d", "tokenizer": "t"}


def test_a_checkpoint_says_what_it_was_made_from():
    said = json.loads(json.dumps(origin(FIRST, MADE, Mesh(data=4, model=2).build())))
    assert said["seed"] == FIRST.seed
    assert said["config"]["steps"] == FIRST.steps
    assert said["made_from"] == MADE
    assert {"jax", "orbax-checkpoint", "python"} <= set(said["versions"])
    assert said["machine"] == {"devices": "8 cpu (cpu)", "processes": 1, "mesh": "replica 1 × data 4 × model 2"}


def test_other_versions_are_a_warning_and_another_mesh_is_a_note():
    then = origin(FIRST, MADE, Mesh(data=8).build())
    now = origin(FIRST, MADE, Mesh(data=4, model=2).build())
    assert remarks(now, now) == []
    then["versions"] = then["versions"] | {"jax": "0.0.1"}
    warning, note = remarks(then, now)
    assert warning.startswith("warning: ")
    assert f"jax 0.0.1 -> {now['versions']['jax']}" in warning
    assert note.startswith("note: ")
    assert "mesh replica 1 × data 8 × model 1 -> replica 1 × data 4 × model 2" in note


def test_another_resizer_is_a_warning_also_to_a_checkpoint_that_knew_none():
    now = origin(FIRST, MADE, Mesh().build())
    now["versions"] = now["versions"] | {"cykooz-resizer": "4.0.1"}
    for then in ({"jax": now["versions"]["jax"]}, now["versions"] | {"cykooz-resizer": "3.9"}):
        (warning,) = remarks({"versions": then, "machine": now["machine"]}, now)
        assert "another library resizes" in warning and "-> 4.0.1" in warning
    assert remarks(now, now) == []


def test_a_checkpoint_that_says_less_than_today_is_no_change():
    assert remarks({"versions": {}}, origin(FIRST, MADE, Mesh().build())) == []
