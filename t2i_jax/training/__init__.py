"""The trainer: experiment, optimizer, step, checkpoints, metrics and the loop."""

from t2i_jax.training.alone import EXIT_AT_WORK, AtWork
from t2i_jax.training.checkpoint import EXIT_UNSAVED, SaveFailed
from t2i_jax.training.experiment import Checkpoints, Experiment, Limits, Reports
from t2i_jax.training.features import NoRoom
from t2i_jax.training.loop import train
from t2i_jax.training.nonfinite import EXIT_DIVERGED
from t2i_jax.training.optimizer import AdamW, Constant, Cosine, Muon, Optimizer, Schedule
from t2i_jax.training.stop import EXIT_STOPPED
from t2i_jax.training.watchdog import EXIT_HUNG

__all__ = [
    "EXIT_AT_WORK",
    "EXIT_DIVERGED",
    "EXIT_HUNG",
    "EXIT_STOPPED",
    "EXIT_UNSAVED",
    "AdamW",
    "AtWork",
    "Checkpoints",
    "Constant",
    "Cosine",
    "Experiment",
    "Limits",
    "Muon",
    "NoRoom",
    "Optimizer",
    "Reports",
    "SaveFailed",
    "Schedule",
    "train",
]
