"""What a training reads: the data set, the cascade's tokenizer, and batches of both.

The tokenizer is ``RUN/tokenizer.model``; the first stage that is trained into a run makes it from its captions, of
200,000 evenly spaced examples where there are more. It stands there once nothing refuses the training any more.
"""

import dataclasses
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from t2i_jax.data import Data, batches, load_data
from t2i_jax.data.deal import Deal, deal_of
from t2i_jax.data.memory import stand_in, usable
from t2i_jax.data.mixture import Examples
from t2i_jax.data.pictures import BadPicture
from t2i_jax.parallel.hosts import barrier, leader
from t2i_jax.text import Tokenizer
from t2i_jax.training.experiment import Experiment
from t2i_jax.training.run import Run
from t2i_jax.training.unusable import Unusable

PREPARATION = 24 * 3600
"""Seconds that processes wait at most for one that has much to do: for the first, which reads the headers of all
pictures, where there are buckets, and captions for the tokenizer (hours for a billion); for the last to compile."""
_SAMPLE, _CHUNK = 200_000, 128


@dataclass(frozen=True)
class Inputs:
    """One experiment's data set and tokenizer."""

    data: Data
    seed: int
    dataset: Examples
    tokenizer: Tokenizer
    unusable: Unusable
    """Takes down the examples that can't be used."""
    share: tuple[int, int] = (0, 1)
    """Which of how many equal parts of every batch this process reads."""
    sizes: Path | None = None
    """The directory where the pictures' sizes are kept, which buckets need."""

    @classmethod
    def open(cls, experiment: Experiment, paths: Run, share: tuple[int, int] = (0, 1)) -> "Inputs":
        """Load both. Raises FileNotFoundError or ValueError with the fix where the data or the vocabulary don't fit."""
        data = experiment.data
        dataset = load_data(data)
        if leader():
            deal_of(data, dataset, paths.cache)  # writes the sizes, where buckets need them
            paths.draft.unlink(missing_ok=True)  # left by a process that was killed
            if not paths.tokenizer.exists():
                Tokenizer.train(captions_for_tokenizer(dataset), paths.draft, data.vocab)
        barrier(f"tokenizer of {experiment.stage.name}", PREPARATION)
        made = paths.draft.exists()
        tokenizer = Tokenizer.load(paths.draft if made else paths.tokenizer)
        barrier(f"tokenizer of {experiment.stage.name} is read")
        if leader():
            paths.draft.unlink(missing_ok=True)
        known = experiment.stage.vocabulary()
        if known is not None and known < tokenizer.vocab:
            what, where = ("of these captions", "") if made else (paths.tokenizer, "into another run ")
            raise ValueError(
                f"the tokenizer {what} has {tokenizer.vocab} token ids and the model of the stage "
                f"{experiment.stage.name!r} knows {known}: set the vocab of its text tower to at least "
                f"{tokenizer.vocab}, or train {where}with data.vocab={known} in every stage"
            )
        unusable = Unusable(paths.unusable(jax.process_index()), dataset)
        return cls(data, experiment.seed, dataset, tokenizer, unusable, share, paths.cache)

    def keep_tokenizer(self, path: Path) -> None:
        """Save the tokenizer where there is none yet. By then nothing refuses the training any more: what a refused one
        left, the next would take for its own, whatever its captions are.

        Raises ValueError where there is another.
        """
        if not path.exists():
            self.tokenizer.save(path)
        elif Tokenizer.load(path).digest != self.tokenizer.digest:
            raise ValueError(
                f"{path} was made meanwhile by another training, whose captions or data.vocab are not this one's: "
                "start this one again and it takes that tokenizer, or train into another run"
            )

    @property
    def deal(self) -> Deal:
        """How the examples are dealt to the steps."""
        return deal_of(self.data, self.dataset, self.sizes)

    def shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of a global batch of squares, as the step takes it."""
        return batch_shapes(self.data)

    def images(self) -> dict[tuple[int, ...], float]:
        """The shapes of a batch's pictures, [b, h, w, 3], and the share of the steps that have each."""
        steps = self.deal.steps.counts
        return {(self.data.batch, *shape, 3): count / sum(steps) for shape, count in zip(self.deal.shapes, steps)}

    def digests(self) -> dict[str, str]:
        """What the data set and the tokenizer are made of, as SHA-256."""
        return {"data": self.dataset.digest, "tokenizer": self.tokenizer.digest}

    def indices(self, number: int) -> np.ndarray:
        """Global indices of the examples of the step ``number`` (from 1), of all processes together."""
        return self.deal.visits(self.seed, number - 1, self.data.batch)[1]

    def visits(self, start: int, images: bool) -> Iterator[dict[str, np.ndarray]]:
        """This process's share of the batches from step ``start`` on, as the pipeline gives them."""
        number, count = self.share
        return batches(
            self.data, self.dataset, self.tokenizer, self.seed, start, number, count, images, self.deal, self.unusable
        )

    def batches(self, start: int) -> Iterator[dict[str, np.ndarray]]:
        """The batches from step ``start`` on, as the step takes them."""
        names = self.shapes()
        return ({name: batch[name] for name in names} for batch in self.visits(start, images=True))

    def examples(self, n: int) -> tuple[dict[str, np.ndarray], list[str]]:
        """The first ``n`` examples of the first epoch as they are (first caption, no flip), and their captions."""
        square = deal_of(dataclasses.replace(self.data, buckets=()), self.dataset)
        indices = square.visits(self.seed, 0, min(n, len(self.dataset)))[1]
        records, pictures = zip(*(self._usable(int(index), square) for index in indices))
        captions = [record["captions"][0] for record in records]
        batch = {
            "image": np.stack(pictures),
            "tokens": self.tokenizer(captions, self.data.context),
            "index": np.array([record["index"] for record in records], np.int32),
        }
        return batch, captions

    def _usable(self, index: int, deal: Deal) -> tuple[dict, np.ndarray]:
        """Record and picture of an example, or of the one that stands in for it."""
        out = np.empty((*deal.shapes[0], 3), np.uint8)
        (record,) = self.dataset.records([index])
        try:
            usable(record, out)
        except BadPicture:
            record = stand_in(self.data, self.dataset, deal, index, out, {}, {})
        return record, out


def captions_for_tokenizer(dataset: Examples) -> Iterator[str]:
    """The captions of all examples in their order; of more than 200,000, those of at most so many, evenly spaced."""
    sample = range(0, len(dataset), -(-len(dataset) // _SAMPLE))
    chunks = (sample[start : start + _CHUNK] for start in range(0, len(sample), _CHUNK))
    with ThreadPoolExecutor() as pool:  # a record comes with its picture, perhaps over a network
        for rows in pool.map(lambda chunk: [record["captions"] for record in dataset.records(chunk)], chunks):
            yield from (caption for captions in rows for caption in captions)


def batch_shapes(data: Data) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of a global batch of such data, as the step takes it."""
    b, side = data.batch, data.image_size
    return {
        "image": jax.ShapeDtypeStruct((b, side, side, 3), np.uint8),
        "tokens": jax.ShapeDtypeStruct((b, data.context), np.int32),
        "index": jax.ShapeDtypeStruct((b,), np.int32),
    }
