"""The autoencoder: 64x64 pictures to 8x8 latents, 32x32 pictures to 4x4.

    t2i train configs/emoji/vae.py --run runs/emoji

The demo's halves the picture twice and not three times: as many numbers a picture, on a grid twice as fine. It takes
less time a step and needs far fewer of them (docs/recipes.md).
"""

import dataclasses

from t2i_jax.data import Data
from t2i_jax.models.vae import AutoencoderKL
from t2i_jax.stages import VAEStage
from t2i_jax.training import Cosine, Experiment, Muon, Reports

MODEL = AutoencoderKL(channels=(16, 32, 64, 128), layers=1, latent_channels=16, groups=8, attention=True)
DEMO = AutoencoderKL(channels=(16, 32, 64), layers=1, latent_channels=4, groups=8, attention=True)
MATRICES = r"^(?!.*conv_(in|out)).*kernel$"
DATA = Data(
    dataset="emoji64",
    split="train",
    image_size=64,
    context=12,
    truncate=True,
    caption_weights=(1.0, 4.0, 1.0, 3.0, 3.0),  # the second, fourth and fifth caption name the style
    flip=False,
)


STAGE = VAEStage(model=MODEL, crop=32)


def config() -> Experiment:
    return Experiment(
        stage=STAGE,
        data=dataclasses.replace(DATA, batch=32),
        optimizer=Muon(learning_rate=5e-3, schedule=Cosine(warmup=100), matrices=MATRICES, iterations=3),
        steps=4500,
        reports=Reports(preview_every=1500),
    )


def demo() -> Experiment:
    full = config()
    return dataclasses.replace(
        full,
        stage=dataclasses.replace(STAGE, model=DEMO),
        data=dataclasses.replace(full.data, batch=16),
        optimizer=dataclasses.replace(full.optimizer, learning_rate=4e-3),
        steps=800,
    )
