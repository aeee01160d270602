"""The decoder: a caption and an image embedding to the 4x4 latents of a 32x32 picture.

    t2i train configs/emoji/decoder.py --run runs/emoji
"""

import dataclasses

from configs.emoji.clip import MODEL as CLIP
from configs.emoji.vae import DATA
from configs.emoji.vae import MODEL as VAE
from t2i_jax.models.mmdit import MMDiT
from t2i_jax.stages import DecoderStage
from t2i_jax.training import AdamW, Cosine, Experiment, Reports

MODEL = MMDiT(
    patch=1, in_channels=16, out_channels=16, width=256, depth=8, heads=4, context_width=256, pooled_width=256, grid=4
)


def config() -> Experiment:
    return Experiment(
        stage=DecoderStage(model=MODEL, vae=VAE, clip=CLIP, drop_image=0.1, drop_text=0.1, embedding_noise=0.3),
        data=dataclasses.replace(DATA, batch=256),
        optimizer=AdamW(learning_rate=1.2e-3, schedule=Cosine(warmup=300)),
        steps=3000,
        reports=Reports(preview_every=500),
    )


def demo() -> Experiment:
    return dataclasses.replace(config(), steps=400)
