"""WebDataset tars as img2dataset writes them: ``000000012.jpg``, ``000000012.txt`` and ``000000012.json`` for each
picture, side by side in ``00000.tar``, ``00001.tar`` ...

The key is a member's name up to the first dot of its last part, so a picture whose own name has a dot belongs to no
sample; it is told as missing where its key has no other. Without a .txt the caption is ``caption`` of the .json,
whose numbers (similarity, aesthetic, punsafe ...) are there to choose by. Members of other kinds are passed over; none
is ever unpickled or extracted.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from etils import epath

from t2i_jax.data.pictures import SUFFIXES, BadPicture
from t2i_jax.data.sources import raw
from t2i_jax.data.sources.tar import Bad, members

_TEXTS = ("txt", "caption", "text")


@dataclass
class _Sample:
    """What has been seen of one key."""

    key: str
    image: bytes = b""
    text: bytes = b""
    json: bytes = b""
    found: Counter = field(default_factory=Counter)


@dataclass(frozen=True)
class WebDataset(raw.Source):
    """A tar, or a folder of them, sorted by name; each is one piece of work. The split is what a tar's name ends in
    ("things-val-000.tar" has none), or its folder's, else "train"."""

    path: epath.Path

    def units(self) -> Iterator[raw.Unit]:
        names = raw.files_below(self.path) if self.path.is_dir() else [""]
        yield from (raw.Unit(name) for name in names if not name or name.endswith(".tar"))

    def read(self, unit: raw.Unit) -> Iterator[raw.Found]:
        path = self.path / unit.path
        name = unit.path or path.name
        # keys repeat from tar to tar where they were not made by img2dataset
        prefix, split = name.removesuffix(".tar"), raw.split_of(name)
        sample, others = None, {}

        def wanted(member: str) -> int:
            key, kind = _parts(member)
            if "." in kind and f".{kind.rpartition('.')[2]}" in SUFFIXES:
                others.setdefault(key, kind)
            return _most(kind)

        with path.open("rb") as file:
            for member in members(file, wanted):
                if isinstance(member, Bad):
                    yield f"{name}: {member.name[:200]}", member.error
                    if not member.name:
                        continue
                key, kind = _parts(member.name)
                if sample is None or key != sample.key:
                    if sample:
                        yield from _finished(sample, others.pop(sample.key, ""), name, prefix, split)
                    sample = _Sample(key)
                slot = "image" if f".{kind}" in SUFFIXES else "json" if kind == "json" else "text"
                if isinstance(member, Bad):
                    sample.found["bad"] += 1
                elif not sample.found[slot]:
                    setattr(sample, slot, member.data)
                    sample.found[slot] += 1
        if sample:
            yield from _finished(sample, others.pop(sample.key, ""), name, prefix, split)
        for key, kind in others.items():  # of keys that have nothing else
            yield from _finished(_Sample(key), kind, name, prefix, split)


def _parts(name: str) -> tuple[str, str]:
    folder, slash, last = name.rpartition("/")
    stem, _, kind = last.partition(".")
    return folder + slash + stem, kind.lower()


def _most(kind: str) -> int:
    return raw.MAX_BYTES if f".{kind}" in SUFFIXES else raw.MAX_TEXT if kind in ("json", *_TEXTS) else 0


def _finished(sample: _Sample, other: str, tar: str, prefix: str, split: str) -> Iterator[raw.Found]:
    """The picture of a sample, unless a member of it was told as bad already. ``other``: what follows the key in the
    name of a picture that is another view (``seg.png``), or whose name has a dot."""
    if sample.found["bad"]:
        return
    where = f"{tar}: {sample.key[:200]}"
    try:
        if not sample.found["image"]:
            also = f": a name ends at its first dot, here before {other}" if other else ""
            raise BadPicture("missing picture", f"none of its members is a picture{also}")
        if not sample.found["text"] and not sample.found["json"]:
            raise BadPicture("missing caption", "none of its members is a .txt or .json")
        row = raw.as_json(sample.json) if sample.found["json"] else {}
        captions = [raw.as_text(sample.text)] if sample.found["text"] else raw.captions_in(row)
        more, scores = raw.texts_in(row), raw.scores_in(row)
        yield where, raw.Raw(f"{prefix}/{sample.key}", split, sample.image, captions, more, scores)
    except BadPicture as error:
        yield where, error
