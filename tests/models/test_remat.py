"""What a policy keeps changes no number, only what is computed again."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2i_jax.models.mmdit import MMDiT
from t2i_jax.models.remat import ALL, INNER, MIXED, NAMES, QKV, Remat
from t2i_jax.models.transformer import Transformer
from t2i_jax.models.vae import AutoencoderKL
from t2i_jax.training.flops import count_flops
from t2i_jax.training.serialize import decode, encode

STREAM, PICTURE = (2, 6, 32), (2, 16, 16, 3)
MODELS = {
    "transformer": (partial(Transformer, 32, 2, 4, 128), (STREAM,)),
    "mmdit": (
        partial(MMDiT, 1, 4, 4, 64, 2, 2, context_width=32, pooled_width=32, grid=4),
        ((2, 4, 4, 4), (2,), STREAM, (2, 32)),
    ),
    "vae": (partial(AutoencoderKL, (8, 16), 1, 4, 4), (PICTURE,)),
}


def gradient(name, keep=(ALL,), offload=()):
    """A function of parameters and inputs, and the shapes of both."""
    make, shapes = MODELS[name]
    model, inputs = make(remat=Remat(keep, offload)), [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    loss = lambda params, *inputs: jnp.square(jax.tree.leaves(model.apply(params, *inputs))[0]).sum()
    return jax.jit(jax.grad(loss)), (jax.eval_shape(model.init, jax.random.key(1), *inputs), *inputs)


def flops(name, keep):
    function, shapes = gradient(name, keep)
    return count_flops(function, *shapes)


@pytest.mark.parametrize(
    "name, policies",
    [("transformer", [((),), (NAMES,), ((QKV,), (INNER,))]), ("mmdit", [(NAMES,)]), ("vae", [(NAMES,)])],
)
def test_what_is_kept_changes_no_number(name, policies):
    rng = np.random.default_rng(0)
    draw = lambda leaf: 0.2 * rng.standard_normal(leaf.shape, np.float32)
    given = jax.tree.map(draw, gradient(name)[1])
    everything = gradient(name)[0](*given)
    scale = max(np.abs(leaf).max() for leaf in jax.tree.leaves(everything))
    for policy in policies:
        other = gradient(name, *policy)[0](*given)
        for one, two in zip(jax.tree.leaves(everything), jax.tree.leaves(other), strict=True):
            own = max(np.abs(one).max(), 1e-4 * scale)  # a bias of keys changes nothing: its gradient is rounding
            np.testing.assert_allclose(two, one, rtol=0, atol=1e-5 * own, err_msg=str(policy))


@pytest.mark.parametrize("name", MODELS)
def test_with_every_product_kept_only_the_attention_weights_are_computed_again(name):
    everything, products, nothing = (flops(name, keep) for keep in ((ALL,), NAMES, ()))
    assert everything < products < 1.03 * everything
    assert 1.1 * everything < nothing < 1.34 * everything  # a third more, but for what lies outside the layers


@pytest.mark.parametrize("name, keep", [(name, one) for name in MODELS for one in NAMES if (name, one) not in (
    ("vae", QKV), ("vae", MIXED),
)])  # fmt: skip
def test_a_value_that_is_not_kept_is_computed_again(name, keep):
    assert flops(name, tuple(one for one in NAMES if one != keep)) > flops(name, NAMES)


def test_a_value_on_the_host_is_not_computed_again():
    others = tuple(one for one in NAMES if one != INNER)
    function, shapes = gradient("transformer", others, (INNER,))
    assert count_flops(function, *shapes) == flops("transformer", NAMES) < flops("transformer", others)


@pytest.mark.parametrize("wrong", [
    {"keep": ("values",)}, {"offload": (INNER,)}, {"keep": (), "offload": (ALL,)}, {"keep": (QKV,), "offload": (QKV,)},
])  # fmt: skip
def test_a_policy_that_names_nothing_known_or_a_value_twice_is_refused(wrong):
    with pytest.raises(ValueError, match="qkv, mixed, inner, outer"):
        Remat(**wrong)


def test_a_run_whose_policy_was_written_with_a_switch_is_read():
    written = {"class": "t2i_jax.models.remat.Remat", "keep": ["qkv"]}
    assert decode(written | {"offload": False}) == decode(written) == Remat((QKV,))
    assert decode(written | {"offload": True}) == decode(encode(Remat((), (QKV,)))) == Remat((), (QKV,))
