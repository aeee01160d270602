"""The seam between what is trained and what trains it.

A stage is one trained part of the cascade: a model, a loss, a preview. It is a frozen dataclass of values and pure
functions, so it is its own config; the trainer knows it only by this base class.

    @dataclass(frozen=True)
    class VAE(Stage):
        name: ClassVar[str] = "vae"
        model: AutoencoderKL = AutoencoderKL()
        def init(self, rng, batch): ...
        def loss(self, params, frozen, rng, batch): ...
        def preview(self, params, frozen, rng, batch): ...

A batch holds ``image`` uint8 [b, h, w, 3], ``tokens`` int32 [b, l] and ``index`` int32 [b], plus everything that
``image_features`` and ``text_features`` return: the trainer computes those inside the step, or once for the whole data
set and reads them from its cache. With the cache the batch holds no ``image``: a loss takes from a batch the tokens and
its own features, or, where a stage has no features, the image.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Array

from t2i_jax.types import Batch, Params

Features = dict[str, Array]


@dataclass(frozen=True)
class Stage:
    """What a stage must give (``init``, ``loss``, ``preview``) and may give (the rest).

    ``frozen`` is everywhere a dict from the names in ``reads`` to those stages' averaged parameters.
    """

    name: ClassVar[str]
    """The stage's word and the name of its directory in the run."""
    reads: ClassVar[tuple[str, ...]] = ()
    """Stages that have to be trained first and whose parameters the loss, the features or the preview use."""
    whole: ClassVar[bool] = False
    """Whether its loss compares the examples of a batch with each other, so that a batch can't be taken in parts."""

    def init(self, rng: Array, batch: Batch) -> Params:
        """Fresh parameters, float32, for batches of this shape. Called under ``jax.jit`` and ``jax.eval_shape``."""
        raise NotImplementedError

    def loss(self, params: Params, frozen: dict, rng: Array, batch: Batch) -> tuple[Array, dict[str, Array]]:
        """Scalar loss to minimise, averaged over the batch, and further scalars to report."""
        raise NotImplementedError

    def preview(self, params: Params, frozen: dict, rng: Array, batch: Batch) -> Array:
        """Pictures [n, h, w, 3], uint8 or floats in [-1, 1], one for each example of the batch, in its order.

        A whole multiple of b is drawn as so many pictures a caption: example i has pictures i, i + b, i + 2b, ….
        """
        raise NotImplementedError

    def vocabulary(self) -> int | None:
        """How many token ids its model knows; None for a stage that reads no tokens. The tokenizer must fit in."""
        return None

    def expects(self, rng: Array, batch: Batch) -> dict[str, Params]:
        """Parameters of the stages in ``reads`` as this stage would initialise them.

        Evaluated for its shapes alone (``jax.eval_shape``), to name a wrong leaf before training. {} checks nothing.
        """
        return {}

    def image_features(self, frozen: dict, image: Array) -> Features:
        """What the stage needs of frozen stages that depends on the picture alone: name -> [b, ...]. No randomness."""
        return {}

    def text_features(self, frozen: dict, tokens: Array) -> Features:
        """What the stage needs of frozen stages that depends on the tokens alone: name -> [b, ...]. No randomness."""
        return {}

    def features(self, frozen: dict, batch: Batch) -> Features:
        """Both kinds of features for a batch of images and tokens. Override the two parts, not this."""
        return self.image_features(frozen, batch["image"]) | self.text_features(frozen, batch["tokens"])

    def finish(self, params: Params, frozen: dict, batches: Iterator[Batch]) -> Params:
        """Called once at the end of training with the averaged parameters, e.g. to store latent statistics in them.

        Returns a tree of the same shape. It may change only leaves that the loss does not train.
        """
        return params
