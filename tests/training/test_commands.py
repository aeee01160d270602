import shutil

import jax
import numpy as np
import pytest

from t2i_jax import cli
from t2i_jax.parallel.mesh import Mesh
from t2i_jax.training.checkpoint import Saver, load_params
from t2i_jax.training.commands import compare
from tests.training.test_checkpoint import begin


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    """A stage with the steps 1 and 2; of the second one leaf is larger by a quarter, and the config is another."""
    stage = tmp_path_factory.mktemp("run") / "toy"
    state = begin(Mesh().build(jax.devices()[:1]))
    with Saver(stage / "checkpoints", keep=3) as saver:
        saver.save(1, state, {"config": {"seed": 0}, "versions": {"jax": "1"}})
        state.ema["up"]["kernel"] = state.ema["up"]["kernel"] * 1.25
        saver.save(2, state, {"config": {"seed": 5}, "versions": {"jax": "1"}})
    return stage


@pytest.fixture
def damaged(stage, tmp_path):
    """A copy whose second step has one other bit."""
    copy = tmp_path / "toy"
    shutil.copytree(stage, copy)
    path = copy / "checkpoints" / "2" / "ema" / "_METADATA"
    data = bytearray(path.read_bytes())
    data[20] ^= 1
    path.write_bytes(data)
    return copy


def test_verify_exits_with_1_and_names_the_file_where_a_byte_is_another(stage, damaged, capsys):
    assert cli.main(["ckpt", "verify", str(stage)]) == 0
    assert "step 1 is whole" in capsys.readouterr().out
    assert cli.main(["ckpt", "verify", str(damaged)]) == 1
    said = capsys.readouterr().out
    assert "step 1 is whole" in said
    assert "step 2 is DAMAGED\n  ema/_METADATA: its bytes are not those" in said
    assert cli.main(["ckpt", "verify", str(damaged), "--step", "1"]) == 0
    assert cli.main(["ckpt", "verify", str(damaged), "--step", "9"]) == cli.USAGE
    assert "it has 1, 2" in capsys.readouterr().err


def test_list_shows_what_is_there_what_is_damaged_and_what_was_set_aside(damaged, capsys):
    assert cli.main(["ckpt", "list", str(damaged)]) == 0
    one, two, fault = capsys.readouterr().out.splitlines()
    assert one.split()[0] == "1"
    assert "verified" in one
    assert "among the 3 newest" in one
    assert "DAMAGED" in two
    assert fault.strip().startswith("ema/_METADATA: ")
    with Saver(damaged / "checkpoints", keep=3) as saver:
        assert saver.latest() == 1
    assert cli.main(["ckpt", "list", str(damaged), "--no-hash"]) == 0
    one, two = capsys.readouterr().out.splitlines()
    assert "not read" in one
    assert two.endswith(f"set aside as damaged: {damaged / 'checkpoints' / 'rejected' / '2'}")


def test_diff_names_the_config_and_the_leaf_that_differ(stage, capsys):
    assert cli.main(["ckpt", "diff", f"{stage}@1", str(stage)]) == 0
    said = capsys.readouterr().out
    assert "config: \n  seed: 0 -> 5\n" in said
    assert "versions: the same\n" in said
    assert "  up/kernel: at most " in said
    assert "0.2 of the norm" in said
    assert "parameters: 3 of 4 common leaves are equal bit for bit" in said
    assert cli.main(["ckpt", "diff", f"{stage}@1", f"{stage}@1"]) == 0
    assert "parameters: equal bit for bit" in capsys.readouterr().out


def test_leaves_that_only_one_has_or_of_another_shape_are_named():
    one, two = {"a": np.zeros(2), "b": np.zeros(3)}, {"b": np.zeros(4), "c": np.ones(1, np.float32)}
    assert list(compare(one, two)) == [
        "  a: only in A float64[2]",
        "  c: only in B float32[1]",
        "  b: float64[3] in A, float64[4] in B",
        "parameters: 0 of 1 common leaves are equal bit for bit",
    ]


def test_a_step_that_was_asked_for_and_is_damaged_is_refused_and_the_newest_whole_one_is_said(damaged, capsys):
    assert cli.main(["ckpt", "diff", f"{damaged}@2", str(damaged)]) == cli.USAGE
    assert "the checkpoint of step 2 is damaged: ema/_METADATA" in capsys.readouterr().err
    assert load_params(damaged)[1] == 1
    assert "Step 1 is used" in capsys.readouterr().err


def test_a_place_without_checkpoints_is_named(tmp_path, capsys):
    assert cli.main(["ckpt", "list", str(tmp_path)]) == cli.USAGE
    assert "has no checkpoints: name the directory of a stage" in capsys.readouterr().err
