"""Which pictures and captions a build takes: limits on captions, size, shape and scores, as one frozen value.

    Choice(min_caption=8, min_side=256, max_aspect=2.5, min_score=(("aesthetic", 5.0),))

What is left out is a BadPicture, whose reason is counted. The cheap questions come first; a picture's size is asked of
its header, before it is decoded.
"""

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass

from t2i_jax.data.pictures import MAX_PIXELS, BadPicture
from t2i_jax.text.normalize import normalize

_MOST_CAPTIONS = 1000
_ABSURD = 1 << 16
_NOISE = 0.1


@dataclass(frozen=True)
class Choice:
    """Limits; what is on a limit is taken. The defaults only keep out what no training could use."""

    min_caption: int = 1
    """Characters of a caption, after normalisation; shorter ones are dropped, and pictures that have no other."""
    max_caption: int = 10_000
    """The same for longer ones."""
    min_side: int = 1
    """Pixels of a picture's shorter side."""
    max_pixels: int = MAX_PIXELS
    """Pixels of a picture, by its header: a small file can decode to gigabytes. A training reads no larger ones than
    the default."""
    max_aspect: float = float("inf")
    """Longer side over shorter side."""
    min_score: tuple[tuple[str, float], ...] = ()
    """Columns of numbers and the least value of each."""
    max_score: tuple[tuple[str, float], ...] = ()
    """Columns of numbers and the greatest value of each."""

    def __post_init__(self):
        if not 1 <= self.min_caption <= self.max_caption:
            raise ValueError(f"captions of {self.min_caption} to {self.max_caption} characters: there are none")
        if self.max_pixels > MAX_PIXELS:
            raise ValueError(f"max_pixels={self.max_pixels}: no training reads more than {MAX_PIXELS} of a picture")
        if self.min_side < 1 or self.max_pixels < self.min_side**2 or not self.max_aspect >= 1:
            raise ValueError(
                f"min_side={self.min_side}, max_pixels={self.max_pixels} and max_aspect={self.max_aspect}: "
                "no picture is like that"
            )

    def check_scores(self, scores: Mapping[str, float]) -> None:
        """Raises BadPicture where a score is missing or outside its limits."""
        for limits, sign, reason in ((self.min_score, 1, "score too low"), (self.max_score, -1, "score too high")):
            for name, limit in limits:
                value = _score(scores, name)
                if sign * value < sign * limit:
                    raise BadPicture(reason, f"{name} is {value:g}")

    def captions(self, captions: list[str]) -> list[str]:
        """Normalised, without repetitions and those outside the limits. Raises BadPicture where none is left."""
        if len(captions) > _MOST_CAPTIONS:
            raise BadPicture("too many captions", f"{len(captions)}")
        kept, refused = {}, None
        for caption in captions:
            try:
                kept[self._caption(caption)] = None
            except BadPicture as error:
                refused = refused or error
        if not kept:
            raise refused or BadPicture("empty caption")
        return list(kept)

    def _caption(self, caption: str) -> str:
        if len(caption) > max(_ABSURD, 8 * self.max_caption):
            raise BadPicture("caption too long", f"{len(caption)} characters")
        text = normalize(caption)
        if not text:
            raise BadPicture("empty caption")
        noise = 0 if caption.isprintable() and "\ufffd" not in caption else sum(map(_is_noise, caption))
        if noise > _NOISE * len(caption):
            raise BadPicture("caption is no text", f"{noise} control characters: {text[:60]!r}")
        if len(text) < self.min_caption:
            raise BadPicture("caption too short", repr(text))
        if len(text) > self.max_caption:
            raise BadPicture("caption too long", f"{len(text)} characters")
        return text

    def check_size(self, width: int, height: int) -> None:
        """Raises BadPicture where a picture is too small or too long."""
        if min(width, height) < self.min_side:
            raise BadPicture("picture too small", f"{width}×{height}")
        if max(width, height) > self.max_aspect * min(width, height):
            raise BadPicture("picture too long", f"{width}×{height}")


def _is_noise(character: str) -> bool:
    return character == "\ufffd" or (unicodedata.category(character) == "Cc" and character not in "\t\n\r")


def _score(scores: Mapping[str, float], name: str) -> float:
    """The score of that name, or the only one whose name begins so; capitals don't count."""
    lower = {key.lower(): value for key, value in scores.items()}
    if name.lower() in lower:
        return lower[name.lower()]
    found = [value for key, value in lower.items() if key.startswith(name.lower())]
    if len(found) != 1:
        raise BadPicture("no such score", f"{name!r}; there are: {', '.join(sorted(scores)) or 'none'}"[:300])
    return found[0]
