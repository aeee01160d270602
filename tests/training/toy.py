"""The smallest stages that show a trainer's properties: one of the picture alone, one that reads the first."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from t2i_jax.stages.base import Stage
from t2i_jax.types import normalize


def flat(image):
    return normalize(image).reshape(image.shape[0], -1)


@dataclass(frozen=True)
class Toy(Stage):
    """A two-layer autoencoder of the picture; ``noise`` makes the loss draw random numbers."""

    name: ClassVar[str] = "toy"
    width: int = 32
    noise: float = 0.0

    def init(self, rng, batch):
        pixels = int(np.prod(batch["image"].shape[1:]))
        down, up = jax.random.split(rng)
        return {
            "down": {"kernel": 0.05 * jax.random.normal(down, (pixels, self.width)), "bias": jnp.zeros(self.width)},
            "up": {"kernel": 0.05 * jax.random.normal(up, (self.width, pixels))},
            "mean": jnp.zeros(self.width),
        }

    def code(self, params, image):
        return jnp.tanh(flat(image) @ params["down"]["kernel"] + params["down"]["bias"])

    def loss(self, params, frozen, rng, batch):
        x = flat(batch["image"])
        code = self.code(params, batch["image"])
        code = code + self.noise * jax.random.normal(rng, code.shape)
        error = jnp.square(code @ params["up"]["kernel"] - x).mean()
        return error, {"code": jnp.abs(code).mean()}

    def preview(self, params, frozen, rng, batch):
        out = (self.code(params, batch["image"]) @ params["up"]["kernel"]).reshape(batch["image"].shape)
        return jnp.concatenate([normalize(batch["image"]), jnp.clip(out, -1, 1)])

    def finish(self, params, frozen, batches):
        return params | {"mean": self.code(params, next(batches)["image"]).mean(0)}


@dataclass(frozen=True)
class Second(Stage):
    """Predicts the frozen toy's code from the mean of embedded tokens."""

    name: ClassVar[str] = "second"
    reads: ClassVar[tuple[str, ...]] = ("toy",)
    toy: Toy = Toy()
    vocab: int = 600

    def init(self, rng, batch):
        return {"embedding": 0.1 * jax.random.normal(rng, (self.vocab, self.toy.width))}

    def vocabulary(self):
        return self.vocab

    def expects(self, rng, batch):
        return {"toy": self.toy.init(rng, batch)}

    def image_features(self, frozen, image):
        return {"code": self.toy.code(frozen["toy"], image)}

    def text_features(self, frozen, tokens):
        return {"ramp": jnp.linspace(0.0, 1.0, tokens.shape[1])[None] * (tokens > 0)}

    def loss(self, params, frozen, rng, batch):
        words = params["embedding"][batch["tokens"]] * batch["ramp"][..., None]
        return jnp.square(words.mean(1) - batch["code"]).mean(), {}

    def preview(self, params, frozen, rng, batch):
        code = jnp.clip(batch["code"], -1, 1)
        return jnp.broadcast_to(code[:, None, :, None], (len(code), 8, self.toy.width, 3))


def toy_batch(b=32, size=8, seed=0):
    rng = np.random.default_rng(seed)
    arrays = {
        "image": rng.integers(0, 256, (b, size, size, 3), dtype=np.uint8),
        "tokens": rng.integers(0, 600, (b, 6)).astype(np.int32),
        "index": np.arange(b, dtype=np.int32),
    }
    return jax.tree.map(jnp.asarray, arrays)
