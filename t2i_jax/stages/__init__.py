"""What is trained: one file a stage, each a model, a loss and a preview."""

from t2i_jax.stages.base import Stage
from t2i_jax.stages.clip import ClipStage
from t2i_jax.stages.decoder import DecoderStage
from t2i_jax.stages.polish import PolishStage
from t2i_jax.stages.prior import PriorStage
from t2i_jax.stages.upsampler import SecondUpsamplerStage, UpsamplerStage
from t2i_jax.stages.vae import VAEStage

__all__ = [
    "ClipStage",
    "DecoderStage",
    "PolishStage",
    "PriorStage",
    "SecondUpsamplerStage",
    "Stage",
    "UpsamplerStage",
    "VAEStage",
]
