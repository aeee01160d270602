"""CLIP with the vision transformer H/16 of the paper, at 256 pixels.

    t2i train configs/dalle2/clip.py --data.dataset NAME --run runs/dalle2

Heads of 128, ten and eight of them, where the paper's vision tower has sixteen of 80: a TPU's matrix unit is 128 wide.

Meant for 256 v5e chips, 16 copies of 16 that share the parameters. The plan for them (`t2i plan
configs/dalle2/clip.py --topology v5e:16x16`): 13.6 of 15.75 GiB a chip, 1.22 of the model's FLOPs, and an estimated
1,437 ms a step: MFU 67 %, 22,800 pairs a second, 160 hours; 1,187 ms and 81 % at best.
"""

import dataclasses

from configs.dalle2.vae import CONTEXT, DATA, MESH, VOCAB
from t2i_jax.models.clip import CLIP, TextTower, VisionTower
from t2i_jax.models.remat import INNER, Remat
from t2i_jax.stages import ClipStage
from t2i_jax.training import AdamW, Cosine, Experiment

HALF = "bfloat16"
MODEL = CLIP(
    text=TextTower(vocab=VOCAB, context=CONTEXT, width=1024, depth=24, heads=8, dtype=HALF, remat=Remat((INNER,))),
    vision=VisionTower(image_size=256, patch=16, width=1280, depth=32, heads=10, dtype=HALF, remat=Remat(())),
    embedding=1024,
)


def config() -> Experiment:
    return Experiment(
        stage=ClipStage(model=MODEL, shift=0),
        data=dataclasses.replace(DATA, batch=32_768),
        optimizer=AdamW(learning_rate=3e-4, schedule=Cosine(warmup=2000), b2=0.98, decay=0.2),
        mesh=MESH,
        steps=400_000,
        ema=0.9999,
        overlap=True,
    )
