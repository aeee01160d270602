"""The list of examples that a training could not use, and whose place others took.

``RUN/<stage>/unusable-<process>.jsonl`` has a line for each, once: ``index``, ``dataset``, ``key``, ``reason``.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from t2i_jax.data.mixture import Examples, named, part_at
from t2i_jax.training.appender import Appender

UNUSABLE = "examples_unusable"
"""What is counted."""


class Unusable:
    """Writes down what it is told of."""

    def __init__(self, path: Path, dataset: Examples):
        self._path, self._dataset = path, dataset
        self._known = set(_listed(path))
        self._file: Appender | None = None
        self._met = 0
        self._say: Callable[[str], None] = print
        self._count: Callable[[str, int], None] = lambda name, times: None

    def tell(self, say: Callable[[str], None], count: Callable[[str, int], None]) -> None:
        """From now on say what is met by ``say``, and count it, with what was met before, by ``count(name, times)``."""
        self._say, self._count = say, count
        count(UNUSABLE, self._met)

    def __call__(self, found: Mapping[int, str]) -> None:
        """Take the unusable examples that a batch ran into, with the reason for each; known ones are passed over."""
        new = {index: reason for index, reason in sorted(found.items()) if index not in self._known}
        if not new:
            return
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = Appender(self._path)
            if self._path.read_bytes()[-1:] not in (b"", b"\n"):
                self._file.write(b"\n")
        for index, reason in new.items():
            (record,) = self._dataset.records([index])
            where = named(part_at(self._dataset, index))
            line = {"index": index, "dataset": where, "key": record["key"], "reason": reason}
            self._file.write(json.dumps(line).encode() + b"\n")
        self._known |= new.keys()
        self._met += len(new)
        self._count(UNUSABLE, len(new))
        reasons = ", ".join(f"{count} × {reason}" for reason, count in Counter(new.values()).most_common())
        self._say(f"{len(new)} examples can't be used ({reasons}) and others take their place; listed in {self._path}")


def _listed(path: Path) -> Iterator[int]:
    """Indices of the examples in such a file; what a power loss left of a line is passed over."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    for line in text.split("\n"):  # in files of older versions a key may hold U+2028
        try:
            index = json.loads(line)["index"]
        except (ValueError, LookupError, TypeError):
            continue
        yield index
