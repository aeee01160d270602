"""CLIP: captions and pictures in one embedding space.

    t2i train configs/emoji/clip.py --run runs/emoji
"""

import dataclasses

from configs.emoji.vae import DATA
from t2i_jax.models.clip import CLIP, TextTower, VisionTower
from t2i_jax.stages import ClipStage
from t2i_jax.stages.clip import Softmax
from t2i_jax.training import Cosine, Experiment, Muon, Reports

MODEL = CLIP(
    text=TextTower(vocab=3072, context=12, width=192, depth=3, heads=3, unroll=3),
    vision=VisionTower(image_size=64, patch=16, width=192, depth=4, heads=3, unroll=4),
    embedding=192,
)


def config() -> Experiment:
    return Experiment(
        stage=ClipStage(model=MODEL, objective=Softmax(0.05)),
        data=dataclasses.replace(DATA, batch=256, flip=True),
        optimizer=Muon(learning_rate=2e-3, schedule=Cosine(warmup=50), decay=0.1, iterations=3),
        steps=700,
        reports=Reports(preview_every=350),
    )


def demo() -> Experiment:
    full = config()
    return dataclasses.replace(full, data=dataclasses.replace(full.data, batch=128), steps=220)
