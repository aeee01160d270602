"""The diffusion prior: 1.2 billion parameters, width 2048, 24 layers; batch, rate and steps of the paper.

    t2i train configs/dalle2/prior.py --data.dataset NAME --run runs/dalle2

Meant for 256 v5e chips, 16 copies of 16 that share the parameters. The plan for them (`t2i plan
configs/dalle2/prior.py --topology v5e:16x16`): 6.2 of 15.75 GiB a chip, 1.03 of the model's FLOPs, and an estimated
263 ms a step: MFU 75 %, 15,600 pictures a second, 44 hours; 225 ms and 88 % at best.
"""

import dataclasses

from configs.dalle2.clip import MODEL as CLIP
from configs.dalle2.vae import CONTEXT, DATA, MESH
from t2i_jax.models.prior import PriorTransformer
from t2i_jax.models.remat import NAMES, Remat
from t2i_jax.stages import PriorStage
from t2i_jax.training import AdamW, Cosine, Experiment

MODEL = PriorTransformer(
    embedding=1024,
    width=2048,
    depth=24,
    heads=16,
    context=CONTEXT,
    text_width=1024,
    dtype="bfloat16",
    remat=Remat(NAMES),
)


def config() -> Experiment:
    return Experiment(
        stage=PriorStage(model=MODEL, clip=CLIP),
        data=dataclasses.replace(DATA, batch=4096),
        optimizer=AdamW(learning_rate=1.1e-4, schedule=Cosine(warmup=2000), b2=0.96, decay=0.06),
        mesh=MESH,
        steps=600_000,
        ema=0.9999,
        overlap=True,
    )
