"""The second upsampler: 300 million parameters, from the latents of 256-pixel pictures to those of 1024-pixel ones.

    t2i train configs/dalle2/upsampler1024.py --data.dataset NAME --run runs/dalle2-1024
"""

import dataclasses

from configs.dalle2.upsampler256 import MODEL as SMALLER
from configs.dalle2.upsampler256 import config as upsampler256


def config():
    smaller = upsampler256()
    model = dataclasses.replace(SMALLER, patch=4, width=768, depth=14, heads=6, grid=32)
    return dataclasses.replace(
        smaller,
        stage=dataclasses.replace(smaller.stage, model=model),
        data=dataclasses.replace(smaller.data, image_size=1024, batch=512),
        optimizer=dataclasses.replace(smaller.optimizer, learning_rate=1e-4),
    )
