"""The trainer: experiment, optimizer, step, checkpoints, metrics and the loop."""

from t2i_jax.training.checkpoint import EXIT_UNSAVED, SaveFailed
from t2i_jax.training.experiment import Checkpoints, Experiment, Reports
from t2i_jax.training.loop import train
from t2i_jax.training.optimizer import AdamW, Constant, Cosine, Muon, Optimizer, Schedule
from t2i_jax.training.stop import EXIT_STOPPED

__all__ = [
    "EXIT_STOPPED",
    "EXIT_UNSAVED",
    "AdamW",
    "Checkpoints",
    "Constant",
    "Cosine",
    "Experiment",
    "Muon",
    "Optimizer",
    "Reports",
    "SaveFailed",
    "Schedule",
    "train",
]
