"""The autoencoder: 64x64 pictures to 16x16 latents of four channels, 32x32 pictures to 8x8.

    t2i train configs/emoji/vae.py --run runs/emoji
"""

import dataclasses

from t2i_jax.data import Data
from t2i_jax.models.vae import AutoencoderKL
from t2i_jax.stages import VAEStage
from t2i_jax.training import Cosine, Experiment, Muon, Reports

MODEL = AutoencoderKL(channels=(16, 32, 64), layers=1, latent_channels=4, groups=8, attention=True)
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
        data=dataclasses.replace(DATA, batch=16),
        optimizer=Muon(learning_rate=4e-3, schedule=Cosine(warmup=100), matrices=MATRICES, iterations=3),
        steps=3600,
        reports=Reports(preview_every=1200),
    )


def demo() -> Experiment:
    return dataclasses.replace(config(), steps=800)
