"""Which examples a training reads and in which form, as a value of the experiment."""

from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Data:
    """Examples of a training. Everything random follows from the experiment's seed and the step number."""

    dataset: str | tuple[tuple[str, float], ...] = "emoji64"
    """Data set: "emoji64", a directory that `t2i data build` wrote, or a TFDS name prepared on this machine. Several,
    each followed by its share of the examples: emoji64 3 DATA/mine 1."""
    split: str | tuple[str, ...] = "train"
    """Split of the data set; TFDS slices work: train[:10%]. Of several data sets, one for all or one for each."""
    batch: int = 64
    """Examples a step, over all devices and processes together."""
    image_size: int = 64
    """Side of the square that pictures are resized and centre-cropped to, in pixels."""
    buckets: tuple[tuple[int, int], ...] = ()
    """Shapes, height and width in pixels, in place of the square. A picture goes to the shape whose aspect ratio is
    nearest to its own; all pictures of a step have one shape. Samples and evaluations keep image_size."""
    context: int = 32
    """Tokens a caption has room for, two of them for its begin and end marks."""
    vocab: int = 3072
    """Most token ids of the tokenizer that is made of the captions; of few captions it has fewer. All stages of a
    cascade share one tokenizer: give them all the same, and text towers that know as many."""
    truncate: bool = False
    """Cut captions that are longer than the context, losing their end, instead of refusing the data."""
    flip: bool = True
    """Mirror a picture in half of its visits, where its captions allow it."""
    caption_weights: tuple[float, ...] = ()
    """How often each of an example's captions is drawn, in proportion and in their order; those beyond the last weight
    share its value. Empty: all alike."""
    keyword_probability: float = 0.0
    """Share of visits that see a caption's keywords in place of the caption."""
    memory_gb: float = 1.0
    """A split whose pictures take less than this once decoded is decoded once and kept in memory."""
    max_bad: float = 0.01
    """Share of examples that may turn out unusable, and be replaced, before the run stops: of all, and while data that
    do not fit memory are read, of those that were visited so far (of 10,000, where that is less)."""

    @property
    def parts(self) -> tuple[tuple[str, str], ...]:
        """Name and split of every data set."""
        names = (self.dataset,) if isinstance(self.dataset, str) else tuple(name for name, _ in self.dataset)
        splits = (self.split,) * len(names) if isinstance(self.split, str) else self.split
        return tuple(zip(names, splits))

    @property
    def weights(self) -> tuple[Fraction, ...]:
        """Share of each data set; they add up to 1. Decimals and simple fractions are taken as what they mean: 0.7 is
        7/10, and 0.3333333 a third."""
        if isinstance(self.dataset, str):
            return (Fraction(1),)
        given = [Fraction(weight).limit_denominator(1_000_000) for _, weight in self.dataset]
        return tuple(weight / sum(given) for weight in given)

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """Height and width of the pictures of a step: the buckets, or the one square."""
        return self.buckets or ((self.image_size, self.image_size),)

    def __post_init__(self):
        self._check_mixture()
        if any(len(shape) != 2 or min(shape) < 1 for shape in self.buckets):
            raise ValueError(f"data.buckets={self.buckets}: each is a height and a width of at least 1 pixel")
        if len(set(self.buckets)) < len(self.buckets):
            raise ValueError(f"data.buckets={self.buckets}: a shape stands there twice; leave one out")
        if self.batch < 1 or self.image_size < 1:
            raise ValueError(f"data.batch={self.batch} and data.image_size={self.image_size} must be at least 1")
        if self.context < 3:
            raise ValueError(f"data.context={self.context} has no room beside the two marks; give at least 3")
        if self.vocab < 512:
            raise ValueError(f"data.vocab={self.vocab}: bytes and marks alone take 260; give at least 512")
        if any(not weight >= 0 for weight in self.caption_weights) or self.caption_weights[:1] == (0,):
            raise ValueError(
                f"data.caption_weights={self.caption_weights}: none may be negative and the first must be positive, "
                "because some examples have only one caption"
            )
        for name in ("keyword_probability", "max_bad"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"data.{name}={getattr(self, name)} is a share: 0 to 1")

    def _check_mixture(self) -> None:
        if isinstance(self.dataset, str):
            if not isinstance(self.split, str):
                raise ValueError(
                    f"data.split={self.split} has {len(self.split)} splits for the one data set {self.dataset}"
                )
            return
        if not self.dataset or any(not 1e-6 <= weight <= 1e9 for _, weight in self.dataset):
            raise ValueError(
                f"data.dataset={self.dataset}: name at least one data set, each with a weight from 1e-6 to 1e9"
            )
        if not isinstance(self.split, str) and len(self.split) != len(self.dataset):
            raise ValueError(
                f"data.split={self.split} has {len(self.split)} splits for {len(self.dataset)} data sets: give one for "
                "all, or one for each"
            )
        if len(set(self.parts)) < len(self.dataset):
            raise ValueError(
                f"data.dataset={self.dataset}: a data set and split stand there twice; add up their weights"
            )
