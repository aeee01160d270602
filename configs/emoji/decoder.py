"""The decoder: a caption and an image embedding to the 8x8 latents of a 32x32 picture.

    t2i train configs/emoji/decoder.py --run runs/emoji
"""

import dataclasses

from configs.emoji.clip import MODEL as CLIP
from configs.emoji.vae import DATA
from configs.emoji.vae import MODEL as VAE
from t2i_jax.diffusion.guidance import Guidance
from t2i_jax.diffusion.process import Clean, LossIn, Process
from t2i_jax.diffusion.samplers import Heun
from t2i_jax.diffusion.schedules import Flow
from t2i_jax.models.mmdit import MMDiT
from t2i_jax.stages import DecoderStage
from t2i_jax.training import Cosine, Experiment, Muon, Reports

MODEL = MMDiT(
    patch=2,
    in_channels=4,
    out_channels=4,
    width=192,
    depth=4,
    heads=3,
    context_width=CLIP.text.width,
    pooled_width=CLIP.embedding + CLIP.text.width,
    grid=4,
)
MATRICES = r"(blocks|last)/(?!.*modulation).*kernel$"


def config() -> Experiment:
    return Experiment(
        stage=DecoderStage(
            model=MODEL,
            vae=VAE,
            clip=CLIP,
            process=Process(Flow(), Clean(), LossIn()),
            drop_image=0.4,
            drop_text=0.2,
            embedding_noise=0.3,
            sampler=Heun(8),
            guidance=Guidance(4.0),
            image_guidance=1.0,
        ),
        data=dataclasses.replace(DATA, batch=256),
        optimizer=Muon(learning_rate=5e-3, schedule=Cosine(warmup=40), matrices=MATRICES, iterations=3),
        steps=2200,
        reports=Reports(preview_every=1100),
    )


def demo() -> Experiment:
    """Narrower and with larger patches: in a few minutes a small model that sees more pictures learns more."""
    full = config()
    model = dataclasses.replace(MODEL, patch=4, grid=2, width=128, heads=2)
    return dataclasses.replace(
        full,
        stage=dataclasses.replace(full.stage, model=model),
        data=dataclasses.replace(full.data, batch=128),
        optimizer=dataclasses.replace(full.optimizer, learning_rate=6e-3),
        steps=1400,
    )
