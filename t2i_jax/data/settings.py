"""Which examples a training reads and in which form, as a value of the experiment."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Data:
    """Examples of a training. Everything random follows from the experiment's seed and the step number."""

    dataset: str = "emoji64"
    """Data set: "emoji64", a directory that `t2i data build` wrote, or a TFDS name prepared on this machine."""
    split: str = "train"
    """Split of the data set; TFDS slices work: train[:10%]."""
    batch: int = 64
    """Examples a step, over all devices and processes together."""
    image_size: int = 64
    """Side of the square that pictures are resized and centre-cropped to, in pixels."""
    context: int = 32
    """Tokens a caption has room for, two of them for its begin and end marks."""
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
    """Share of examples that may turn out unusable, and be replaced, before the run stops."""

    def __post_init__(self):
        if self.batch < 1 or self.image_size < 1:
            raise ValueError(f"data.batch={self.batch} and data.image_size={self.image_size} must be at least 1")
        if self.context < 3:
            raise ValueError(f"data.context={self.context} has no room beside the two marks; give at least 3")
        if any(not weight >= 0 for weight in self.caption_weights) or self.caption_weights[:1] == (0,):
            raise ValueError(
                f"data.caption_weights={self.caption_weights}: none may be negative and the first must be positive, "
                "because some examples have only one caption"
            )
        for name in ("keyword_probability", "max_bad"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"data.{name}={getattr(self, name)} is a share: 0 to 1")
