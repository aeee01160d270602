"""Batches of a data set that does not fit memory: tf.data reads by index, decodes, resizes and prefetches.

Each step is one element of a tf.data range: one Python call plans the step and reads its records, then every picture is
decoded and resized by TensorFlow's threads, in order. Headers are read before anything is decoded, and pictures of an
unusual kind (CMYK, 16 bits, transparent, rotated) are made plain first. A picture whose damage shows only in decoding
fails its step; that step is done again picture by picture, and the next usable example stands in for the bad one. All
of it is a function of the step, so every process and every repetition sees the same.
"""

import contextlib
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import numpy as np

from t2i_jax.data.checks import check_bad
from t2i_jax.data.dataset import Dataset, check
from t2i_jax.data.ops import choose_flips, choose_texts, may_flip, text_at
from t2i_jax.data.order import Shares
from t2i_jax.data.pictures import BadPicture, canonical, is_plain, open_header
from t2i_jax.data.settings import Data
from t2i_jax.text.tokenizer import Tokenizer

_SCALES = (1, 2, 4, 8)
_TRIES = 1000
_PARALLEL_READS = 2


class Stream(Iterator):
    """Iterator of batches from ``step`` on; ``bad`` maps the indices of replaced examples to the reason."""

    def __init__(self, data: Data, dataset: Dataset, tokenizer: Tokenizer, shares: Shares, step: int, images: bool):
        self._data, self._dataset, self._tokenizer, self._shares = data, dataset, tokenizer, shares
        self._step, self._first, self._images = step, step, images
        self.bad: dict[int, str] = {}
        # TensorFlow's threads call Python: they must be gone before the interpreter is, or it aborts at exit
        self._ahead: list[Iterator] = []
        weakref.finalize(self, self._ahead.clear)

    def close(self) -> None:
        """End the threads that read ahead."""
        self._ahead.clear()

    def __next__(self) -> dict[str, np.ndarray]:
        batch = self._pictures(self._step) if self._images else self._plan(self._step, lambda image: None)[0]
        self._step += 1
        steps = max(self._step - self._first, 100)  # one bad example in the first batch is no reason to stop
        check_bad(self._data, Counter(self.bad.values()), steps * self._shares.share)
        return batch

    def _pictures(self, step: int) -> dict[str, np.ndarray]:
        tf = tensorflow()
        if not self._ahead:
            self._ahead.append(self._pipeline(step).as_numpy_iterator())
        try:
            return next(self._ahead[0])
        except tf.errors.InvalidArgumentError:
            self._ahead.clear()

        def pixels(image: bytes) -> np.ndarray:
            try:
                return decoder(self._data.image_size)(*plain(image, self._data.image_size)).numpy()
            except tf.errors.InvalidArgumentError as error:
                raise BadPicture("does not decode", error.message) from error

        batch, pictures = self._plan(step, pixels)
        pictures = [picture[:, ::-1] if flip else picture for picture, flip in zip(pictures, batch["flipped"])]
        return batch | {"image": np.stack(pictures)}

    def _pipeline(self, step: int):
        """The tf.data.Dataset of batches from ``step`` on."""
        tf = tensorflow()
        size, share, context = self._data.image_size, self._shares.share, self._data.context
        types = {"tokens": tf.int32, "index": tf.int32, "caption": tf.int32, "flipped": tf.bool}

        def read(step: np.int64) -> list[np.ndarray]:
            batch, pictures = self._plan(int(step), lambda image: plain(image, size))
            files, scales = zip(*pictures)
            return [*(batch[name] for name in types), np.array(files, object), np.array(scales, np.int32)]

        def plan(step):
            outputs = tf.numpy_function(read, [step], [*types.values(), tf.string, tf.int32])
            for tensor in outputs:  # tokens come first
                tensor.set_shape([share, context] if tensor is outputs[0] else [share])
            return tuple(outputs)

        def picture(tokens, index, caption, flipped, file, scale):
            image = decoder(size)(file, scale)
            image = tf.cond(flipped, lambda: tf.reverse(image, [1]), lambda: image)  # tf.where goes pixel by pixel
            return {"tokens": tokens, "index": index, "caption": caption, "flipped": flipped, "image": image}

        steps = tf.data.Dataset.range(step, np.iinfo(np.int64).max)
        records = steps.map(plan, num_parallel_calls=_PARALLEL_READS, deterministic=True).prefetch(1).unbatch()
        pictures = records.map(picture, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        return pictures.batch(share, drop_remainder=True).prefetch(2)

    def _plan(self, step: int, read: Callable[[bytes], Any]) -> tuple[dict[str, np.ndarray], list]:
        """A batch without pictures, and what ``read`` makes of each picture file; bad examples replaced."""
        epoch, index = self._shares(step)
        rows, pictures = zip(*(self._usable(record, read) for record in self._dataset.records(index)))
        count = np.array([len(captions) for captions in rows])
        allowed = np.array([self._data.flip and may_flip(captions) for captions in rows])
        data = self._data
        caption = choose_texts(
            self._shares.seed, epoch, index, count, data.caption_weights, data.keyword_probability
        )
        batch = {
            "tokens": self._tokenizer([text_at(row, int(c)) for row, c in zip(rows, caption)], self._data.context),
            "index": index.astype(np.int32),
            "caption": caption.astype(np.int32),
            "flipped": choose_flips(self._shares.seed, epoch, index, allowed),
        }
        return batch, list(pictures)

    def _usable(self, record: dict, read: Callable[[bytes], Any]) -> tuple[list[str], Any]:
        tries = min(_TRIES, len(self._dataset))
        for _ in range(tries):
            try:
                check(record)
                return record["captions"], read(record["image"])
            except BadPicture as error:
                self.bad[record["index"]] = error.reason
            record = self._dataset.records([(record["index"] + 1) % len(self._dataset)])[0]
        raise ValueError(f"{tries} examples before {record['key']} are all unusable: {Counter(self.bad.values())}")


@cache
def tensorflow():
    """TensorFlow, kept off the accelerators, which belong to JAX."""
    import tensorflow as tf

    with contextlib.suppress(RuntimeError):  # whoever used TensorFlow before in this process has settled its devices
        tf.config.set_visible_devices([], "GPU")
    return tf


def plain(image: bytes, size: int) -> tuple[bytes, int]:
    """Bytes that TensorFlow decodes rightly, and the 1/scale at which a JPEG is still ``size`` or more on each side."""
    header = open_header(image)
    if not is_plain(header):
        return canonical(image)[0], 1
    if header.format != "JPEG":
        return image, 1
    return image, max(scale for scale in _SCALES if scale == 1 or min(header.size) >= scale * size)


@cache
def decoder(size: int) -> Callable:
    """A TensorFlow function (file, scale) -> uint8 [size, size, 3]: decode, centre square, antialiased resize."""
    tf = tensorflow()

    @tf.function(input_signature=[tf.TensorSpec([], tf.string), tf.TensorSpec([], tf.int32)])
    def decode(file, scale):
        # decode_jpeg reads PNG as well; only JPEG heeds the options
        at = partial(tf.io.decode_jpeg, file, channels=3, fancy_upscaling=False, dct_method="INTEGER_FAST")
        image = tf.case([(tf.equal(scale, s), partial(at, ratio=s)) for s in _SCALES[1:]], default=at)
        height, width = tf.shape(image)[0], tf.shape(image)[1]
        side = tf.minimum(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        image = image[top : top + side, left : left + side]

        def resize(method: str, antialias: bool):
            resized = tf.image.resize(image, (size, size), method, antialias=antialias)
            return tf.saturate_cast(tf.round(resized), tf.uint8)

        image = tf.case(
            [(tf.equal(side, size), lambda: image), (side > size, lambda: resize("area", False))],
            default=lambda: resize("bicubic", True),
        )
        return tf.ensure_shape(image, (size, size, 3))

    return decode
