"""The polish: the VAE's decoder trained on against a discriminator, for crisp pictures of painted latents.

The demo has none: in a few minutes the discriminator does not learn enough to help.

    t2i train configs/emoji/polish.py --run runs/emoji
"""

import dataclasses

from configs.emoji.vae import DATA
from configs.emoji.vae import STAGE as VAE
from t2i_jax.stages import PolishStage
from t2i_jax.training import AdamW, Cosine, Experiment, Reports


def config() -> Experiment:
    return Experiment(
        stage=PolishStage(vae=VAE, crop=32),
        data=dataclasses.replace(DATA, batch=32),
        optimizer=AdamW(learning_rate=1e-3, schedule=Cosine(warmup=50), b1=0.5, clip=0.0, decay=0.0),
        steps=2500,
        reports=Reports(preview_every=1250),
    )
