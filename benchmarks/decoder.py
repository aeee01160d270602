"""One training step of configs/emoji's full decoder (loss, gradient, AdamW) here and in diffusers, from the same weights.

    python -m benchmarks.decoder [--batch 128] [--rounds 8]

Prints both CPU times, their ratio, the losses of both sides, and the share of this core's own float32 matrix-product
rate that the step's matrix products reach.
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
from diffusers import SD3Transformer2DModel

from configs.emoji.decoder import MODEL
from configs.emoji.vae import DATA
from t2i_jax.interop import export_model
from t2i_jax.models.mmdit import MMDiT
from t2i_jax.parallel.memory import keep_memory
from t2i_jax.training.flops import count_flops

RATE, DECAY = 1e-4, 0.01
CONTEXT = DATA.context


def inputs(model: MMDiT, batch: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Noise in the shapes of configs/emoji: latents of the whole grid, its text tokens."""
    rng = np.random.default_rng(seed)
    side = model.grid * model.patch
    draw = lambda *shape: rng.standard_normal(shape, np.float32)
    return {
        "latent": draw(batch, side, side, model.in_channels),
        "target": draw(batch, side, side, model.out_channels),
        "time": rng.random(batch, np.float32),
        "context": draw(batch, CONTEXT, model.context_width),
        "pooled": draw(batch, model.pooled_width),
    }


def random_params(model: MMDiT, seed: int = 0) -> dict:
    """Parameters with nothing at zero, so that every part of the step counts in the loss."""
    data = inputs(model, 1)
    args = [jnp.asarray(data[name]) for name in ("latent", "time", "context", "pooled")]
    shapes = jax.eval_shape(model.init, jax.random.key(0), *args)["params"]
    rng = np.random.default_rng(seed)
    draw = lambda x: (rng.standard_normal(x.shape) * 0.02 + (x.shape[-1:] == (model.width // model.heads,))).astype("f")
    return jax.tree.map(lambda x: jnp.asarray(draw(x)), shapes)


def ours(model: MMDiT, params: dict, data: dict[str, np.ndarray]):
    """A function of no arguments that trains one step and returns its loss, and the step's FLOPs."""
    batch = jax.tree.map(jnp.asarray, data)
    optimizer = optax.adamw(RATE, weight_decay=DECAY)

    def loss(params, batch):
        out = model.apply({"params": params}, batch["latent"], batch["time"], batch["context"], batch["pooled"])
        return jnp.mean(jnp.square(out - batch["target"]))

    def step(params, moments, batch):
        value, grads = jax.value_and_grad(loss)(params, batch)
        updates, moments = optimizer.update(grads, moments, params)
        return optax.apply_updates(params, updates), moments, value

    state = [jax.tree.map(jnp.copy, params), optimizer.init(params)]
    flops = count_flops(step, *state, batch)
    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(*state, batch).compile()

    def run() -> float:
        state[0], state[1], value = compiled(*state, batch)
        return float(jax.block_until_ready((state, value))[1])

    return run, flops, compiled


def theirs(model: MMDiT, params: dict, data: dict[str, np.ndarray]):
    """The same in torch, eager."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        export_model(model, params, folder)
        network = SD3Transformer2DModel.from_pretrained(folder).train()
    optimizer = torch.optim.AdamW(network.parameters(), RATE, weight_decay=DECAY, fused=True)
    t = {name: torch.from_numpy(x) for name, x in data.items()}
    latent, target = (t[name].permute(0, 3, 1, 2).contiguous() for name in ("latent", "target"))

    def run() -> float:
        out = network(latent, t["context"], t["pooled"], 1000 * t["time"]).sample
        loss = torch.nn.functional.mse_loss(out, target)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss)

    return run


def compare(model: MMDiT = MODEL, batch: int = 128, rounds: int = 8) -> Timing:
    """Measures and prints; raises ValueError where the two losses differ by more than 1e-4."""
    keep_memory()  # as the training loop does; it helps both sides
    params, data = random_params(model), inputs(model, batch)
    a, flops, _ = ours(model, params, data)
    b = theirs(model, params, data)
    losses = [(a(), b()) for _ in range(3)]
    if max(abs(x - y) for x, y in losses) > 1e-4:
        raise ValueError(f"the two sides don't train alike: losses {losses}")
    timing = interleaved(a, b, rounds)
    rate = gemm_rate()
    print(f"decoder step, batch {batch}: {timing.ours:.3f} s, diffusers {timing.theirs:.3f} s, ratio {timing.ratio:.2f}")
    print(f"losses of three steps {[tuple(round(x, 6) for x in pair) for pair in losses]}")
    share = lambda seconds: f"{flops / seconds / rate:.0%}"
    print(f"{flops / 1e9:.1f} GFLOP; of this core's {rate / 1e9:.0f} GFLOP/s: {share(timing.ours)}, diffusers {share(timing.theirs)}")
    return timing


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=128, help="examples a step")
    parser.add_argument("--rounds", type=int, default=8, help="turns of each side")
    options = parser.parse_args()
    compare(batch=options.batch, rounds=options.rounds)
