"""What happens to an example at a visit: which caption, in which form, mirrored or not. Pure functions.

Each choice has its own random bits, which belong to (seed, epoch, index): see order.py.
"""

import re
from collections.abc import Sequence

import numpy as np

from t2i_jax.data.order import bits, uniform
from t2i_jax.text.keywords import keywords

_FLIP, _CAPTION, _KEYWORD = 1, 2, 3

# A mirrored picture must still be a true picture of its captions. Mirroring makes sides and turns false (left,
# clockwise), and breaks what is written or drawn by convention: letters, digits, clocks, flags, maps, notes, phases of
# the moon. A word that only sometimes means such a thing stands here too: a missed flip costs little, a false one lies.
_HANDED = frozenset(
    """left right leftward leftwards rightward rightwards lefthand righthand west east western eastern port starboard
    clockwise counterclockwise anticlockwise arrow arrows direction directions
    clock clocks watch stopwatch timer hour hours time thirty o'clock dial compass speedometer
    flag flags banner emblem logo logos brand map maps globe globes world atlas continent country countries
    letter letters alphabet alphabetic latin text texts word words writing written handwriting script caption font
    calligraphy kanji hiragana katakana ideograph input number numbers numeral digit digits numeric keycap hash
    sign signs signage symbol symbols symbolic character label labels poster placard billboard button license
    page newspaper magazine document calendar ticket tickets receipt keyboard barcode chart graph mahjong
    exclamation question mark percent plus minus divide currency dollar euro pound yen
    music musical note notes score clef treble bass zodiac waxing waning crescent gibbous quarter
    japanese chinese korean arabic hebrew""".split()
)
_WRITTEN = re.compile(r"\d|[\"“”«»「」]|\b[A-Z]{2,}\b|[A-Z]!")
_DRAWN = re.compile(r"(?i)\b[234]d\b")
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")


def may_flip(captions: Sequence[str]) -> bool:
    """Whether the mirrored picture is still true to all its captions: none names a side, a turn, or anything written.

    Digits, quotation marks and words in capitals count as written: "1st place", 'sign that says "open"', "OK". A digit
    within a word of the style of a drawing (3d, 2D) does not.
    """
    for caption in captions:
        if not _HANDED.isdisjoint(_WORD.findall(caption.lower().replace("’", "'"))):
            return False
        if _WRITTEN.search(caption) and _WRITTEN.search(_DRAWN.sub("", caption)):
            return False
    return True


def texts_of(captions: Sequence[str], with_keywords: bool) -> list[str]:
    """All texts that a visit may see: the captions, then, if asked, the keywords of each."""
    return [*captions, *map(keywords, captions)] if with_keywords else list(captions)


def text_at(captions: Sequence[str], place: int) -> str:
    """``texts_of(captions, True)[place]`` without making the others."""
    return captions[place] if place < len(captions) else keywords(captions[place - len(captions)])


def choose_flips(seed: int, epoch: np.ndarray, index: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """bool [b]: mirrored, with probability 1/2 where ``allowed`` (bool [b])."""
    return allowed & (bits(seed, _FLIP, epoch, index) >> np.uint64(63)).astype(bool)


def choose_texts(
    seed: int,
    epoch: np.ndarray,
    index: np.ndarray,
    captions: np.ndarray,
    weights: Sequence[float],
    keyword_probability: float,
) -> np.ndarray:
    """int64 [b]: the place of the drawn text in ``texts_of`` of each example, which has ``captions`` [b] captions.

    Caption i of an example is drawn in proportion to ``weights[i]``; those beyond the last weight share its value, and
    without any all are alike.
    """
    weights = np.asarray(weights or (1.0,))
    most = max(int(captions.max(initial=1)), len(weights))
    upto = np.cumsum(np.pad(weights, (0, most - len(weights)), mode="edge"))
    drawn = uniform(seed, _CAPTION, epoch, index) * upto[captions - 1]
    caption = np.searchsorted(upto, drawn, side="right")
    keyword = uniform(seed, _KEYWORD, epoch, index) < keyword_probability
    return caption.astype(np.int64) + np.where(keyword, captions, 0)
