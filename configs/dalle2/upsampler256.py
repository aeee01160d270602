"""The first upsampler: 700 million parameters, from the latents of 64-pixel pictures to those of 256-pixel ones.

    t2i train configs/dalle2/upsampler256.py --data.dataset NAME --run runs/dalle2

Meant for 256 v5e chips, 16 copies of 16 that share the parameters. The plan for them (`t2i plan
configs/dalle2/upsampler256.py --topology v5e:16x16`): 2.2 of 15.75 GiB a chip, 1.03 of the model's FLOPs, and an
estimated 96 ms a step: MFU 31 %, 10,700 pictures a second, 27 hours; 75 ms and 40 % at best.
"""

import dataclasses

from configs.dalle2.clip import MODEL as CLIP
from configs.dalle2.decoder import OPTIMIZER
from configs.dalle2.vae import DATA, MESH
from configs.dalle2.vae import MODEL as VAE
from t2i_jax.diffusion.process import Clean, LossIn, Process
from t2i_jax.diffusion.schedules import Flow
from t2i_jax.models.mmdit import MMDiT
from t2i_jax.models.remat import NAMES, Remat
from t2i_jax.stages import UpsamplerStage
from t2i_jax.training import Experiment

MODEL = MMDiT(
    patch=2,
    in_channels=32,
    out_channels=16,
    width=1024,
    depth=19,
    heads=8,
    context_width=CLIP.embedding,
    pooled_width=CLIP.embedding,
    grid=16,
    dtype="bfloat16",
    remat=Remat(NAMES),
)


def config() -> Experiment:
    return Experiment(
        stage=UpsamplerStage(model=MODEL, vae=VAE, clip=CLIP, factor=4, process=Process(Flow(), Clean(), LossIn())),
        data=dataclasses.replace(DATA, batch=1024),
        optimizer=OPTIMIZER,
        mesh=MESH,
        steps=1_000_000,
        ema=0.9999,
        overlap=True,
    )
