"""The second upsampler: 300 million parameters, from the latents of 256-pixel pictures to those of 1024-pixel ones.

    t2i train configs/dalle2/upsampler1024.py --data.dataset NAME --run runs/dalle2

Meant for 256 v5e chips, 16 copies of 16 that share the parameters. The plan for them (`t2i plan
configs/dalle2/upsampler1024.py --topology v5e:16x16`): 2.3 of 15.75 GiB a chip, 1.02 of the model's FLOPs, and an
estimated 194 ms a step: MFU 61 %, 2,600 pictures a second, 54 hours; 142 ms and 84 % at best.
"""

import dataclasses

from configs.dalle2.clip import MODEL as CLIP
from configs.dalle2.upsampler256 import MODEL as SMALLER
from configs.dalle2.upsampler256 import config as upsampler256
from configs.dalle2.vae import MODEL as VAE
from t2i_jax.diffusion.process import Clean, LossIn, Process
from t2i_jax.diffusion.schedules import Flow
from t2i_jax.stages import SecondUpsamplerStage
from t2i_jax.training import Experiment

MODEL = dataclasses.replace(SMALLER, patch=4, width=768, depth=14, heads=6, grid=32)


def config() -> Experiment:
    smaller = upsampler256()
    return dataclasses.replace(
        smaller,
        stage=SecondUpsamplerStage(
            model=MODEL, vae=VAE, clip=CLIP, factor=4, process=Process(Flow(), Clean(), LossIn())
        ),
        data=dataclasses.replace(smaller.data, image_size=1024, batch=512),
        optimizer=dataclasses.replace(smaller.optimizer, learning_rate=1e-4),
    )
