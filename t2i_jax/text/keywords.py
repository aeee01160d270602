"""A caption's keyword form: words cut out, stop words dropped, the rest in order.

    keywords("a red apple on the table")  ->  "red apple table"

Training on both forms lets a model serve users who type sentences and users who type tags. Words that change the
picture are never dropped: negation (no, without), place (under, between, left) and number (two, pair), and no word that
names a thing in another language (die). A symbol, such as an emoji, is a word.

Scripts without spaces are cut where the script changes (kanji | kana | Latin), which is where Japanese words mostly
end, and Chinese runs at the particles 的 and 了; a dictionary segmenter would do better and is not worth a dependency.
"""

import re
import sys
import unicodedata
from functools import cache

from t2i_jax.text.normalize import normalize

STOP_WORDS = frozenset(
    """a an the this that these those its it's his her their our your my of with and or as by for from to in on at
    is are was were be been being am has have had having do does did it he she they we you i me him them who which
    what there here some any each such very just also so than then into onto
    der das ein eine und mit von im le la les un une des du de et avec el los las una y con il lo gli e con
    の は が を に で と も へ や か な だ です ます 的 了 和 与 及""".split()
)
_CHINESE_PARTICLES = re.compile("[的了]")


_CJK = r"\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_PLAIN = re.compile(r"[^\W_]+(?:['-][^\W_]+)*", re.ASCII)


@cache
def _word() -> re.Pattern:
    """A word of a caption. Vowel signs and accents that stand alone belong to the letter before them."""
    marks, symbols = _class_of("Mn", "Mc", "Me"), _class_of("So")
    letter = rf"(?:(?![{_CJK}])[^\W_][{marks}]*)"
    return re.compile(
        rf"""[\u3400-\u9fff\uf900-\ufaff]+ | [\u3040-\u309f]+ | [\u30a0-\u30ff]+
        | {letter}+(?:['’\u200d\u200c-]{letter}+)* | [{symbols}][{symbols}{marks}\u200d\U0001f3fb-\U0001f3ff]*""",
        re.VERBOSE,
    )


def _class_of(*categories: str) -> str:
    """All characters of these categories, as ranges: a class of thousands of single ones is slow."""
    points = [point for point in range(sys.maxunicode + 1) if unicodedata.category(chr(point)) in categories]
    firsts = [point for before, point in zip([-2, *points], points) if point != before + 1]
    lasts = [point for point, after in zip(points, [*points[1:], -2]) if after != point + 1]
    return "".join(rf"\U{first:08x}-\U{last:08x}" for first, last in zip(firsts, lasts))


def keywords(text: str) -> str:
    """The keywords of ``text``, normalised, each once; ``text`` itself where nothing but stop words is in it."""
    text = normalize(text)
    found = (_PLAIN if text.isascii() else _word()).findall(text)
    words = (part for word in found for part in _CHINESE_PARTICLES.split(word) if part)
    kept: dict[str, str] = {}
    for word in words:
        if word.lower() not in STOP_WORDS:
            kept.setdefault(word.lower(), word)
    return " ".join(kept.values()) or text
