import shutil

import pytest

from tests.faults.driver import Life
from tests.faults.nursery import Nursery, digest


@pytest.fixture(scope="session")
def nursery(tmp_path_factory):
    with Nursery(tmp_path_factory.mktemp("xla")) as nursery:
        yield nursery


class Straight:
    """Runs that nobody disturbed, one for each kind of life, trained when first asked for."""

    def __init__(self, nursery, folder):
        self._nursery, self._folder = nursery, folder
        self._done = {}

    def __call__(self, **options):
        """(root, digest) of an undisturbed run."""
        key = str(sorted(options.items()))
        if key not in self._done:
            root = self._folder / str(len(self._done))
            life = Life(str(root), f"{root}.log", **options)
            assert self._nursery.run(life) == 0, (self._folder / f"{root.name}.log").read_text()[-3000:]
            self._done[key] = root, digest(root, life.stage)
        return self._done[key]


@pytest.fixture(scope="session")
def straight(nursery, tmp_path_factory):
    return Straight(nursery, tmp_path_factory.mktemp("straight"))


@pytest.fixture
def fresh(straight, tmp_path):
    """``fresh(name)``: a run directory with a tokenizer and nothing else."""

    def make(name="run"):
        root = tmp_path / name
        root.mkdir()
        shutil.copy(straight(steps=24)[0] / "tokenizer.model", root)
        return root

    return make
