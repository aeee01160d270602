"""The directory that a training writes, and the check that it belongs to the experiment.

    RUN/tokenizer.model               one for the whole cascade
    RUN/cache/<key>/                  features of frozen stages
    RUN/<stage>/lock                  held while a training is at work there
    RUN/<stage>/config.json           the experiment
    RUN/<stage>/checkpoints/<step>/   train, ema, meta
    RUN/<stage>/metrics.jsonl         one JSON object a line
    RUN/<stage>/nonfinite.jsonl       steps that were skipped, with their examples, and roll-backs
    RUN/<stage>/unusable-<process>.jsonl  examples that could not be used
    RUN/<stage>/goodput.json          where the wall time went
    RUN/<stage>/stacks-<process>.txt  where a process hung
    RUN/<stage>/samples/<step>.png    sample sheets
    RUN/<stage>/tensorboard/          event files
"""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from t2i_jax.training.experiment import Experiment
from t2i_jax.training.manifest import sync
from t2i_jax.training.serialize import ConfigError, decode, differences, encode

SAMPLING = ("stage.sampler", "stage.guidance", "stage.image_guidance")
"""Fields of a stage that say how it is sampled, which its training never asks."""
FREE = (
    "steps", "mesh", "overlap", "cache_gb", "checkpoints", "reports", "limits", "data.memory_gb", "data.max_bad",
    *SAMPLING,
)  # fmt: skip
"""Fields of an experiment that may differ when a run is continued: they change nothing of what was already learnt. So
may the places of the data (``data.dataset``), whose content is compared by its digest."""
FREE_OF_MODELS = ("remat", "unroll")
"""Fields of a model of which the same is true: how it is computed."""


@dataclass(frozen=True)
class Run:
    """Paths of one stage in a cascade's run directory."""

    root: Path
    """The cascade's directory, RUN."""
    stage: str
    """The stage's name."""

    def __post_init__(self):
        if self.root.parts[:1] and self.root.parts[0].endswith(":"):  # what Path makes of gs://bucket
            raise ConfigError(
                f"--run {self.root}: a run is a directory that this machine sees. Mount the bucket (gcsfuse, for one) "
                "and name the place where it is mounted."
            )

    @property
    def directory(self) -> Path:
        return self.root / self.stage

    @property
    def lock(self) -> Path:
        return self.directory / "lock"

    @property
    def config(self) -> Path:
        return self.directory / "config.json"

    @property
    def checkpoints(self) -> Path:
        return self.directory / "checkpoints"

    @property
    def metrics(self) -> Path:
        return self.directory / "metrics.jsonl"

    @property
    def nonfinite(self) -> Path:
        return self.directory / "nonfinite.jsonl"

    @property
    def goodput(self) -> Path:
        return self.directory / "goodput.json"

    def unusable(self, process: int) -> Path:
        return self.directory / f"unusable-{process}.jsonl"

    def stacks(self, process: int) -> Path:
        return self.directory / f"stacks-{process}.txt"

    @property
    def samples(self) -> Path:
        return self.directory / "samples"

    @property
    def tensorboard(self) -> Path:
        return self.directory / "tensorboard"

    @property
    def tokenizer(self) -> Path:
        return self.root / "tokenizer.model"

    @property
    def draft(self) -> Path:
        """Where the first process puts a new tokenizer for the others to read."""
        return self.directory / "tokenizer.draft"

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    def check(self, experiment: Experiment) -> None:
        """Raise ConfigError, listing every differing field with both values, if another experiment was trained here.

        Fields in FREE and FREE_OF_MODELS may differ. A directory without a checkpoint or config belongs to nobody yet.
        """
        if self.config.exists() and any(self.checkpoints.glob("[0-9]*")):
            self.check_config(_parse(self.config), experiment)

    def check_config(self, old: dict[str, Any], experiment: Experiment) -> None:
        """As ``check``, for a config that was read elsewhere, such as in a checkpoint."""
        self._compare(differences(_current(old), encode(experiment)), FREE, "another experiment")

    def check_sources(self, old: dict[str, str], new: dict[str, str]) -> None:
        """Raise ConfigError if the data, the tokenizer or a frozen stage is not what the checkpoint was trained on."""
        self._compare(differences(old, new), (), "a training on other inputs")

    def write(self, experiment: Experiment) -> None:
        """Write the experiment's config."""
        self.directory.mkdir(parents=True, exist_ok=True)
        text = json.dumps(encode(experiment), indent=1) + "\n"
        if not self.config.exists() or self.config.read_text() != text:  # a full disk has no room for the same again
            write_whole(self.config, text)

    def _compare(self, changes: Iterable[tuple[str, Any, Any]], free: tuple[str, ...], owner: str) -> None:
        changed = [
            f"  {name}: {json.dumps(old)} -> {json.dumps(now)}"
            for name, old, now in changes
            if not any(f"{name}.".startswith(f"{one}.") for one in free)
            if not (name.startswith("stage.") and set(FREE_OF_MODELS) & set(name.split(".")))
            if not (name == "data.dataset" and _shares(old) == _shares(now))
        ]
        if changed:
            raise ConfigError(
                f"{self.directory} belongs to {owner}. These differ (there -> now):\n"
                + "\n".join(changed)
                + f"\nPut the old values back to continue it, train into another run directory, or delete "
                f"{self.directory} to start over."
            )


def read_experiment(stage_dir: str | Path, classes: tuple[type, ...] = ()) -> Experiment:
    """The experiment that ``RUN/<stage>`` was trained by.

    ``classes``: config classes from outside t2i_jax that may be built. Raises FileNotFoundError or ConfigError.
    """
    path = Path(stage_dir) / "config.json"
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: {stage_dir} is not the directory of a trained stage")
    experiment = decode(_parse(path), classes)
    if not isinstance(experiment, Experiment):
        raise ConfigError(f"{path} holds a {type(experiment).__name__}, not an experiment")
    return experiment


def write_whole(path: Path, text: str, lasting: bool = True) -> None:
    """Write a file so that no reader ever sees half of it; ``lasting``: nor does one after a power loss."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w") as file:
        file.write(text)
        if lasting:
            file.flush()
            sync(file.fileno())
    os.replace(partial, path)


def make_folder(path: str | Path) -> None:
    """Make a folder that will be written into, with those above it, before the work for it is done.

    Raises ValueError where a file is in the way or the right is missing.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise ValueError(f"{path} can't be made a folder ({error.strerror}): name another place to write to") from error
    if not os.access(path, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
        raise ValueError(f"{path} is a folder that can't be written to (no permission): name another one, or change it")


def _shares(dataset: Any) -> list[float]:
    """Shares of the data sets that an encoded ``data.dataset`` names."""
    return [share for _, share in dataset] if isinstance(dataset, list) else [1.0]


def _current(data: dict) -> dict:
    """A config in today's fields: a field that is new since it was written counts as its default."""
    try:
        return encode(decode(data))
    except ConfigError:
        return data


def _parse(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ConfigError(f"{path} is not valid JSON ({error}); restore it or delete {path.parent}") from error
