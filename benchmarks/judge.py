"""Who looks at the pictures: classifiers of thing and style that share nothing with the cascade but the training pictures.

    python -m benchmarks.judge runs/emoji [runs/other ...] [--pictures 306] [--guidance 3]

Prints, for real pictures and for those that the cascade paints for the same captions of ``train`` and ``val_pair``: how
often the right thing among 100 is the first guess and among the first ten, and how often the right style of four is.

Things: ridge regression from a bag of whitened patches, pooled in quadrants, and a coarse grid of colours (Coates, Lee
& Ng 2011, "An Analysis of Single-Layer Networks in Unsupervised Feature Learning"); it learns 2,431 things from three
pictures each. Style: a small convolutional network on random crops. Takes five minutes on two cores.
"""

import argparse
import itertools
from dataclasses import dataclass
from functools import cached_property

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from t2i_jax import DallE2
from t2i_jax.data import arrays, load_dataset
from t2i_jax.types import normalize

STYLES = ("noto", "twemoji", "fluent flat", "fluent 3d")
PATCH, STRIDE, WORDS, FLAT = 6, 2, 500, 6.0
CROP, SLICE = 48, 50


@dataclass(frozen=True, eq=False)
class Pictures:
    """A split, or some of it: pixels, captions that name thing and style, and both apart."""

    images: np.ndarray
    captions: list[str]
    things: list[str]
    styles: np.ndarray

    @classmethod
    def of(cls, split: str) -> "Pictures":
        images, texts = arrays(load_dataset("emoji64", split), 64)
        captions = [row[1] for row in texts]
        styles = [next(i for i, style in enumerate(STYLES) if f", {style} style" in c) for c in captions]
        return cls(images, captions, [row[0] for row in texts], np.array(styles))

    def choose(self, n: int, seed: int) -> "Pictures":
        rows = np.random.default_rng(seed).permutation(len(self.images))[:n]
        pick = lambda values: [values[i] for i in rows]
        return Pictures(self.images[rows], pick(self.captions), pick(self.things), self.styles[rows])


def contrast(patches):
    """Patches [..., d] with mean 0 and, where they are not flat, variance about 1."""
    centred = patches - patches.mean(-1, keepdims=True)
    return centred / (jnp.square(centred).mean(-1, keepdims=True) + 60.0) ** 0.5


def patches_of(images):
    """[b, h, w, 3] to [b, i, j, 3 * PATCH**2]."""
    channels_first = images.astype(jnp.float32).transpose(0, 3, 1, 2)
    found = jax.lax.conv_general_dilated_patches(channels_first, (PATCH, PATCH), (STRIDE, STRIDE), "VALID")
    return found.transpose(0, 2, 3, 1)


class Things:
    """Scores [b, things] by ridge regression on the bag of patches."""

    def __init__(self, train: Pictures, ridge: float = 3e4, seed: int = 0):
        self.names = sorted(set(train.things))
        self.index = {name: i for i, name in enumerate(self.names)}
        rng = np.random.default_rng(seed)
        some = np.asarray(patches_of(jnp.asarray(train.images[rng.permutation(len(train.images))[:600]])))
        some = some.reshape(-1, some.shape[-1])
        some = np.asarray(contrast(some[some.std(-1) > FLAT]))[:: max(1, len(some) // 60_000)]
        mean = some.mean(0)
        values, vectors = np.linalg.eigh(np.cov((some - mean).T))
        whiten = vectors @ np.diag((values + 0.1) ** -0.5) @ vectors.T
        words = (rng.permutation(some)[:WORDS] - mean) @ whiten
        words /= np.linalg.norm(words, axis=1, keepdims=True)
        self._mean, self._filters = jnp.asarray(mean), jnp.asarray(whiten @ words.T)
        bag = self._bag(train.images)
        self._centre, self._scale = bag.mean(0), bag.std(0) + 1e-3
        x = (bag - self._centre) / self._scale
        target = np.eye(len(self.names), dtype=np.float32)[[self.index[name] for name in train.things]]
        gram = x.T @ x + ridge * np.eye(x.shape[1], dtype=np.float32)
        self._weights = np.linalg.solve(gram, x.T @ (target - 1 / len(self.names)))

    @cached_property
    def _features(self):
        def features(images):
            found = patches_of(images)
            response = (contrast(found) - self._mean) @ self._filters
            fires = jnp.concatenate([jax.nn.relu(response - 0.5), jax.nn.relu(-response - 0.5)], -1)
            fires = fires * (found.std(-1, keepdims=True) > FLAT)
            half = fires.shape[1] // 2
            rows = fires[:, :half], fires[:, half:]
            quadrants = [part for row in rows for part in (row[:, :, :half], row[:, :, half:])]
            bag = jnp.sqrt(jnp.concatenate([q.mean((1, 2)) for q in quadrants], -1))
            colours = images.astype(jnp.float32).reshape(len(images), 8, 8, 8, 8, 3).mean((2, 4))
            return jnp.concatenate([bag, colours.reshape(len(images), -1) / 64.0], -1)

        return jax.jit(features)

    def _bag(self, images: np.ndarray) -> np.ndarray:
        return np.concatenate([np.asarray(self._features(part)) for part in slices(images)])

    def ranks(self, images: np.ndarray, things: list[str], candidates: int = 100, seed: int = 0) -> np.ndarray:
        """Place of each known thing among itself and ``candidates`` - 1 others; things never seen are left out."""
        scores = (self._bag(images) - self._centre) / self._scale @ self._weights
        rng, ranks = np.random.default_rng(seed), []
        for score, name in zip(scores, things, strict=True):
            if name in self.index:
                own = self.index[name]
                others = rng.permutation(len(self.names))[:candidates]
                ranks.append((score[others[others != own][: candidates - 1]] >= score[own]).sum())
        return np.array(ranks)


class Network(nn.Module):
    """Logits [b, 4] from what the layers see on average and at most."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(24, (5, 5), 2)(x))
        x = nn.relu(nn.GroupNorm(6)(nn.Conv(48, (3, 3), 2)(x)))
        fine = nn.relu(nn.GroupNorm(8)(nn.Conv(96, (3, 3))(x)))
        coarse = nn.relu(nn.GroupNorm(8)(nn.Conv(128, (3, 3), 2)(fine)))
        seen = [pool for y in (fine, coarse) for pool in (y.mean((1, 2)), y.max((1, 2)))]
        return nn.Dense(len(STYLES))(nn.relu(nn.Dense(128)(jnp.concatenate(seen, -1))))


class Style:
    """The network, trained on crops that are mirrored, tinted and noisy."""

    def __init__(self, train: Pictures, steps: int = 1200, batch: int = 128, seed: int = 0):
        network = Network()
        params = network.init(jax.random.key(seed), jnp.zeros((1, CROP, CROP, 3)))
        optimizer = optax.adamw(optax.warmup_cosine_decay_schedule(0, 3e-3, 50, steps), weight_decay=0.05)

        @jax.jit
        def step(params, state, key, images, styles):
            where, mirror, tint, grain = jax.random.split(key, 4)
            x = crops(normalize(images), jax.random.randint(where, (batch, 2), 0, images.shape[1] - CROP + 1))
            x = jnp.where(jax.random.bernoulli(mirror, 0.5, (batch, 1, 1, 1)), x[:, :, ::-1], x)
            x = x * (1 + 0.1 * jax.random.normal(tint, (batch, 1, 1, 3)))
            x = x + 0.05 * jax.random.normal(grain, (batch, 1, 1, 3))
            loss = lambda p: optax.softmax_cross_entropy_with_integer_labels(network.apply(p, x), styles).mean()
            updates, state = optimizer.update(jax.grad(loss)(params), state, params)
            return optax.apply_updates(params, updates), state

        state, rng = optimizer.init(params), np.random.default_rng(seed)
        for number in range(steps):
            rows = rng.integers(0, len(train.images), batch)
            key = jax.random.key(number)
            params, state = step(params, state, key, train.images[rows], train.styles[rows])
        room = train.images.shape[1] - CROP
        corners = [(0, 0), (0, room), (room, 0), (room, room), (room // 2, room // 2)]
        self._logits = jax.jit(lambda x: sum(
            jax.nn.log_softmax(network.apply(params, normalize(x[:, i : i + CROP, j : j + CROP]))) for i, j in corners
        ))  # fmt: skip

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return np.concatenate([np.asarray(self._logits(part)).argmax(-1) for part in slices(images)])


def crops(images, offsets):
    """The window of side CROP at each picture's own offset."""
    return jax.vmap(lambda x, o: jax.lax.dynamic_slice(x, (o[0], o[1], 0), (CROP, CROP, 3)))(images, offsets)


def slices(images: np.ndarray) -> list[np.ndarray]:
    return [images[start : start + SLICE] for start in range(0, len(images), SLICE)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", help="run directories of cascades")
    parser.add_argument("--pictures", type=int, default=306, help="captions of each split")
    parser.add_argument("--guidance", type=float, help="of the decoder; default: the config's")
    args = parser.parse_args()
    models = {run: DallE2.load(run) for run in args.runs}
    if args.guidance is not None:
        models = {run: model.guided(args.guidance) for run, model in models.items()}
    train = Pictures.of("train")
    things, style = Things(train), Style(train)
    for split in ("train", "val_pair"):
        chosen = Pictures.of(split).choose(args.pictures, seed=1)
        painted = ((run, model(chosen.captions, seed=0)) for run, model in models.items())
        for name, images in itertools.chain([("real pictures", chosen.images)], painted):
            ranks, right = things.ranks(images, chosen.things), style(images) == chosen.styles
            print(
                f"{split:8}  first {(ranks < 1).mean():.3f}  ten {(ranks < 10).mean():.3f} of {len(ranks)}  "
                f"style {right.mean():.3f} of {len(right)}  {name}",
                flush=True,
            )


if __name__ == "__main__":
    main()
