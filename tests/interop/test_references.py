"""What is exported runs in the reference library, unchanged, and gives the same numbers."""

import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL as TorchVAE
from diffusers import PriorTransformer as TorchPrior
from diffusers import SD3Transformer2DModel
from transformers import CLIPModel

from t2i_jax.interop import export_model, import_model
from t2i_jax.interop.configs import shapes
from t2i_jax.models.clip import CLIP, TextTower, VisionTower
from t2i_jax.models.mmdit import MMDiT
from t2i_jax.models.prior import PriorTransformer
from t2i_jax.models.vae import AutoencoderKL

SEEDS = range(20)
OURS = {"t2i_jax_step": 2, "t2i_jax_prediction": "Clean()", "t2i_jax_schedule": "Flow()"}


def noisy_params(model, seed):
    """Parameters with every leaf random: zeros and ones would hide a wrong row."""
    rng = np.random.default_rng(seed)

    def draw(x):
        fan = int(np.prod(x.shape[:-1])) if x.ndim > 1 else 100
        return (rng.standard_normal(x.shape) / max(fan, 10) ** 0.5 + (x.ndim == 1)).astype(np.float32)

    return jax.tree.map(draw, shapes(model))


def carried(tmp_path, model, params, reference):
    """The reference's model from what was exported, after our own import gave the same tree back."""
    export_model(model, params, tmp_path, OURS)
    again, tree = import_model(tmp_path)
    assert again == model
    jax.tree.map(np.testing.assert_array_equal, tree, jax.tree.map(np.asarray, params))
    loaded, info = reference.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    return loaded.eval()


def run(model, params, *arrays, method=None):
    arrays = [None if a is None else jnp.asarray(a) for a in arrays]
    return jax.jit(lambda p, *a: model.apply({"params": p}, *a, method=method))(params, *arrays)


def close(ours, theirs):
    np.testing.assert_allclose(np.asarray(ours), theirs.detach().numpy(), atol=1e-4, rtol=1e-4)


def torched(*arrays):
    return [torch.from_numpy(np.asarray(a).copy()) for a in arrays]


def nchw(x):
    return torch.from_numpy(np.asarray(x).transpose(0, 3, 1, 2).copy())


@pytest.mark.parametrize("seed", SEEDS)
def test_mmdit_equals_sd3_transformer(tmp_path, seed):
    pick = random.Random(seed)
    heads, patch, grid = pick.choice([1, 2, 3]), pick.choice([1, 2]), pick.choice([3, 5, 8])
    model = MMDiT(
        patch=patch, in_channels=pick.choice([4, 6, 16]), out_channels=pick.choice([4, 8]), width=heads * 16,
        depth=pick.choice([2, 3]), heads=heads, context_width=pick.choice([8, 20]), pooled_width=pick.choice([12, 24]),
        grid=grid, qk_norm=pick.random() < 0.5,
    )  # fmt: skip
    params = noisy_params(model, seed)
    rng = np.random.default_rng(seed)
    h, w = (patch * pick.randint(2, grid) for _ in range(2))
    latent = rng.standard_normal((2, h, w, model.in_channels), np.float32)
    context = rng.standard_normal((2, 5, model.context_width), np.float32)
    pooled = rng.standard_normal((2, model.pooled_width), np.float32)
    time = np.float32([0.1, 0.9])
    reference = carried(tmp_path, model, params, SD3Transformer2DModel)
    ours = run(model, params, latent, time, context, pooled)
    theirs = reference(nchw(latent), *torched(context, pooled, 1000 * time)).sample
    close(ours, theirs.permute(0, 2, 3, 1))


@pytest.mark.parametrize("seed", SEEDS)
def test_prior_equals_prior_transformer(tmp_path, seed):
    pick = random.Random(seed)
    heads, e, length = pick.choice([1, 2, 4]), pick.choice([8, 24]), pick.choice([3, 7])
    model = PriorTransformer(
        embedding=e, width=16 * heads, depth=pick.choice([1, 2, 3]), heads=heads, context=length, text_width=e
    )
    params = noisy_params(model, seed)
    rng = np.random.default_rng(seed)
    noisy, text = rng.standard_normal((2, 2, e), np.float32)
    features = rng.standard_normal((2, length, e), np.float32)
    mask = np.arange(length) < np.array([[length], [2]])
    time = np.float32([3.0, 977.0])
    mask = mask if pick.random() < 0.7 else None
    reference = carried(tmp_path, model, params, TorchPrior)
    ours = run(model, params, noisy, time, text, features, mask)
    theirs = reference(
        torch.from_numpy(noisy), torch.from_numpy(time), torch.from_numpy(text), torch.from_numpy(features),
        None if mask is None else torch.from_numpy(mask),
    ).predicted_image_embedding  # fmt: skip
    close(ours, theirs)


@pytest.mark.parametrize("seed", SEEDS)
def test_clip_equals_clip_model(tmp_path, seed):
    pick = random.Random(seed)
    act, heads, patch = pick.choice(["gelu", "quick_gelu"]), pick.choice([1, 2]), pick.choice([4, 8])
    pad, eos = pick.choice([(0, 1), (5, 3), (1, 49)])
    model = CLIP(
        TextTower(
            vocab=50, context=pick.choice([6, 9]), width=16 * heads, depth=pick.choice([1, 2]), heads=heads,
            activation=act, eos=eos, pad=pad,
        ),
        VisionTower(image_size=patch * pick.choice([2, 3]), patch=patch, width=24, depth=2, heads=2, activation=act),
        pick.choice([8, 20]),
    )  # fmt: skip
    params = noisy_params(model, seed)
    rng = np.random.default_rng(seed)
    length = model.text.context
    tokens = rng.integers(6, 49, (3, length)).astype(np.int32)
    for row, end in enumerate((length - 1, 2, 1)):
        tokens[row, end:] = eos
        tokens[row, end + 1 :] = pad
    side = model.vision.image_size
    image = rng.standard_normal((3, side, side, 3), np.float32)
    reference = carried(tmp_path, model, params, CLIPModel)
    images, texts, scale = run(model, params, image, tokens)
    out = reference(input_ids=torch.from_numpy(tokens).long(), pixel_values=nchw(image))
    unit = lambda x: x / jnp.linalg.norm(x, axis=-1, keepdims=True)
    close(unit(images), out.image_embeds)
    close(unit(texts), out.text_embeds)
    close(jnp.exp(scale) * unit(images) @ unit(texts).T, out.logits_per_image)
    features, _ = run(model, params, tokens, method="encode_text")
    close(features, reference.text_model(torch.from_numpy(tokens).long()).last_hidden_state)


@pytest.mark.parametrize("seed", SEEDS)
def test_vae_equals_autoencoder_kl(tmp_path, seed):
    pick = random.Random(seed)
    groups = pick.choice([2, 4])
    model = AutoencoderKL(
        channels=tuple(groups * pick.choice([1, 2, 3]) for _ in range(pick.choice([2, 3]))), layers=pick.choice([1, 2]),
        latent_channels=pick.choice([2, 5]), groups=groups, attention=pick.random() < 0.6, quant=pick.random() < 0.5,
    )  # fmt: skip
    params = noisy_params(model, seed)
    rng = np.random.default_rng(seed)
    image = rng.standard_normal((2, 2 * model.factor, 3 * model.factor, 3), np.float32)
    reference = carried(tmp_path, model, params, TorchVAE)
    mean, logvar = run(model, params, image, method="encode")
    posterior = reference.encode(nchw(image)).latent_dist
    close(mean, posterior.mean.permute(0, 2, 3, 1))
    close(logvar, posterior.logvar.permute(0, 2, 3, 1))
    close(run(model, params, mean, method="decode"), reference.decode(nchw(mean)).sample.permute(0, 2, 3, 1))


def test_unknown_class_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"_class_name": "UNet2DModel"}')
    with pytest.raises(ValueError, match="UNet2DModel"):
        import_model(tmp_path)
