"""The diffusion prior: a caption's embedding to an image embedding.

    t2i train configs/emoji/prior.py --run runs/emoji
"""

import dataclasses

from configs.emoji.clip import MODEL as CLIP
from configs.emoji.vae import DATA
from t2i_jax.models.prior import PriorTransformer
from t2i_jax.stages import PriorStage
from t2i_jax.training import Cosine, Experiment, Muon, Reports

MODEL = PriorTransformer(embedding=192, width=192, depth=4, heads=3, context=12, text_width=192)


def config() -> Experiment:
    return Experiment(
        stage=PriorStage(model=MODEL, clip=CLIP),
        data=dataclasses.replace(DATA, batch=256),
        optimizer=Muon(learning_rate=4e-3, schedule=Cosine(warmup=40), iterations=3),
        steps=1600,
        reports=Reports(preview_every=800),
    )


def demo() -> Experiment:
    full = config()
    return dataclasses.replace(full, data=dataclasses.replace(full.data, batch=128), steps=180)
