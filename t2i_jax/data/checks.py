"""What is asked of a data set before and while it is read: captions that fit, few bad examples."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from t2i_jax.data.deal import Deal
from t2i_jax.data.mixture import Examples, named, part_at, parts_of, title
from t2i_jax.data.settings import Data
from t2i_jax.text.tokenizer import Tokenizer


def fits_memory(data: Data, dataset: Examples, deal: Deal) -> bool:
    """Whether the examples are kept decoded in memory."""
    counts = [len(dataset) if members is None else len(members) for members in deal.members]
    return sum(n * h * w * 3 for n, (h, w) in zip(counts, deal.shapes)) <= data.memory_gb * 2**30


def check_captions(
    data: Data, dataset: Examples, index: Sequence[int], rows: list[list[str]], tokenizer: Tokenizer
) -> None:
    """Raise ValueError, with the fix, where captions don't fit the context: ``rows``, a list for each of the examples
    ``index``."""
    if data.truncate:
        return
    texts = [caption for captions in rows for caption in captions]
    owner = np.repeat(np.asarray(index), [len(captions) for captions in rows])
    lengths = tokenizer.lengths(texts)
    if (lengths > data.context).any():
        worst = int(lengths.argmax())
        raise ValueError(
            f"{(lengths > data.context).mean():.1%} of the captions of {title(dataset)} are longer than "
            f"data.context={data.context} tokens; the longest has {lengths.max()}, in "
            f"{named(part_at(dataset, int(owner[worst])))}: {texts[worst][:80]!r}. Set data.context "
            f"to {lengths.max()} (99% need {int(np.percentile(lengths, 99))}), or data.truncate to cut them."
        )


class TooManyBad(ValueError):
    """More examples are unusable than ``data.max_bad`` allows; the message is a report."""


def check_bad(data: Data, dataset: Examples, bad: Mapping[int, str], of: int, least: int = 0) -> None:
    """Raise TooManyBad with a report where more examples than ``data.max_bad`` of ``of``, or of ``least`` where that is
    more, are unusable. ``bad``: the reasons by example."""
    if len(bad) <= data.max_bad * max(of, least):
        return
    several = len(parts_of(dataset)) > 1
    where = lambda index: f" in {named(part_at(dataset, index))}" if several else ""
    counted = Counter(f"{reason}{where(index)}" for index, reason in bad.items())
    reasons = ", ".join(f"{count} × {reason}" for reason, count in counted.most_common())
    raise TooManyBad(
        f"{len(bad)} of {of} examples of {title(dataset)} are unusable ({reasons}), more than "
        f"data.max_bad={data.max_bad}. Raise data.max_bad to go on, or begin a new run on data that `t2i data build` "
        "made anew."
    )
