"""The autoencoder: pictures to latents eight times smaller, of 16 channels.

    t2i train configs/dalle2/vae.py --data.dataset NAME --run runs/dalle2

DALL-E 2 paints pixels and has none; with it, decoder and upsamplers see a 64th of the places.

Meant for 256 v5e chips, 16 copies of 16 that share the parameters. The plan for them (`t2i plan configs/dalle2/vae.py
--topology v5e:16x16`): 3.8 of 15.75 GiB a chip, 1.00 of the model's FLOPs, and an estimated 144 ms a step: MFU 67 %,
14,200 pictures a second, 10 hours; 99 ms and 97 % at best.
"""

from t2i_jax.data import Data
from t2i_jax.models.remat import NAMES, Remat
from t2i_jax.models.vae import AutoencoderKL
from t2i_jax.parallel.mesh import Mesh
from t2i_jax.stages import VAEStage
from t2i_jax.training import AdamW, Constant, Experiment

MODEL = AutoencoderKL(
    channels=(128, 256, 512, 512), layers=2, latent_channels=16, groups=32, dtype="bfloat16", remat=Remat(NAMES)
)
CONTEXT, VOCAB = 256, 32_768
DATA = Data(
    dataset="coco_captions",
    split="train",
    image_size=256,
    context=CONTEXT,
    vocab=VOCAB,
    truncate=True,
    batch=2048,
)
MESH = Mesh(replica=-1, data=16)


def config() -> Experiment:
    return Experiment(
        stage=VAEStage(model=MODEL, factor=4, crop=0),
        data=DATA,
        optimizer=AdamW(learning_rate=1e-4, schedule=Constant(warmup=1000, cooldown=50_000), decay=0.0),
        mesh=MESH,
        steps=250_000,
        ema=0.9999,
        overlap=True,
    )
