"""What a config file returns: everything that decides a training, as one frozen dataclass.

    def config() -> Experiment:
        return Experiment(
            stage=Decoder(model=MMDiT(width=384, depth=12, heads=6)),
            data=Data(dataset="emoji64", batch=256),
            optimizer=AdamW(learning_rate=1e-3, schedule=Cosine(warmup=500)),
            steps=20_000,
        )

``tyro.cli(Experiment, default=config())`` gives every field below as a typed command-line option.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

from t2i_jax.data import Data
from t2i_jax.parallel.mesh import Mesh
from t2i_jax.stages.base import Stage
from t2i_jax.training.optimizer import AdamW, Optimizer

DTYPES = ("float32", "bfloat16", "float16")


def check_seed(seed: int) -> None:
    """Raise ValueError for a seed that JAX would take for another one."""
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed={seed}: give a whole number from 0 to {2**32 - 1}")


def _check(values: Any, where: str, **least: int) -> None:
    """Raise ValueError for a field that is less than what is named for it."""
    for name, bound in least.items():
        if not getattr(values, name) >= bound:  # so that NaN is refused
            raise ValueError(f"{where}{name}={getattr(values, name)}: give at least {bound}")


def _check_dtypes(value: Any, where: str) -> None:
    """Raise ValueError for a ``dtype``, in ``value`` or what it is made of, in which no model computes."""
    for f in dataclasses.fields(value):
        if f.name in ("parent", "name"):  # of a Flax module, not of the model
            continue
        item = getattr(value, f.name)
        if f.name == "dtype" and item not in DTYPES:
            raise ValueError(f"{where}.dtype={item}: a model computes in {', '.join(DTYPES)}")
        if dataclasses.is_dataclass(item) and not isinstance(item, type):
            _check_dtypes(item, f"{where}.{f.name}")


@dataclass(frozen=True)
class Checkpoints:
    """When the training state is saved. The last step is always saved."""

    every: int = 1000
    """Steps between two saves: what a killed run loses at most."""
    keep: int = 3
    """Newest checkpoints that stay on disk. Beside them at most two that a roll-back may need: the newest that `every`
    asked for, where signals asked for newer ones."""
    keep_period: int = 0
    """Of every so many steps the newest checkpoint stays for good; 0 keeps none but the newest."""
    tolerate: int = 3
    """Saves in a row that may fail (a full disk) while training goes on; one more ends it. Earlier ones stay whole."""

    def __post_init__(self):
        _check(self, "checkpoints.", every=1, keep=1, keep_period=0, tolerate=0)


@dataclass(frozen=True)
class Reports:
    """What is said while training. May differ when a run is continued."""

    every: int = 50
    """Steps between two lines of metrics."""
    preview_every: int = 1000
    """Steps between two sample sheets; 0 draws none."""
    previews: int = 16
    """Pictures on a sample sheet."""
    tensorboard: bool = True
    """Write TensorBoard event files."""
    wandb: str | None = None
    """Weights & Biases project to report to (needs the package wandb); nothing is sent unless it is named."""

    def __post_init__(self):
        _check(self, "reports.", every=1, preview_every=0, previews=min(1, self.preview_every))


@dataclass(frozen=True)
class Limits:
    """When a training that goes wrong is rolled back or ended. May differ when a run is continued."""

    nonfinite_row: int = 3
    """Steps in a row whose loss or gradient is not finite, each skipped, that roll back to the last checkpoint: one or
    two are a bad batch or an overflow, a row is a state that has gone wrong."""
    rollbacks: int = 3
    """How often a training is rolled back, with fewer than ``checkpoints.every`` finite steps between, before it ends
    with an error."""
    watchdog_s: float = 1800.0
    """Seconds in which a step, a save or a sample sheet must end, or the process writes its stacks and exits to be
    started again; counted from the first step on. 0 waits for ever."""

    def __post_init__(self):
        _check(self, "limits.", nonfinite_row=1, rollbacks=0, watchdog_s=0)


@dataclass(frozen=True)
class Experiment:
    """One training, completely: the same experiment on the same versions and mesh gives the same weights."""

    stage: Stage
    """What is trained: the model, its loss and its preview."""
    data: Data
    """Which examples, in which form, how many a step."""
    optimizer: Optimizer = AdamW()
    """How gradients become updates: AdamW or Muon with a schedule."""
    mesh: Mesh = Mesh()
    """How the devices are arranged."""
    steps: int = 10_000
    """Updates of the parameters in all."""
    seed: int = 0
    """Seed of the initial parameters, the data's order and all noise."""
    ema: float = 0.999
    """Decay of the averaged parameters, which are the ones in use; warmed up as min(ema, (1 + step) / (10 + step))."""
    accumulate: int = 1
    """Micro-batches that a batch is split into, one after the other, to save memory."""
    overlap: bool = False
    """Have TPUs' compiler begin all messages between chips beside other work that it can (v5e). It takes longer to
    compile, for a step from 2 % shorter to 4 % longer by the plans of the paper's sizes, and fails on some programs;
    `t2i plan` tells."""
    cache_gb: float = 16.0
    """Features of frozen stages are computed once for the whole data set where they take less disk than this, in GiB;
    larger ones are computed within every step. 0 keeps none."""
    checkpoints: Checkpoints = Checkpoints()
    """When the state is saved."""
    reports: Reports = Reports()
    """What is written while training."""
    limits: Limits = Limits()
    """When it is rolled back or ended because something goes wrong."""

    def __post_init__(self):
        _check(self, "", steps=0, accumulate=1, cache_gb=0)
        check_seed(self.seed)
        _check_dtypes(self.stage, "stage")
        if not 0 <= self.ema <= 1:
            raise ValueError(f"ema={self.ema} is the weight of what the average was: 0 to 1")
