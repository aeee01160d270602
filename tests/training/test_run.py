"""What may differ when a run goes on, and where it may be."""

import dataclasses
import os
import tempfile
from pathlib import Path

import pytest

from t2i_jax.diffusion import DDIM, Guidance
from t2i_jax.models.clip import CLIP, TextTower, VisionTower
from t2i_jax.models.mmdit import MMDiT
from t2i_jax.models.remat import Remat
from t2i_jax.stages import DecoderStage
from t2i_jax.training import Checkpoints, Limits, Reports
from t2i_jax.training.run import Run, make_folder
from t2i_jax.training.serialize import ConfigError, encode
from tests.training.test_loop import FIRST

MIXED = (("emoji64", 3.0), ("data/mine", 1.0))


def changed(dataset=FIRST.data.dataset, **data):
    return dataclasses.replace(FIRST, data=dataclasses.replace(FIRST.data, dataset=dataset, **data))


@pytest.mark.parametrize("old, new", [
    (FIRST, changed(max_bad=0.5)),
    (FIRST, changed(memory_gb=0.0)),
    (FIRST, changed(dataset="/mnt/emoji64")),
    (changed(MIXED), changed((("/mnt/emoji64", 3.0), ("data/mine", 1.0)))),
    (FIRST, dataclasses.replace(
        FIRST, steps=9, overlap=True, cache_gb=0.0, checkpoints=Checkpoints(), reports=Reports(),
        limits=Limits(rollbacks=9),
    )),
])  # fmt: skip
def test_what_changes_nothing_that_was_learnt_may_change(tmp_path, old, new):
    Run(tmp_path, "toy").check_config(encode(old), new)


def test_how_a_model_is_computed_may_change(tmp_path):
    def one(**how):
        clip = CLIP(TextTower(**how), VisionTower(**how), 64)
        return dataclasses.replace(FIRST, stage=DecoderStage(MMDiT(pooled_width=512, **how), clip=clip))

    run = Run(tmp_path, "decoder")
    run.check_config(encode(one()), one(remat=Remat(("inner",)), unroll=3))
    with pytest.raises(ConfigError, match="stage.model.depth: 8 -> 9"):
        run.check_config(encode(one()), one(depth=9))


def test_how_a_stage_is_sampled_may_change(tmp_path):
    def one(**how):
        return dataclasses.replace(FIRST, stage=DecoderStage(**how))

    run = Run(tmp_path, "decoder")
    run.check_config(encode(one()), one(sampler=DDIM(20), guidance=Guidance(5.0), image_guidance=1.0))
    with pytest.raises(ConfigError, match=r"stage.drop_text: 0.1 -> 0.2"):
        run.check_config(encode(one()), one(drop_text=0.2, image_guidance=1.0))


@pytest.mark.parametrize("old, new, says", [
    (FIRST, changed(batch=32), "data.batch: 16 -> 32"),
    (FIRST, changed(split="train"), "data.split"),
    (changed(MIXED), changed((("emoji64", 1.0), ("data/mine", 1.0))), "data.dataset"),
    (FIRST, changed(MIXED), "data.dataset"),
])  # fmt: skip
def test_what_decides_the_examples_may_not(tmp_path, old, new, says):
    with pytest.raises(ConfigError, match=says):
        Run(tmp_path, "toy").check_config(encode(old), new)


@pytest.fixture
def folder():
    """A folder into which nobody may write but root, who is someone else meanwhile."""
    with tempfile.TemporaryDirectory() as path:
        Path(path).chmod(0o555)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)
        yield Path(path)
        os.seteuid(user)
        Path(path).chmod(0o755)


def test_a_folder_that_may_not_be_written_to_is_refused_before_the_work(folder):
    with pytest.raises(ValueError, match=f"{folder} is a folder that can.t be written to"):
        make_folder(folder)
    with pytest.raises(ValueError, match="new can't be made a folder"):
        make_folder(folder / "new")
