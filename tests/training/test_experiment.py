"""Numbers that make no sense are refused when the experiment is made, by the field's name."""

import dataclasses
import math

import pytest

from t2i_jax.cli import USAGE, main
from tests.training.test_loop import FIRST


@pytest.mark.parametrize("part, field, bad, least", [
    ("checkpoints", "every", 0, 1), ("checkpoints", "keep", 0, 1), ("checkpoints", "keep_period", -1, 0),
    ("checkpoints", "tolerate", -1, 0), ("reports", "every", 0, 1), ("reports", "preview_every", -1, 0),
    ("reports", "previews", 0, 1), ("limits", "nonfinite_row", 0, 1), ("limits", "rollbacks", -1, 0),
    ("limits", "watchdog_s", math.nan, 0.0), ("", "steps", -5, 0), ("", "accumulate", 0, 1),
    ("", "cache_gb", -1.0, 0.0),
])  # fmt: skip
def test_a_number_below_what_makes_sense_is_refused_and_the_least_one_is_taken(part, field, bad, least):
    drawn = dataclasses.replace(FIRST, reports=dataclasses.replace(FIRST.reports, preview_every=1))
    of = getattr(drawn, part) if part else drawn
    name = f"{part}.{field}" if part else field
    with pytest.raises(ValueError, match=f"^{name}={bad}: give at least {int(least)}$"):
        dataclasses.replace(of, **{field: bad})
    assert getattr(dataclasses.replace(of, **{field: least}), field) == least


def test_sheets_that_are_never_drawn_may_have_no_pictures():
    assert dataclasses.replace(FIRST.reports, preview_every=0, previews=0).previews == 0


@pytest.mark.parametrize("ema", [-0.1, 1.5, math.nan])
def test_a_decay_that_is_no_share_is_refused(ema):
    with pytest.raises(ValueError, match=r"^ema=.*: 0 to 1$"):
        dataclasses.replace(FIRST, ema=ema)


@pytest.mark.parametrize("option, says", [
    ("--checkpoints.every=0", "checkpoints.every=0: give at least 1"),
    ("--accumulate=0", "accumulate=0: give at least 1"),
])  # fmt: skip
def test_the_command_says_which_and_trains_nothing(option, says, tmp_path, capsys):
    assert main(["train", "configs/emoji/vae.py", "--run", str(tmp_path / "run"), option]) == USAGE
    assert says in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()
