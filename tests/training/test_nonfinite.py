"""A step that is not finite changes nothing; a row of them goes back, by a rule that needs nothing but the step."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2i_jax.data.checks import TooManyBad
from t2i_jax.parallel.mesh import Mesh, replicated, split_batch
from t2i_jax.parallel.rules import shardings
from t2i_jax.text import Tokenizer
from t2i_jax.training import AdamW, Checkpoints, Limits, Muon, train
from t2i_jax.training.checkpoint import load_meta, load_params, steps_saved
from t2i_jax.training.midrun import MidrunError, midrun
from t2i_jax.training.nonfinite import ways_back
from t2i_jax.training.replay import begin_from, replay
from t2i_jax.training.serialize import ConfigError
from t2i_jax.training.state import init_state
from t2i_jax.training.step import make_step
from tests.training.test_loop import FIRST, equal, lines
from tests.training.toy import Toy, toy_batch


@dataclasses.dataclass(frozen=True)
class Brittle(Toy):
    """A toy whose loss, or only its gradient, breaks where the batch holds one of the examples ``bad``."""

    bad: tuple[int, ...] = ()
    loss_too: bool = True

    def loss(self, params, frozen, rng, batch):
        value, metrics = super().loss(params, frozen, rng, batch)
        hit = jnp.isin(batch["index"], jnp.array(self.bad)).any()
        if self.loss_too:
            return value * jnp.where(hit, jnp.nan, 1.0), metrics
        root = jnp.sqrt(jnp.where(hit, params["mean"].sum() * 0.0, 1.0))  # 0, with an infinite slope, or 1, with none
        return value + 0.0 * root, metrics


@pytest.mark.parametrize("optimizer, loss_too, mesh", [
    (AdamW(), True, None),
    (AdamW(), False, {"data": 4, "model": 2}),
    (Muon(matrices="kernel"), False, None),
])  # fmt: skip
def test_a_step_that_is_not_finite_changes_its_number_and_no_other_bit(optimizer, loss_too, mesh):
    stage = Brittle(width=64, bad=(3,), loss_too=loss_too)
    step, key = make_step(stage, optimizer, 8, decay=0.9, accumulate=2), jax.random.key(0)
    make = lambda: init_state(stage, optimizer.build(8), key, toy_batch(32, 16))
    if mesh:
        mesh = Mesh(**mesh).build()
        where = shardings(jax.eval_shape(make), mesh)
        make = jax.jit(make, out_shardings=where)
    out = {"out_shardings": (where, replicated(mesh))} if mesh else {}
    state, step = make(), jax.jit(step, donate_argnums=0, **out)
    place = (lambda x: jax.device_put(x, split_batch(mesh))) if mesh else lambda x: x
    good, bad = (place(toy_batch(32, 16) | {"index": jnp.arange(first, first + 32)}) for first in (100, 0))
    state, metrics = step(state, {}, key, good)
    assert metrics["skipped"] == 0
    before = jax.tree.map(np.array, state)
    state, metrics = step(state, {}, key, bad)
    assert metrics["skipped"] == 1 and state.step == before.step + 1
    assert bool(jnp.isfinite(metrics["loss"])) != loss_too
    equal(dataclasses.replace(before, step=0), dataclasses.replace(state, step=0))
    after, metrics = step(state, {}, key, good)
    assert metrics["skipped"] == 0 and (np.asarray(after.params["up"]["kernel"]) != before.params["up"]["kernel"]).any()


BRITTLE = dataclasses.replace(FIRST, stage=Brittle(noise=0.1, bad=tuple(range(40))))


def test_a_single_bad_batch_is_skipped_counted_and_can_be_replayed(tmp_path):
    seen = lambda step: set(np.arange(40)[np.isin(np.arange(40), order_of(step))])
    bad = next(iter(seen(3) - seen(1) - seen(2)))
    experiment = dataclasses.replace(FIRST, stage=Brittle(noise=0.1, bad=(int(bad),)), steps=4)
    assert train(experiment, tmp_path) == 0
    assert [line["skipped"] for line in lines(tmp_path / "toy")][:3] == [0, 0, 1]
    first = json.loads((tmp_path / "toy" / "nonfinite.jsonl").read_text().splitlines()[0])
    assert first["step"] == 3 and first["loss"] == "nan" and first["indices"] == order_of(3).tolist()

    found = replay(experiment, tmp_path, 3)
    assert found.start == 2 and np.isnan(found.loss) and np.isnan(found.grad_norm)
    assert found.first == "gradient/down/bias"
    assert [example["index"] for example in found.examples] == first["indices"] and found.examples[0]["caption"]
    assert found.sheet.exists() and "gradient/down/bias" in found.report()
    straight = lines(tmp_path / "toy")
    for number in (1, 2):
        again = replay(experiment, tmp_path, number)
        np.testing.assert_allclose(again.loss, straight[number - 1]["loss"], rtol=1e-6)
        assert again.first is None
    (tmp_path / "tokenizer.model").unlink()
    Tokenizer.train(["another vocabulary"] * 9, tmp_path / "tokenizer.model", 280)
    with pytest.raises(ConfigError, match="tokenizer"):
        replay(experiment, tmp_path, 3)


def order_of(step):
    from t2i_jax.data import order

    return order(FIRST.seed, step - 1, FIRST.data.batch, 40)


def test_going_back_in_vain_ends_the_training_with_what_to_do(tmp_path):
    experiment = dataclasses.replace(
        BRITTLE, steps=9, checkpoints=Checkpoints(every=100), limits=Limits(nonfinite_row=2, rollbacks=2)
    )
    with pytest.raises(FloatingPointError, match=r"to step 6 .*rolling back did not help 2 times.*lower"):
        train(experiment, tmp_path)
    told = [json.loads(line) for line in (tmp_path / "toy" / "nonfinite.jsonl").read_text().splitlines()]
    assert [line["step"] for line in told if "rolled_back_to" in line] == [2, 4]
    assert steps_saved(tmp_path / "toy") == [2, 4]
    assert load_meta(tmp_path / "toy", 4)["nonfinite"] == {"row": 0, "finite": 0, "rollbacks": 2}
    equal(load_params(tmp_path / "toy", 2)[0], load_params(tmp_path / "toy", 4)[0])


@pytest.mark.parametrize("first, saved, every, ways", [
    (9, [4, 6, 8], 2, [8, 6, 4]),
    (8, [4, 6, 8], 2, [6, 4, 8]),  # the one inside the row does not count
    (9, [2, 4, 7, 8], 4, [8, 4, 7, 2]),  # nor one that a signal asked for
    (9, [7], 4, [7]),
    (9, [10], 1, [10]),  # its state is that before the row
    (9, [], 4, []),
])  # fmt: skip
def test_the_way_back_leads_to_the_last_scheduled_checkpoint_before_the_row(first, saved, every, ways):
    assert ways_back(first, saved, every) == ways


@dataclasses.dataclass(frozen=True)
class Undrawable(Toy):
    """A toy whose preview fails, by an error as an input gives it."""

    def preview(self, params, frozen, rng, batch):
        raise ValueError("nothing to see")


def test_an_input_that_turns_bad_after_the_first_step_is_no_wrong_call(tmp_path):
    reports = dataclasses.replace(FIRST.reports, preview_every=2)
    with pytest.raises(MidrunError, match="nothing to see"):
        train(dataclasses.replace(FIRST, stage=Undrawable(), reports=reports), tmp_path)
    for error, raised in ((ValueError("a"), ValueError), (FileNotFoundError("a"), FileNotFoundError)):
        with pytest.raises(raised), midrun(lambda: False):
            raise error
    with pytest.raises(TooManyBad), midrun(lambda: True):
        raise TooManyBad("too many")


@pytest.mark.parametrize("number, saved, rollbacks, start", [
    (7, [2, 4, 6], [], 6),
    (6, [2, 4, 6], [], 4),
    (9, [4, 6, 8], [(8, 4)], 8),
    (9, [4, 6], [(8, 4)], 4),
    (9, [6], [(8, 4)], 0),
])  # fmt: skip
def test_a_replay_begins_where_every_roll_back_on_its_way_can_be_followed(number, saved, rollbacks, start):
    assert begin_from(number, saved, rollbacks) == start
