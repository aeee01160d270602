"""The name tables of the four architectures against their reference classes."""

from t2i_jax.interop.table import BATCHED, TWICE_BATCHED, Row, conv, dense, fused, norm, patches
from t2i_jax.models.clip import CLIP
from t2i_jax.models.mmdit import MMDiT
from t2i_jax.models.prior import PriorTransformer
from t2i_jax.models.vae import AutoencoderKL


def clip_rows(model: CLIP) -> list[Row]:
    """transformers ``CLIPModel``."""
    rows = [Row("logit_scale", "logit_scale")]
    for side, tower in (("text", model.text), ("vision", model.vision)):
        ours = f"{side}_tower/transformer/blocks"
        for i in range(tower.depth):
            theirs = f"{side}_model.encoder.layers.{i}"
            for n in (1, 2):
                rows += norm(f"{theirs}.layer_norm{n}", f"{ours}/norm{n}", i)
            rows += fused((f"{theirs}.self_attn.{x}_proj" for x in "qkv"), f"{ours}/qkv", i)
            rows += dense(f"{theirs}.self_attn.out_proj", f"{ours}/out", i)
            rows += dense(f"{theirs}.mlp.fc1", f"{ours}/fc1", i) + dense(f"{theirs}.mlp.fc2", f"{ours}/fc2", i)
    rows += dense("text_projection", "text_projection", bias=False)
    rows += dense("visual_projection", "vision_projection", bias=False)
    text, vision = "text_model.embeddings", "vision_model.embeddings"
    rows += [
        Row(f"{text}.token_embedding.weight", "text_tower/token"),
        Row(f"{text}.position_embedding.weight", "text_tower/position"),
        Row(f"{vision}.class_embedding", "vision_tower/class"),
        Row(f"{vision}.patch_embedding.weight", "vision_tower/patches/kernel", patches(model.vision.patch)),
        Row(f"{vision}.position_embedding.weight", "vision_tower/position"),
    ]
    rows += norm("text_model.final_layer_norm", "text_tower/norm")
    rows += norm("vision_model.pre_layrnorm", "vision_tower/norm_in")
    return rows + norm("vision_model.post_layernorm", "vision_tower/norm_out")


def prior_rows(model: PriorTransformer) -> list[Row]:
    """diffusers ``PriorTransformer``."""
    rows = [Row("positional_embedding", "position", BATCHED), Row("prd_embedding", "query", TWICE_BATCHED)]
    rows += dense("time_embedding.linear_1", "time/fc1") + dense("time_embedding.linear_2", "time/fc2")
    rows += dense("proj_in", "noisy") + dense("embedding_proj", "text_embedding")
    rows += dense("encoder_hidden_states_proj", "features")
    rows += norm("norm_out", "norm") + dense("proj_to_clip_embeddings", "out")
    ours = "transformer/blocks"
    for i in range(model.depth):
        theirs = f"transformer_blocks.{i}"
        rows += norm(f"{theirs}.norm1", f"{ours}/norm1", i) + norm(f"{theirs}.norm3", f"{ours}/norm2", i)
        rows += fused((f"{theirs}.attn1.to_{x}" for x in "qkv"), f"{ours}/qkv", i)
        rows += dense(f"{theirs}.attn1.to_out.0", f"{ours}/out", i)
        rows += dense(f"{theirs}.ff.net.0.proj", f"{ours}/fc1", i) + dense(f"{theirs}.ff.net.2", f"{ours}/fc2", i)
    return rows


def mmdit_rows(model: MMDiT) -> list[Row]:
    """diffusers ``SD3Transformer2DModel``."""
    rows = [
        Row("pos_embed.proj.weight", "patches/kernel", patches(model.patch)),
        Row("pos_embed.proj.bias", "patches/bias"),
    ]
    rows += dense("context_embedder", "context")
    for theirs, ours in (("timestep_embedder", "time"), ("text_embedder", "pooled")):
        rows += dense(f"time_text_embed.{theirs}.linear_1", f"{ours}/fc1")
        rows += dense(f"time_text_embed.{theirs}.linear_2", f"{ours}/fc2")
    rows += dense("norm_out.linear", "modulation") + dense("proj_out", "out")
    for i in range(model.depth):
        last = i + 1 == model.depth
        rows += joint_rows(f"transformer_blocks.{i}", "last" if last else "blocks", None if last else i, model.qk_norm)
    return rows


def joint_rows(theirs: str, ours: str, layer: int | None, qk_norm: bool) -> list[Row]:
    """One ``JointTransformerBlock``; ``layer`` is None for the last, which only reads the text."""
    rows = dense(f"{theirs}.norm1.linear", f"{ours}/modulation", layer)
    rows += dense(f"{theirs}.norm1_context.linear", f"{ours}/context_modulation", layer)
    rows += fused((f"{theirs}.attn.to_{x}" for x in "qkv"), f"{ours}/qkv", layer)
    rows += fused((f"{theirs}.attn.add_{x}_proj" for x in "qkv"), f"{ours}/context_qkv", layer)
    rows += dense(f"{theirs}.attn.to_out.0", f"{ours}/attention_out", layer)
    rows += dense(f"{theirs}.ff.net.0.proj", f"{ours}/fc1", layer) + dense(f"{theirs}.ff.net.2", f"{ours}/fc2", layer)
    if qk_norm:
        for x in "qk":
            rows += norm(f"{theirs}.attn.norm_{x}", f"{ours}/norm_{x}", layer, bias=False)
            rows += norm(f"{theirs}.attn.norm_added_{x}", f"{ours}/context_norm_{x}", layer, bias=False)
    if layer is not None:
        rows += dense(f"{theirs}.attn.to_add_out", f"{ours}/context_attention_out", layer)
        rows += dense(f"{theirs}.ff_context.net.0.proj", f"{ours}/context_fc1", layer)
        rows += dense(f"{theirs}.ff_context.net.2", f"{ours}/context_fc2", layer)
    return rows


def vae_rows(model: AutoencoderKL) -> list[Row]:
    """diffusers ``AutoencoderKL``."""
    levels = len(model.channels)
    rows = []
    for half, blocks, sampler, extra in (("encoder", "down", "downsamplers", 0), ("decoder", "up", "upsamplers", 1)):
        widths = model.channels if half == "encoder" else model.channels[::-1]
        before = widths[0]
        rows += conv(f"{half}.conv_in", f"{half}/conv_in") + conv(f"{half}.conv_out", f"{half}/conv_out")
        rows += norm(f"{half}.conv_norm_out", f"{half}/norm_out")
        for i, width in enumerate(widths):
            for j in range(model.layers + extra):
                theirs, ours = f"{half}.{blocks}_blocks.{i}.resnets.{j}", f"{half}/level_{i}/residual_{j}"
                rows += residual_rows(theirs, ours, shortcut=j == 0 and before != width)
            if i + 1 < levels:
                rows += conv(f"{half}.{blocks}_blocks.{i}.{sampler}.0.conv", f"{half}/level_{i}/resample")
            before = width
        for j in range(2):
            rows += residual_rows(f"{half}.mid_block.resnets.{j}", f"{half}/middle/residual_{j}", shortcut=False)
        if model.attention:
            theirs, ours = f"{half}.mid_block.attentions.0", f"{half}/middle/attention"
            rows += norm(f"{theirs}.group_norm", f"{ours}/norm")
            for x in ("query", "key", "value"):
                rows += dense(f"{theirs}.to_{x[0]}", f"{ours}/{x}")
            rows += dense(f"{theirs}.to_out.0", f"{ours}/out")
    if model.quant:
        rows += conv("quant_conv", "quant_conv") + conv("post_quant_conv", "post_quant_conv")
    return rows


def residual_rows(theirs: str, ours: str, shortcut: bool) -> list[Row]:
    """One ``ResnetBlock2D``."""
    rows = []
    for i in (1, 2):
        rows += norm(f"{theirs}.norm{i}", f"{ours}/norm{i}") + conv(f"{theirs}.conv{i}", f"{ours}/conv{i}")
    return rows + (conv(f"{theirs}.conv_shortcut", f"{ours}/shortcut") if shortcut else [])
