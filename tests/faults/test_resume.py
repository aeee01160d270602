"""A run that is stopped after every single step ends with the very bits of the one nobody disturbed."""

import shutil

import pytest

from t2i_jax.training import EXIT_STOPPED
from tests.faults.driver import Life
from tests.faults.nursery import digest, saved

STAGES = ("vae", "clip", "prior", "decoder", "upsampler")
STEPS = 5
"""20 pictures, 8 (the toy: 40, 12) a step: the third (the fourth) crosses the epoch's edge."""


def stopped_everywhere(nursery, root, log, steps, **options):
    """Trains with a new process for every step, each told to stop after it; the last one killed in its middle once."""
    for step in range(1, steps):
        life = Life(str(root), str(log), steps=steps, every=100, faults=((0, step, "term"),), **options)
        assert nursery.run(life, 300) == EXIT_STOPPED, log.read_text()[-3000:]
        assert max(saved(root, life.stage)) == step
    assert nursery.run(Life(str(root), str(log), steps=steps, every=100, faults=((0, steps, "kill"),), **options)) == -9
    assert nursery.run(Life(str(root), str(log), steps=steps, every=100, **options), 300) == 0


def test_a_run_stopped_after_every_step_is_bit_for_bit_the_straight_one(nursery, straight, fresh, tmp_path):
    _, wanted = straight(steps=STEPS, every=100, accumulate=2)
    root = fresh()
    stopped_everywhere(nursery, root, tmp_path / "log", STEPS, accumulate=2)
    assert digest(root) == wanted


@pytest.mark.stress
def test_every_stage_stopped_after_every_step_is_bit_for_bit_the_straight_one(nursery, tmp_path):
    resumes = 0
    for stage in STAGES:
        straight, cut = tmp_path / "straight", tmp_path / "cut"
        parts = 1 if stage == "clip" else 2  # CLIP takes no batch in parts
        if straight.exists():
            shutil.copytree(straight, cut)
        life = Life(str(straight), str(tmp_path / "log"), steps=STEPS, every=100, stage=stage, accumulate=parts)
        assert nursery.run(life, 300) == 0, (tmp_path / "log").read_text()[-3000:]
        cut.mkdir(exist_ok=True)
        shutil.copy(straight / "tokenizer.model", cut)
        stopped_everywhere(nursery, cut, tmp_path / "log", STEPS, stage=stage, accumulate=parts)
        resumes += STEPS
        assert digest(cut, stage) == digest(straight, stage), stage
        print(f"{stage}: bit-equal after {STEPS} resumes", flush=True)
        shutil.rmtree(cut)
    print(f"\n{resumes} resumes, {len(STAGES)} stages at every step of {STEPS}: all bit-equal")
