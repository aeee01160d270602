"""Caption to tokens: normalise, optionally reduce to keywords, encode with SentencePiece."""

from t2i_jax.text.keywords import keywords
from t2i_jax.text.normalize import fold, normalize
from t2i_jax.text.tokenizer import Tokenizer

__all__ = ["Tokenizer", "fold", "keywords", "normalize"]
