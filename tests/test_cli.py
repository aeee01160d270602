"""`t2i train` on a folder of configs: every stage, each after those that it reads."""

import importlib.util
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from t2i_jax.cli import COMMANDS, USAGE, main

CONFIG = """
import dataclasses

from t2i_jax.training import Experiment
from tests.training import test_loop as given

def config() -> Experiment:
    return dataclasses.replace(given.{base}, mesh=given.Mesh(), steps=2)
"""


def folder_of(root: Path, **files: str) -> Path:
    folder = root / "configs" / "toy"
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    return folder


def test_a_folder_trains_every_stage_that_it_describes(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    first, second = CONFIG.format(base="FIRST"), CONFIG.format(base="SECOND")
    folder = folder_of(tmp_path, a=second, b=first, captions="WORDS = ['no config here']\n")
    assert main(["train", str(folder), "--run", str(tmp_path / "run")]) == 0
    for stage in ("toy", "second"):
        lines = (tmp_path / "run" / stage / "metrics.jsonl").read_text().splitlines()
        assert json.loads(lines[-1])["step"] == 2


def test_the_polish_for_which_nothing_waits_comes_last(monkeypatch, tmp_path):
    begun = []
    monkeypatch.setattr("t2i_jax.training.cascade.train_all", lambda commands, reads: begun.extend(commands) or 0)
    main(["train", str(Path(__file__).parents[1] / "configs" / "emoji"), "--run", str(tmp_path)])
    assert begun == ["vae", "clip", "prior", "decoder", "upsampler", "polish"]


@pytest.mark.parametrize("files, args, says", [
    ({"a": CONFIG.format(base="FIRST")}, ["--steps", "3"], "--steps would have to fit every stage"),
    ({"a": CONFIG.format(base="FIRST"), "b": CONFIG.format(base="FIRST")}, [], "both train 'toy'"),
    ({"captions": "WORDS = []\n"}, [], "has a function config()"),
])  # fmt: skip
def test_what_is_wrong_with_a_folder_is_said(files, args, says, tmp_path, capsys):
    assert main(["train", str(folder_of(tmp_path, **files)), *args]) == USAGE
    assert says in capsys.readouterr().err


@pytest.fixture
def begun(monkeypatch):
    """What a demo would have trained and painted; nothing is."""
    begun = []
    monkeypatch.setattr("t2i_jax.training.cascade.train_all", lambda commands, reads: begun.extend(commands) or 0)
    monkeypatch.setattr("t2i_jax.painting.paint", lambda run, captions, n, seed, out: begun.append(out))
    return begun


EMOJI = str(Path(__file__).parents[1] / "configs" / "emoji")


@pytest.mark.parametrize("args, says", [
    (["--configs", EMOJI, "--out", "sheet.jpg"], "must end in .png"),
    (["--configs", "configs/toy"], "no config at .*captions.py"),
    (["--configs", "elsewhere"], "no folder elsewhere here; run this in t2i_jax's repository"),
])  # fmt: skip
def test_what_is_wrong_with_a_demo_is_said_before_it_trains(args, says, begun, tmp_path, monkeypatch, capsys):
    folder_of(tmp_path, a=CONFIG.format(base="FIRST"))
    monkeypatch.chdir(tmp_path)
    assert main(["demo", *args]) == USAGE
    assert re.search(says, capsys.readouterr().err) and not begun


def test_the_sheet_of_a_demo_stands_in_its_run(begun, tmp_path):
    assert main(["demo", "--configs", EMOJI, "--run", str(tmp_path / "other")]) == 0
    assert begun[0] == "vae" and begun[-1] == str(tmp_path / "other" / "sheet.png")


def test_a_demo_of_the_full_configs_trains_the_polish_too(begun, tmp_path):
    for variant, polished in (("", False), (":config", True)):
        assert main(["demo", "--configs", EMOJI + variant, "--run", str(tmp_path)]) == 0
        assert ("polish" in begun) == polished


OWN = """
from dataclasses import dataclass
from t2i_jax.training import Experiment
from tests.training import test_loop as given
from tests.training.toy import Toy

@dataclass(frozen=True)
class Mine(Toy):
    extra: int = 1
    \"\"\"A field of one's own.\"\"\"

def config() -> Experiment:
    return given.dataclasses.replace(given.FIRST, stage=Mine())
"""


def test_a_config_may_define_a_stage_of_its_own(tmp_path, capsys):
    (tmp_path / "mine.py").write_text(OWN)
    with pytest.raises(SystemExit):
        main(["train", str(tmp_path / "mine.py"), "--help"])
    assert "A field of one's own." in capsys.readouterr().out


@pytest.mark.parametrize("text, says", [
    ("def config():\n    return 1 +\n", "line 2: SyntaxError: invalid syntax"),
    ("import t2i_jaks\n", "line 1: ModuleNotFoundError: No module named 't2i_jaks'"),
    ("from t2i_jax.data import Data\n\ndef config():\n    return Data(bach=3)\n", "line 4: TypeError: "),
    ("import math\nSIZE = math.tow\n", "line 2: AttributeError: module 'math' has no attribute 'tow'"),
    ("from t2i_jax.data import Data\n\ndef config():\n    return Data(batch=0)\n", "line 4: ValueError: data.batch=0"),
])  # fmt: skip
@pytest.mark.parametrize("whole", [False, True])
def test_an_error_in_a_config_is_said_with_file_and_line(text, says, whole, tmp_path, capsys):
    folder = folder_of(tmp_path, a=text)
    assert main(["train", str(folder if whole else folder / "a.py"), "--run", str(tmp_path)]) == USAGE
    assert f"{folder / 'a.py'}, {says}" in capsys.readouterr().err


def test_a_wrong_option_is_a_wrong_call(tmp_path, capsys):
    config = folder_of(tmp_path, a=CONFIG.format(base="FIRST")) / "a.py"
    assert main(["train", str(config), "--stepz", "3"]) == USAGE
    assert main(["train", "--run", str(tmp_path), str(tmp_path / "missing.py")]) == USAGE
    assert f"no config at {tmp_path / 'missing.py'}" in capsys.readouterr().err
    assert main(["train", "--steps", "3", str(config)]) == USAGE
    assert "the config comes before its options: CONFIG --steps" in capsys.readouterr().err
    assert main(["train", "--run", str(tmp_path)]) == USAGE
    assert "no config: t2i train CONFIG" in capsys.readouterr().err


def test_the_run_of_a_stage_is_where_it_stands_however_it_is_named(tmp_path, monkeypatch):
    asked, (stage, link) = [], (tmp_path / name / "toy" for name in ("run", "linked"))
    stage.mkdir(parents=True), link.parent.mkdir()
    link.symlink_to(stage)
    replay = lambda experiment, run, step: asked.append(run) or SimpleNamespace(report=str)
    monkeypatch.setattr("t2i_jax.training.run.read_experiment", lambda stage: None)
    monkeypatch.setattr("t2i_jax.training.replay.replay", replay)
    for place, name in ((stage, "."), (stage, "../toy"), (tmp_path, "run/toy"), (tmp_path, "linked/toy/")):
        monkeypatch.chdir(place)
        assert main(["replay", name, "--step", "1"]) == 0
    assert asked == [stage.parent] * 3 + [link.parent]


@pytest.mark.skipif(importlib.util.find_spec("wandb") is not None, reason="wandb is installed")
def test_a_missing_wandb_is_said_before_anything_is_computed(tmp_path, capsys):
    config = folder_of(tmp_path, a=CONFIG.format(base="FIRST")) / "a.py"
    assert main(["train", str(config), "--run", str(tmp_path / "run"), "--reports.wandb", "mine"]) == USAGE
    assert "pip install wandb" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_search_for_a_mesh_to_paint_on_takes_none(capsys):
    assert main(["plan", "configs/emoji", "--sample", "4", "--search", "2", "--mesh.model", "2"]) == USAGE
    assert "--mesh.model: with --search" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["train", "plan", "doctor"])
def test_a_command_without_its_config_shows_its_usage_and_fails(command, capsys):
    assert main([command]) == USAGE
    assert capsys.readouterr().out.startswith(f"usage: t2i {command} CONFIG")
    assert main([command, "--help"]) == 0


def test_a_config_that_returns_nothing_is_told(tmp_path, capsys):
    path = tmp_path / "a.py"
    path.write_text("def config():\n    3\n")
    for given in (path, tmp_path):
        assert main(["train", str(given), "--run", str(tmp_path / "run")]) == USAGE
        assert "a.py: config() returns NoneType, not an Experiment" in capsys.readouterr().err


@pytest.mark.parametrize(
    "option, value, said",
    [
        ("--stage.model.dtype", "float33", "stage.model.dtype=float33: a model computes in float32, bfloat16"),
        ("--optimizer.matrices", "(", "optimizer.matrices='(' is no regular expression"),
        ("--seed", str(2**32), "seed=4294967296: give a whole number from 0 to 4294967295"),
        ("--seed", "-1", "seed=-1: give a whole number from 0"),
    ],
)
def test_an_option_that_no_training_could_use_is_told(option, value, said, capsys, tmp_path):
    assert main(["train", "configs/emoji/prior.py", "--run", str(tmp_path / "run"), option, value]) == USAGE
    assert said in " ".join(capsys.readouterr().err.split())  # wrapped


@pytest.mark.parametrize("args", [["train", "CONFIG", "--run", "FILE"], ["eval", "no run", "--out", "FILE"]])
def test_a_file_where_a_folder_has_to_be_made_is_said_before_any_work(args, tmp_path, capsys):
    config, file = folder_of(tmp_path, a=CONFIG.format(base="FIRST")) / "a.py", tmp_path / "file"
    file.touch()
    assert main([{"CONFIG": str(config), "FILE": str(file)}.get(arg, arg) for arg in args]) == USAGE
    assert re.search(f"{file}.* can't be made a folder", capsys.readouterr().err)


@pytest.mark.parametrize("error, code", [(OSError(5, "Input/output error", "there"), 1), (ValueError("there"), USAGE)])
def test_an_error_of_the_disk_is_one_line_and_not_the_callers(error, code, monkeypatch, capsys):
    def fails(args):
        raise error

    monkeypatch.setitem(COMMANDS, "sample", (fails, True))
    assert main(["sample"]) == code
    assert capsys.readouterr().err.splitlines()[0] == f"t2i sample: {error}"


def test_an_evaluation_joins_the_other_processes_before_a_cascade_is_loaded(monkeypatch):
    order = []
    monkeypatch.setattr("t2i_jax.parallel.hosts.join", lambda: order.append("join"))
    monkeypatch.setattr("t2i_jax.dalle2.DallE2.load", lambda run: order.append("load"))
    monkeypatch.setattr("t2i_jax.evaluation.evaluate", lambda *args, **options: order.append("measure"))
    assert main(["eval", "run", "--dataset", "emoji64"]) == 0
    assert order == ["join", "load", "measure"]
