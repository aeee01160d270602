"""One spelling for captions that read the same.

``normalize`` keeps the case (it is what is shown beside a picture), ``fold`` drops it (it is what a model reads, in
training and in use alike). Both are idempotent and total: any Python string goes in, a string that UTF-8 can hold
comes out.

The rules, in order:

1. a lone surrogate, which is no character, becomes U+FFFD;
2. control characters (Cc) and separators (Z*) become spaces;
3. format characters (Cf: byte order marks, soft hyphens, direction marks) go, except the joiners U+200C and U+200D
   and the tag characters, which change what Persian, Indic scripts and emoji sequences show;
4. Unicode compatibility composition, NFKC (Unicode Standard Annex 15);
5. runs of white space become one space, none at the ends.
"""

import unicodedata

_KEPT_FORMATS = {0x200C, 0x200D, *range(0xE0020, 0xE0080)}


def _clean(character: str) -> str:
    category = unicodedata.category(character)
    if category == "Cs":
        return "\ufffd"
    if category == "Cc" or category[0] == "Z":
        return " "
    if category == "Cf" and ord(character) not in _KEPT_FORMATS:
        return ""
    return character


def normalize(text: str) -> str:
    """``text`` in NFKC, without control characters, with single spaces. Never fails; may return the empty string."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", "".join(map(_clean, text)))
    elif not text.isprintable():
        text = "".join(map(_clean, text))
    return " ".join(text.split())


def fold(text: str) -> str:
    """``normalize(text)`` in lower case: "A Red Apple" and "a red apple" are the same wish."""
    return normalize(normalize(text).lower())
