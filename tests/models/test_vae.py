"""The autoencoder is the reference's function, and its pieces are what they say."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from t2i_jax.models.vae import AutoencoderKL, sample

RENAMES = (  # our path -> the reference's key
    (r"^encoder/level_(\d+)/", r"encoder.down_blocks.\1."),
    (r"^decoder/level_(\d+)/", r"decoder.up_blocks.\1."),
    (r"/middle/", ".mid_block."),
    (r"attention/norm/", "attentions.0.group_norm."),
    (r"attention/query/", "attentions.0.to_q."),
    (r"attention/key/", "attentions.0.to_k."),
    (r"attention/value/", "attentions.0.to_v."),
    (r"attention/out/", "attentions.0.to_out.0."),
    (r"residual_(\d+)/", r"resnets.\1."),
    (r"(down_blocks\.\d+\.)resample/", r"\1downsamplers.0.conv."),
    (r"(up_blocks\.\d+\.)resample/", r"\1upsamplers.0.conv."),
    (r"shortcut/", "conv_shortcut."),
    (r"norm_out/", "conv_norm_out."),
    (r"(kernel|scale)$", "weight"),
    (r"/", "."),
)


def reference_key(path: str) -> str:
    for pattern, new in RENAMES:
        path = re.sub(pattern, new, path)
    return path


def from_reference(model, state: dict, params: dict) -> dict:
    """The reference's weights in the tree of ``params``."""
    flat = {}
    for path, leaf in traverse_util.flatten_dict(params, sep="/").items():
        value = state.pop(reference_key(path)).numpy()
        value = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T
        assert value.shape == leaf.shape, path
        flat[path] = jnp.asarray(value)
    assert not state, f"weights of the reference without a place: {sorted(state)}"
    return traverse_util.unflatten_dict(flat, sep="/")


@pytest.mark.parametrize("seed", range(20))
def test_equals_reference(seed):
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    draw = np.random.default_rng(seed)
    groups = int(draw.choice([2, 4]))
    levels = int(draw.integers(1, 5))
    model = AutoencoderKL(
        channels=tuple(int(groups * draw.integers(1, 5)) for _ in range(levels)),
        layers=int(draw.integers(1, 3)),
        latent_channels=int(draw.integers(1, 9)),
        groups=groups,
        attention=bool(draw.integers(2)),
        quant=bool(draw.integers(2)),
        remat=bool(draw.integers(2)),
    )
    torch.manual_seed(seed)
    reference = diffusers.AutoencoderKL(
        block_out_channels=model.channels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=model.layers,
        latent_channels=model.latent_channels,
        norm_num_groups=groups,
        mid_block_add_attention=model.attention,
        use_quant_conv=model.quant,
        use_post_quant_conv=model.quant,
    )
    for parameter in reference.parameters():  # norms start at one and zero: nothing would show
        parameter.data += 0.1 * torch.randn_like(parameter)
    size = model.factor * np.array([int(draw.integers(1, 4)), int(draw.integers(1, 4))])
    image = jnp.asarray(draw.uniform(-1, 1, (2, *size, 3)), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), image)["params"]
    params = {"params": from_reference(model, reference.state_dict(), shapes)}

    with torch.no_grad():
        posterior = reference.encode(torch.from_numpy(np.array(image)).permute(0, 3, 1, 2)).latent_dist
        decoded = reference.decode(posterior.mean).sample
    reconstruction, mean, logvar = model.apply(params, image)
    for ours, theirs in ((mean, posterior.mean), (logvar, posterior.logvar), (reconstruction, decoded)):
        np.testing.assert_allclose(ours, theirs.permute(0, 2, 3, 1).numpy(), rtol=1e-4, atol=1e-4)


def test_sample_has_mean_and_variance_of_the_posterior():
    mean, logvar = jnp.full((1, 100, 100, 1), 3.0), jnp.full((1, 100, 100, 1), 2 * np.log(0.5))
    drawn = sample(mean, logvar, jax.random.key(0))
    assert abs(float(drawn.mean()) - 3.0) < 0.02 and abs(float(drawn.std()) - 0.5) < 0.02


def test_picture_that_does_not_divide_is_named():
    with pytest.raises(ValueError, match="33x32.*multiples of 8"):
        jax.eval_shape(AutoencoderKL().init, jax.random.key(0), jnp.zeros((1, 33, 32, 3)))


def test_groups_that_do_not_divide_are_named():
    with pytest.raises(ValueError, match="groups=16"):
        AutoencoderKL(channels=(24, 32))
