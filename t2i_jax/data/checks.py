"""What is asked of a data set before and while it is read: captions that fit, few bad examples."""

from collections import Counter

import numpy as np

from t2i_jax.data.dataset import Dataset
from t2i_jax.data.settings import Data
from t2i_jax.text.tokenizer import Tokenizer


def fits_memory(data: Data, dataset: Dataset) -> bool:
    """Whether the split is kept decoded in memory."""
    return len(dataset) * data.image_size**2 * 3 <= data.memory_gb * 2**30


def check_captions(data: Data, rows: list[list[str]], tokenizer: Tokenizer) -> None:
    """Raise ValueError, with the fix, where captions (a list for each example) don't fit the context."""
    if data.truncate:
        return
    texts = [caption for captions in rows for caption in captions]
    lengths = tokenizer.lengths(texts)
    if (lengths > data.context).any():
        longest = texts[int(lengths.argmax())]
        raise ValueError(
            f"{(lengths > data.context).mean():.1%} of the captions of {data.dataset} {data.split} are longer than "
            f"data.context={data.context} tokens; the longest has {lengths.max()}: {longest[:80]!r}. Set data.context "
            f"to {lengths.max()} (99% need {int(np.percentile(lengths, 99))}), or data.truncate to cut them."
        )


def check_bad(data: Data, bad: Counter, of: int) -> None:
    """Raise ValueError with a report where more examples than ``data.max_bad`` of ``of`` are unusable."""
    if bad.total() > data.max_bad * of:
        reasons = ", ".join(f"{count} × {reason}" for reason, count in bad.most_common())
        raise ValueError(
            f"{bad.total()} of {of} examples of {data.dataset} {data.split} are unusable ({reasons}), more than "
            f"data.max_bad={data.max_bad}. Build the data set anew with `t2i data build`, or raise data.max_bad."
        )
