"""SentencePiece tokenizer: unigram pieces with byte fallback, so that no string is out of vocabulary.

    tokenizer = Tokenizer.train(captions, "RUN/tokenizer.model", vocab=3072)
    tokenizer(["a red apple", "two dogs"], context=24)      # int32 [2, 24]: bos ... eos pad pad
    tokenizer.decode(tokenizer.encode("Ā̈ 🍎"))               # the same string

Two doors: ``encode``/``decode`` are exact inverses for every string of Unicode characters (a lone surrogate is no
character and becomes U+FFFD), while calling the tokenizer gives what a model reads: case-folded, normalised, framed
and cut to the context. Unigram pieces: Kudo 2018, "Subword Regularization"; SentencePiece: Kudo and Richardson 2018.
"""

import hashlib
import io
import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import sentencepiece

from t2i_jax.text.normalize import fold

# transformers' CLIP reads eos_token_id == 2 as "an old checkpoint, pool at the highest id": eos must not be 2.
PAD, EOS, BOS, UNKNOWN = range(4)
_SPACE_MARK = "\u2581"  # how SentencePiece writes a space; a text that holds the mark itself goes through as bytes
_SURROGATES = re.compile("[\ud800-\udfff]")
_SMALLEST = 4 + 256
_LONGEST_PIECE, _WORDS, _CANDIDATES = 16, 100_000, 1_000_000


class Tokenizer:
    """A trained SentencePiece model. ``pad``, ``bos``, ``eos`` are token ids, ``vocab`` their number."""

    pad, bos, eos = PAD, BOS, EOS

    def __init__(self, model: bytes):
        """From the bytes of a model file. Raises ValueError for anything that ``train`` did not write."""
        try:
            self._pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
        except RuntimeError as error:
            raise ValueError(f"not a SentencePiece model ({len(model)} bytes): {error}") from error
        found = tuple(getattr(self._pieces, f"{name}_id")() for name in ("pad", "eos", "bos", "unk"))
        if found != (PAD, EOS, BOS, UNKNOWN) or self._pieces.piece_to_id("<0x00>") == UNKNOWN:
            raise ValueError(
                f"the SentencePiece model has pad, eos, bos, unk = {found} or no byte pieces; "
                f"expected {(PAD, EOS, BOS, UNKNOWN)} with byte fallback. Train one with `t2i data tokenizer`."
            )
        self.model = model
        self._first_byte = self._pieces.piece_to_id("<0x00>")

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """Raises FileNotFoundError with the fix where there is no such file."""
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"no tokenizer at {path}: make one with `t2i data tokenizer DATASET --out {path}`")
        return cls(path.read_bytes())

    @classmethod
    def train(cls, captions: Iterable[str], path: str | Path | None = None, vocab: int = 3072) -> "Tokenizer":
        """Train on captions (folded first), the same bytes for the same captions; save to ``path`` if given.

        ``vocab`` is an upper bound: few captions give fewer pieces. 260 of it are bytes and marks. Raises ValueError
        where there are no captions or ``vocab`` can't hold the bytes and the captions' characters.
        """
        lines = [line for line in map(fold, captions) if line]
        if not lines:
            raise ValueError("no captions to train a tokenizer on: all are empty")
        if vocab <= _SMALLEST:
            raise ValueError(f"vocab={vocab} leaves no piece beside the 256 bytes and 4 marks; give at least 512")
        out = io.BytesIO()
        seeds = tempfile.NamedTemporaryFile("w", suffix=".tsv", encoding="utf-8")  # noqa: SIM115  closed below
        try:
            seeds.writelines(f"{piece}\t{count}\n" for piece, count in candidates(lines))
            seeds.flush()
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(lines),
                seed_sentencepieces_file=seeds.name,
                model_writer=out,
                model_type="unigram",
                vocab_size=vocab,
                hard_vocab_limit=False,
                byte_fallback=True,
                character_coverage=0.9995,
                normalization_rule_name="identity",
                remove_extra_whitespaces=False,
                max_sentence_length=1 << 16,
                pad_id=PAD,
                eos_id=EOS,
                bos_id=BOS,
                unk_id=UNKNOWN,
                num_threads=1,
                shuffle_input_sentence=False,
                minloglevel=2,
            )
        except RuntimeError as error:
            characters = len(set("".join(lines)))
            raise ValueError(
                f"vocab={vocab} is too small for {characters} distinct characters beside 260 bytes and marks; "
                f"give at least {_SMALLEST + 2 * characters} (SentencePiece says: {error})"
            ) from error
        finally:
            seeds.close()
        tokenizer = cls(_without_path(out.getvalue()))
        if path is not None:
            tokenizer.save(path)
        return tokenizer

    @property
    def vocab(self) -> int:
        """Number of token ids."""
        return self._pieces.get_piece_size()

    @property
    def digest(self) -> str:
        """SHA-256 of the model file, hexadecimal."""
        return hashlib.sha256(self.model).hexdigest()

    def save(self, path: str | Path) -> None:
        """Write the model file, with its folder; whole or not at all."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.{os.getpid()}.part")  # stages that train side by side both write it
        part.write_bytes(self.model)
        part.replace(path)

    def encode(self, text: str) -> list[int]:
        """Ids of ``text`` as it stands: no normalisation, no marks around it."""
        text = _SURROGATES.sub("\ufffd", text)
        if _SPACE_MARK in text:
            return [self._first_byte + byte for byte in text.encode()]
        return self._pieces.encode(text)

    def decode(self, ids: Iterable) -> str:
        """The text of ``ids``; pad, bos and eos vanish, bytes that are no UTF-8 become U+FFFD."""
        return self._pieces.decode([int(i) for i in ids])

    def __call__(self, texts: Sequence[str], context: int) -> np.ndarray:
        """What a model reads: folded texts as int32 [n, context]: bos, pieces, eos, then pad.

        A text of more than ``context - 2`` pieces is cut and keeps its eos; ``lengths`` tells beforehand.
        """
        if context < 3:
            raise ValueError(f"context={context} holds no piece between bos and eos; give at least 3")
        tokens = np.full((len(texts), context), PAD, np.int32)
        for row, pieces in zip(tokens, self._encoded(texts)):
            pieces = pieces[: context - 2]
            row[: len(pieces) + 2] = [BOS, *pieces, EOS]
        return tokens

    def lengths(self, texts: Sequence[str]) -> np.ndarray:
        """How long a context each text fills, bos and eos counted: int32 [n]."""
        return np.array([len(pieces) + 2 for pieces in self._encoded(texts)], np.int32)

    def _encoded(self, texts: Sequence[str]) -> list[list[int]]:
        """Pieces of folded texts. One by one: of a list SentencePiece makes threads, for which it waits with Python's
        lock in hand, and takes twice as long even where it has the cores."""
        return [self._pieces.encode(self._folded(text)) for text in texts]

    @staticmethod
    def _folded(text: str) -> str:
        return fold(text.replace(_SPACE_MARK, " "))


def _without_path(model: bytes) -> bytes:
    """The model without the name of the file that its candidates came from: the same captions, the same bytes."""
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto.FromString(model)
    proto.trainer_spec.ClearField("seed_sentencepieces_file")
    return proto.SerializeToString(deterministic=True)


def candidates(lines: Sequence[str]) -> list[tuple[str, int]]:
    """The pieces that training chooses from, with how often each occurs, the most promising (count × length) first.

    SentencePiece's own candidates are substrings of at least two *different* words, so a word that stands in every
    caption but within no other word ("noto" in "whale, noto style") falls to bits. Here the occurrences count.
    """
    words = Counter(_SPACE_MARK + word for line in lines for word in line.split()).most_common(_WORDS)
    found: Counter[str] = Counter()
    for word, count in words:
        word = word[: 4 * _LONGEST_PIECE]
        for start in range(len(word)):
            for end in range(start + 1, min(len(word), start + _LONGEST_PIECE) + 1):
                found[word[start:end]] += count
    kept = [(piece, n) for piece, n in found.items() if len(piece) == 1 or n > 1]
    return sorted(kept, key=lambda item: (-item[1] * len(item[0]), item[0]))[:_CANDIDATES]
