"""One training step of the emoji VAE (L1 + KL, gradient, AdamW) here and in diffusers, from the same weights.

    python -m benchmarks.vae [--batch 32] [--size 64] [--rounds 8]

Prints both CPU times, their ratio, the losses of both sides, and the share of this core's own float32 matrix-product
rate that the step's convolutions and matrix products reach.
"""

from benchmarks.measure import Timing, gemm_rate, interleaved, pin

if __name__ == "__main__":
    pin()

import argparse
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from diffusers import AutoencoderKL as TorchVAE

from configs.emoji.vae import MODEL
from t2i_jax.interop import export_model
from t2i_jax.models.vae import AutoencoderKL
from t2i_jax.parallel.memory import keep_memory
from t2i_jax.training.flops import count_flops

RATE, DECAY, KL = 1e-3, 0.01, 1e-6


def inputs(model: AutoencoderKL, batch: int, size: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A batch of random smooth pictures [batch, size, size, 3] in [-1, 1] and the noise of its latents."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(-1, 1, (batch, size // 8, size // 8, 3)).astype(np.float32)
    side = size // model.factor
    return coarse.repeat(8, 1).repeat(8, 2), rng.standard_normal((batch, side, side, model.latent_channels), np.float32)


def ours(model: AutoencoderKL, params: dict, image: np.ndarray, noise: np.ndarray):
    """A function of no arguments that trains one step and returns its loss, and the step's FLOPs."""
    image, noise = jnp.asarray(image), jnp.asarray(noise)
    optimizer = optax.adamw(RATE, weight_decay=DECAY)

    def loss(params, image, noise):
        mean, logvar = model.apply({"params": params}, image, method="encode")
        out = model.apply({"params": params}, mean + jnp.exp(0.5 * logvar) * noise, method="decode")
        kl = 0.5 * (jnp.square(mean) + jnp.exp(logvar) - 1.0 - logvar).sum((1, 2, 3)).mean()
        return jnp.abs(out - image).mean() + KL * kl

    def step(params, moments, image, noise):
        value, grads = jax.value_and_grad(loss)(params, image, noise)
        updates, moments = optimizer.update(grads, moments, params)
        return optax.apply_updates(params, updates), moments, value

    state = [jax.tree.map(jnp.array, params), optimizer.init(params)]
    flops = count_flops(step, *state, image, noise)
    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(*state, image, noise).compile()

    def run() -> float:
        state[0], state[1], value = compiled(*state, image, noise)
        return float(jax.block_until_ready((state, value))[1])

    return run, flops


def theirs(model: AutoencoderKL, params: dict, image: np.ndarray, noise: np.ndarray):
    """The same in torch, eager."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        export_model(model, params, folder)
        network = TorchVAE.from_pretrained(folder).train()
    optimizer = torch.optim.AdamW(network.parameters(), RATE, weight_decay=DECAY, fused=True)
    image, noise = (torch.from_numpy(x).permute(0, 3, 1, 2).contiguous() for x in (image, noise))

    def run() -> float:
        posterior = network.encode(image).latent_dist
        out = network.decode(posterior.mean + posterior.std * noise).sample
        loss = torch.nn.functional.l1_loss(out, image) + KL * posterior.kl().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss)

    return run


def compare(model: AutoencoderKL = MODEL, batch: int = 32, size: int = 64, rounds: int = 8) -> Timing:
    """Measures and prints; raises ValueError where the two losses differ by more than 1e-4."""
    keep_memory()  # as the training loop does; it helps both sides
    image, noise = inputs(model, batch, size)
    params = jax.jit(model.init)(jax.random.key(0), jnp.asarray(image[:1]))["params"]
    a, flops = ours(model, params, image, noise)
    b = theirs(model, params, image, noise)
    losses = [(a(), b()) for _ in range(3)]
    if max(abs(x - y) for x, y in losses) > 1e-4:
        raise ValueError(f"the two sides don't train alike: losses {losses}")
    timing = interleaved(a, b, rounds)
    rate = gemm_rate()
    print(f"vae step, {batch} pictures {size}x{size}: {timing.ours:.3f} s, diffusers {timing.theirs:.3f} s, "
          f"ratio {timing.ratio:.2f}")  # fmt: skip
    print(f"losses of three steps {[tuple(round(x, 6) for x in pair) for pair in losses]}")
    share = lambda seconds: f"{flops / seconds / rate:.0%}"
    print(f"{flops / 1e9:.1f} GFLOP; of this core's {rate / 1e9:.0f} GFLOP/s: {share(timing.ours)}, "
          f"diffusers {share(timing.theirs)}")  # fmt: skip
    return timing


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32, help="pictures a step")
    parser.add_argument("--size", type=int, default=64, help="side of a picture")
    parser.add_argument("--rounds", type=int, default=8, help="turns of each side")
    options = parser.parse_args()
    compare(batch=options.batch, size=options.size, rounds=options.rounds)
