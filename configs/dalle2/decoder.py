"""The decoder: 3.5 billion parameters, paints the 8x8 latents of 64-pixel pictures.

    t2i train configs/dalle2/decoder.py --data.dataset NAME --run runs/dalle2

Meant for 256 v5e chips, 16 copies of 16 that share the parameters. The plan for them (`t2i plan
configs/dalle2/decoder.py --topology v5e:16x16`): 7.7 of 15.75 GiB a chip, 1.01 of the model's FLOPs, and an estimated
225 ms a step: MFU 48 %, 9,100 pictures a second, 50 hours; 192 ms and 57 % at best.
"""

from configs.dalle2.clip import MODEL as CLIP
from configs.dalle2.vae import DATA, MESH
from configs.dalle2.vae import MODEL as VAE
from t2i_jax.diffusion.process import Clean, LossIn, Process
from t2i_jax.diffusion.schedules import Flow
from t2i_jax.models.mmdit import MMDiT
from t2i_jax.models.remat import NAMES, Remat
from t2i_jax.stages import DecoderStage
from t2i_jax.training import AdamW, Cosine, Experiment

MODEL = MMDiT(
    patch=1,
    in_channels=16,
    out_channels=16,
    width=2048,
    depth=24,
    heads=16,
    context_width=CLIP.text.width,
    pooled_width=CLIP.embedding + CLIP.text.width,
    grid=8,
    dtype="bfloat16",
    remat=Remat(NAMES),
)
OPTIMIZER = AdamW(learning_rate=1.2e-4, schedule=Cosine(warmup=5000), b2=0.999, decay=0.0)


def config() -> Experiment:
    return Experiment(
        stage=DecoderStage(
            model=MODEL, vae=VAE, clip=CLIP, factor=4, process=Process(Flow(), Clean(), LossIn()),
            drop_image=0.1, drop_text=0.5,
        ),
        data=DATA,
        optimizer=OPTIMIZER,
        mesh=MESH,
        steps=800_000,
        ema=0.9999,
        overlap=True,
    )  # fmt: skip
