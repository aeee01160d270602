"""What README says of the exported generators' conditions: made by transformers, they give diffusers our pictures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import SD3Transformer2DModel
from transformers import CLIPModel

from t2i_jax.models.clip import CLIP, TextTower, VisionTower
from t2i_jax.models.mmdit import MMDiT
from t2i_jax.models.vae import AutoencoderKL
from t2i_jax.stages import DecoderStage, UpsamplerStage
from t2i_jax.stages.embeddings import image_embedding
from tests.interop.test_references import carried, close, nchw, noisy_params

TOWERS = CLIP(TextTower(40, 6, 16, 2, 2), VisionTower(image_size=32, patch=8, width=16, depth=2, heads=2), 12)
VAE = AutoencoderKL(channels=(8, 8), latent_channels=4, groups=4)
TOKENS = np.array([[2, 7, 9, 1, 0, 0], [2, 8, 9, 30, 4, 1]], np.int32)
NETWORK = {"patch": 2, "out_channels": 4, "width": 32, "depth": 2, "heads": 2, "grid": 4}
DECODER = DecoderStage(MMDiT(**NETWORK, in_channels=4, context_width=16, pooled_width=28), VAE, TOWERS)
UPSAMPLER = UpsamplerStage(MMDiT(**NETWORK, in_channels=8, context_width=12, pooled_width=12), VAE, TOWERS)


def scaled(rows):
    return rows * rows.shape[-1] ** 0.5 / rows.norm(dim=-1, keepdim=True)


def read(clip, pixels):
    """Words, their mean, text and image embedding, from transformers alone."""
    tokens = torch.from_numpy(TOKENS).long()
    words = scaled(clip.text_model(tokens, output_hidden_states=True).hidden_states[0])
    own = (tokens != 0)[..., None]
    mean = scaled((words * own).sum(1))
    output = clip(input_ids=tokens, pixel_values=nchw(pixels / np.float32(127.5) - 1))
    return words, mean, scaled(output.text_embeds), scaled(output.image_embeds)


@pytest.mark.parametrize("stage", [DECODER, UPSAMPLER], ids=["decoder", "upsampler"])
def test_the_exported_generators_read_captions_and_pictures_through_the_exported_clip(tmp_path, stage):
    rng = np.random.default_rng(0)
    clip, network = noisy_params(TOWERS, 0), noisy_params(stage.model, 1)
    pixels = rng.integers(0, 256, (2, 32, 32, 3), np.uint8)
    noisy, large = rng.standard_normal((2, 2, 8, 8, 4), np.float32)
    time = np.float32([0.1, 0.9])
    words, mean, text, image = read(carried(tmp_path / "clip", TOWERS, clip, CLIPModel), pixels)
    reference = carried(tmp_path / "network", stage.model, network, SD3Transformer2DModel)

    def ours(params, clip, x, large):
        found = stage.text_features({"clip": clip}, jnp.asarray(TOKENS))
        picture = image_embedding(TOWERS, clip, jnp.asarray(pixels))
        if stage is DECODER:
            return stage.network(params, picture, found["words"], found["bag"])(x, jnp.asarray(time))
        return stage.network(params, large, picture, found["text_embedding"])(x, jnp.asarray(time))

    if stage is DECODER:
        given = nchw(noisy), words, torch.cat([image, mean], dim=-1)
    else:
        given = nchw(np.concatenate([noisy, large], axis=-1)), torch.stack([image, text], dim=1), image
    theirs = reference(*given, torch.from_numpy(1000 * time)).sample
    close(jax.jit(ours)(network, clip, noisy, large), theirs.permute(0, 2, 3, 1))
