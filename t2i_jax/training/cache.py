"""Features of frozen stages, computed once for every view of every example.

A view of a picture is (example, mirrored or not), a view of the text is one row of tokens; picture and text features
are kept apart, so nothing is stored for every combination. Each kind lies in ``RUN/cache/<key>/`` as one ``.npy`` a
feature (float16 where the feature is a float), read as memory maps. The key is a SHA-256 over all that the numbers
depend on: the frozen parameters' bytes, the traced program of the feature function, the data set's digest and the
operations on the way (size, flips, tokens). So another parameter, another line of code or another picture is another
directory, and a stale cache cannot be met. A directory gets its name only when it is complete.

    cache = Cache.of(stage, frozen, inputs, made_from, RUN / "cache", limit_gb)
    cache.fill(frozen, mesh)
    for batch in cache.batches(start): ...          # tokens, index and the features, gathered by index

Text features that would not fit below the limit are left to the step. If the picture's don't fit, there is no cache.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from t2i_jax.data.checks import check_bad, check_captions
from t2i_jax.data.deal import Shares
from t2i_jax.data.pipeline import Table, tokens_of
from t2i_jax.data.resize import resizer
from t2i_jax.stages.base import Stage
from t2i_jax.training.appender import say
from t2i_jax.training.features import CHUNK, Store, program_of, stored
from t2i_jax.training.inputs import Inputs
from t2i_jax.training.views import ImageViews, TextViews, stand_ins
from t2i_jax.types import Params

Shapes = dict[str, jax.ShapeDtypeStruct]


class Cache:
    """The features of one stage on one data set."""

    def __init__(
        self, stage: Stage, inputs: Inputs, shapes: dict[str, Shapes], parts: dict[str, Any], tokens: np.ndarray,
        root: Path,
    ):  # fmt: skip
        self.stage, self.inputs, self.root = stage, inputs, root
        self.shapes = shapes
        """For each kind that is kept, "image" and perhaps "text": its features' shapes as a batch brings them."""
        self._parts, self._tokens = parts, tokens
        self._arrays: dict[str, dict[str, np.ndarray]] = {}

    @classmethod
    def of(
        cls, stage: Stage, frozen: dict[str, Params], inputs: Inputs, made_from: dict[str, str], root: Path,
        limit_gb: float,
    ) -> "Cache | None":  # fmt: skip
        """The cache for a stage, nothing computed yet; None where there is nothing to keep or no room for it.

        ``made_from``: digests of the data set, the tokenizer and the frozen stages by name. Several processes keep no
        cache: each would have to compute the whole of it. Nor do buckets, whose features differ in shape. Raises
        ValueError for captions longer than the context.
        """
        if jax.process_count() > 1 or inputs.data.buckets:
            return None
        batch, programs, shapes = inputs.shapes(), {}, {}
        programs["image"], image = program_of(stage.image_features, frozen, batch["image"])
        limit = limit_gb * 2**30
        if not image or _bytes(image, len(inputs.dataset)) > limit:  # before a billion captions are read
            return None
        captions = inputs.dataset.captions
        check_captions(inputs.data, inputs.dataset, range(len(captions)), captions, inputs.tokenizer)
        room = limit - _bytes(image, len(ImageViews.of(inputs.data, captions)))
        if room < 0:
            return None
        shapes["image"] = image
        digest, text = program_of(stage.text_features, frozen, batch["tokens"])
        tokens = tokens_of(inputs.data, captions, inputs.tokenizer)
        if text and _bytes(text, len(TextViews.of(inputs.data, captions, tokens))) <= room:
            programs["text"], shapes["text"] = digest, text
        parts = {"made_from": made_from, "programs": programs}
        kept = {kind: {name: stored(leaf) for name, leaf in leaves.items()} for kind, leaves in shapes.items()}
        return cls(stage, inputs, kept, parts, tokens, root)

    def fill(self, frozen: dict[str, Params], mesh: jax.sharding.Mesh) -> "Cache":
        """Compute what is not on disk yet, with ``frozen`` on the devices, and open it; returns itself."""
        data, dataset = self.inputs.data, self.inputs.dataset
        made_from = self._parts["made_from"]
        frozen_digests = {name: made_from[name] for name in self.stage.reads}
        captions = dataset.captions
        views = ImageViews.of(data, captions)
        key = {
            "kind": "image", "program": self._parts["programs"]["image"], "frozen": frozen_digests,
            "data": made_from["data"], "views": views.digest,
            "ops": ["usable", f"fit {data.image_size} by {resizer()}", "mirror"],
        }  # fmt: skip
        store = Store(self.root, key, self.shapes["image"], len(views))
        if not store.complete():
            self._say(f"image features of {len(views)} views of {len(dataset)} pictures")
            bad: dict[int, str] = {}
            chunks = views.chunks(dataset, data.shapes[0], CHUNK, bad)
            store.write(self.stage.image_features, frozen, mesh, chunks, lambda: {"bad": bad})
        self._arrays["image"] = store.open()
        bad = {int(index): reason for index, reason in store.notes()["bad"].items()}
        check_bad(data, dataset, bad, len(dataset))
        stand_in = stand_ins(self.inputs.deal, len(dataset), bad)
        captions = [captions[index] for index in stand_in]
        self._image_views = views.replaced(stand_in)
        tokens = tokens_of(data, captions, self.inputs.tokenizer) if bad else self._tokens
        self._table = Table(data, captions, tokens)
        if "text" in self.shapes:
            self._text_views = TextViews.of(data, captions, tokens)
            key = {
                "kind": "text", "program": self._parts["programs"]["text"], "frozen": frozen_digests,
                "views": self._text_views.digest,
            }  # fmt: skip
            store = Store(self.root, key, self.shapes["text"], len(self._text_views))
            if not store.complete():
                self._say(f"text features of {len(self._text_views)} captions")
                store.write(self.stage.text_features, frozen, mesh, self._text_views.chunks(CHUNK))
            self._arrays["text"] = store.open()
        return self

    def batches(self, start: int) -> Iterator[dict[str, np.ndarray]]:
        """The batches from step ``start`` on: the visits of the pipeline, features in place of the picture."""
        shares = Shares(self.inputs.seed, self.inputs.data.batch, self.inputs.deal)
        step = start
        while True:
            epoch, index = shares(step)
            visit = self._table.batch(shares.seed, epoch, index)
            batch = {"tokens": visit["tokens"], "index": visit["index"]}
            rows = self._image_views.rows(index, visit["flipped"])
            batch |= {name: array[rows] for name, array in self._arrays["image"].items()}
            if "text" in self._arrays:
                rows = self._text_views.rows(index, visit["caption"])
                batch |= {name: array[rows] for name, array in self._arrays["text"].items()}
            yield batch
            step += 1

    def _say(self, what: str) -> None:
        say(f"{self.stage.name}: computing {what}, once, into {self.root}")


def _bytes(features: Shapes, views: int) -> int:
    """What features (shapes of a batch) take on disk for so many views."""
    kept = (stored(leaf) for leaf in features.values())
    return views * sum(math.prod(leaf.shape[1:]) * leaf.dtype.itemsize for leaf in kept)
