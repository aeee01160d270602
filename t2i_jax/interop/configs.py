"""The references' config.json for our models, and our models from such a config."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from t2i_jax.interop.names import clip_rows, mmdit_rows, prior_rows, vae_rows
from t2i_jax.interop.table import Row
from t2i_jax.models.clip import CLIP, TextTower, VisionTower
from t2i_jax.models.mmdit import MMDiT
from t2i_jax.models.prior import PriorTransformer
from t2i_jax.models.vae import AutoencoderKL
from t2i_jax.types import Params

Config = dict[str, Any]
ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh", "quick_gelu": "quick_gelu"}
HIGHEST = 2
"""An ``eos_token_id`` for which transformers reads a caption at its highest id, not at the first of this one."""


class NoReferenceForm(ValueError):
    """A model that the reference's class cannot be."""


@dataclass(frozen=True)
class Architecture:
    """A reference class: its name, its weights file, and how our model becomes its config and tensors."""

    reference: str
    weights: str
    model: type
    rows: Callable[[Any], list[Row]]
    to_config: Callable[[Any], Config]
    from_config: Callable[[Config], Any]
    init: Callable[[Any], Params]


CLIP_TEXT = {
    "vocab_size": 49408, "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12,
    "num_attention_heads": 8, "max_position_embeddings": 77, "hidden_act": "quick_gelu", "pad_token_id": 1,
    "eos_token_id": 49407,
}  # fmt: skip
CLIP_VISION = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    "image_size": 224, "patch_size": 32, "hidden_act": "quick_gelu",
}  # fmt: skip
MMDIT = {"qk_norm": None}
VAE = {"mid_block_add_attention": True, "use_quant_conv": True}
"""What the references take for what a config lacks: newer ones leave out defaults, older ones had not every field."""


def clip_config(model: CLIP) -> Config:
    def tower(t) -> Config:
        return {
            "hidden_size": t.width, "intermediate_size": t.mlp_ratio * t.width, "num_hidden_layers": t.depth,
            "num_attention_heads": t.heads, "hidden_act": ACTIVATIONS[t.activation], "layer_norm_eps": 1e-5,
            "projection_dim": model.embedding,
        }  # fmt: skip

    text, vision = model.text, model.vision
    if text.eos == HIGHEST:
        raise NoReferenceForm(
            f"CLIP: text.eos={HIGHEST}, for which transformers reads a caption at its highest id: choose another eos "
            "to export"
        )
    marks = {"eos_token_id": text.eos, "pad_token_id": text.pad, "bos_token_id": None}
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": model.embedding,
        "text_config": tower(text) | marks | {"vocab_size": text.vocab, "max_position_embeddings": text.context},
        "vision_config": tower(vision) | {"image_size": vision.image_size, "patch_size": vision.patch},
    }


def clip_model(config: Config) -> CLIP:
    ours = {theirs: name for name, theirs in ACTIVATIONS.items()}

    def tower(c: Config) -> dict:
        return {
            "width": c["hidden_size"], "depth": c["num_hidden_layers"], "heads": c["num_attention_heads"],
            "mlp_ratio": c["intermediate_size"] // c["hidden_size"], "activation": ours[c["hidden_act"]],
        }  # fmt: skip

    config = {"projection_dim": 512} | config
    text, vision = CLIP_TEXT | config.get("text_config", {}), CLIP_VISION | config.get("vision_config", {})
    if text["eos_token_id"] == HIGHEST:
        raise ValueError(
            f"text_config.eos_token_id is {HIGHEST}, for which transformers reads a caption at its highest id, and our "
            f"model at the first {HIGHEST}: set it to the id of the tokenizer's end mark (49407 for OpenAI's)"
        )
    return CLIP(
        TextTower(
            vocab=text["vocab_size"], context=text["max_position_embeddings"], eos=text["eos_token_id"],
            pad=text["pad_token_id"], **tower(text),
        ),
        VisionTower(image_size=vision["image_size"], patch=vision["patch_size"], **tower(vision)),
        config["projection_dim"],
    )  # fmt: skip


def prior_config(model: PriorTransformer) -> Config:
    if model.text_width != model.embedding:
        raise NoReferenceForm(
            f"PriorTransformer: text_width={model.text_width} and embedding={model.embedding} differ; the reference "
            f"has one width for both: choose CLIP's text width equal to its embedding to export"
        )
    return {
        "_class_name": "PriorTransformer", "num_attention_heads": model.heads,
        "attention_head_dim": model.width // model.heads, "num_layers": model.depth,
        "embedding_dim": model.embedding, "num_embeddings": model.context, "additional_embeddings": 4,
    }  # fmt: skip


def prior_model(config: Config) -> PriorTransformer:
    return PriorTransformer(
        embedding=config["embedding_dim"], width=config["num_attention_heads"] * config["attention_head_dim"],
        depth=config["num_layers"], heads=config["num_attention_heads"], context=config["num_embeddings"],
        text_width=config["embedding_dim"],
    )  # fmt: skip


def mmdit_config(model: MMDiT) -> Config:
    return {
        "_class_name": "SD3Transformer2DModel", "sample_size": model.grid * model.patch, "patch_size": model.patch,
        "in_channels": model.in_channels, "out_channels": model.out_channels, "num_layers": model.depth,
        "num_attention_heads": model.heads, "attention_head_dim": model.width // model.heads,
        "joint_attention_dim": model.context_width, "caption_projection_dim": model.width,
        "pooled_projection_dim": model.pooled_width, "pos_embed_max_size": model.grid,
        "qk_norm": "rms_norm" if model.qk_norm else None,
    }  # fmt: skip


def mmdit_model(config: Config) -> MMDiT:
    config = MMDIT | config
    return MMDiT(
        patch=config["patch_size"], in_channels=config["in_channels"], out_channels=config["out_channels"],
        width=config["num_attention_heads"] * config["attention_head_dim"], depth=config["num_layers"],
        heads=config["num_attention_heads"], context_width=config["joint_attention_dim"],
        pooled_width=config["pooled_projection_dim"], grid=config["pos_embed_max_size"],
        qk_norm=config["qk_norm"] == "rms_norm",
    )  # fmt: skip


def vae_config(model: AutoencoderKL) -> Config:
    levels = len(model.channels)
    return {
        "_class_name": "AutoencoderKL", "in_channels": 3, "out_channels": 3, "act_fn": "silu",
        "down_block_types": ["DownEncoderBlock2D"] * levels, "up_block_types": ["UpDecoderBlock2D"] * levels,
        "block_out_channels": list(model.channels), "layers_per_block": model.layers,
        "latent_channels": model.latent_channels, "norm_num_groups": model.groups,
        "mid_block_add_attention": model.attention, "use_quant_conv": model.quant,
        "use_post_quant_conv": model.quant, "scaling_factor": 1.0, "sample_size": 8 * model.factor,
    }  # fmt: skip


def vae_model(config: Config) -> AutoencoderKL:
    config = VAE | config
    return AutoencoderKL(
        channels=tuple(config["block_out_channels"]), layers=config["layers_per_block"],
        latent_channels=config["latent_channels"], groups=config["norm_num_groups"],
        attention=config["mid_block_add_attention"], quant=config["use_quant_conv"],
    )  # fmt: skip


def shapes(model: Any) -> Params:
    """The model's parameters as shapes."""
    return jax.eval_shape(lambda rng: INITS[type(model)](model, rng), jax.random.key(0))["params"]


def _picture(side: int, channels: int = 3) -> jax.Array:
    return jnp.zeros((1, side, side, channels))


INITS: dict[type, Callable] = {
    CLIP: lambda m, rng: m.init(rng, _picture(m.vision.image_size), jnp.zeros((1, m.text.context), jnp.int32)),
    PriorTransformer: lambda m, rng: m.init(
        rng, jnp.zeros((1, m.embedding)), jnp.zeros(1), jnp.zeros((1, m.embedding)),
        jnp.zeros((1, m.context, m.text_width)),
    ),
    MMDiT: lambda m, rng: m.init(
        rng, _picture(m.patch, m.in_channels), jnp.zeros(1), jnp.zeros((1, 1, m.context_width)),
        jnp.zeros((1, m.pooled_width)),
    ),
    AutoencoderKL: lambda m, rng: m.init(rng, _picture(m.factor)),
}  # fmt: skip

DIFFUSERS = "diffusion_pytorch_model.safetensors"
ARCHITECTURES = (
    Architecture("CLIPModel", "model.safetensors", CLIP, clip_rows, clip_config, clip_model, shapes),
    Architecture("PriorTransformer", DIFFUSERS, PriorTransformer, prior_rows, prior_config, prior_model, shapes),
    Architecture("SD3Transformer2DModel", DIFFUSERS, MMDiT, mmdit_rows, mmdit_config, mmdit_model, shapes),
    Architecture("AutoencoderKL", DIFFUSERS, AutoencoderKL, vae_rows, vae_config, vae_model, shapes),
)
