"""The upsampler: the latents of a 32x32 picture to those of a 64x64 one.

    t2i train configs/emoji/upsampler.py --run runs/emoji
"""

import dataclasses

from configs.emoji.clip import MODEL as CLIP
from configs.emoji.decoder import MATRICES
from configs.emoji.vae import DATA
from configs.emoji.vae import MODEL as VAE
from t2i_jax.diffusion.process import Clean, LossIn, Process
from t2i_jax.diffusion.samplers import Euler
from t2i_jax.diffusion.schedules import Flow
from t2i_jax.models.mmdit import MMDiT
from t2i_jax.stages import UpsamplerStage
from t2i_jax.training import Cosine, Experiment, Muon, Reports

MODEL = MMDiT(
    patch=4,
    in_channels=8,
    out_channels=4,
    width=192,
    depth=4,
    heads=3,
    context_width=CLIP.embedding,
    pooled_width=CLIP.embedding,
    grid=4,
)


def config() -> Experiment:
    return Experiment(
        stage=UpsamplerStage(
            model=MODEL, vae=VAE, clip=CLIP, process=Process(Flow(), Clean(), LossIn()), sampler=Euler(4)
        ),
        data=dataclasses.replace(DATA, batch=256),
        optimizer=Muon(learning_rate=6e-3, schedule=Cosine(warmup=40), matrices=MATRICES, iterations=3),
        steps=900,
        reports=Reports(preview_every=450),
    )


def demo() -> Experiment:
    """On half of the pictures: to compute their features alone takes a fifth of its time."""
    full = config()
    return dataclasses.replace(
        full,
        stage=dataclasses.replace(full.stage, model=dataclasses.replace(MODEL, width=128, heads=2)),
        data=dataclasses.replace(full.data, split="train[:50%]", batch=128),
        steps=600,
    )
